"""What the engine writes to Kafka: chunks, changelog keys, group metadata, partitions."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.changelog import POSITION_KEY, parse_position, parse_record_key, row_record_key
from app.engine.chunks import Chunk, LaneMark, decode_chunk, encode_chunk, lane_key
from app.engine.counts import Counts, declared_in, decode_metadata, encode_metadata
from app.engine.declared import DECLARED_MAX
from app.engine.effects import Effects, Late, Reject
from app.engine.lanes import LANE_ID_MAX, LANES_MAX, LIVE, Lane, Lanes
from app.engine.membership import Membership
from app.engine.partitioner import partition_for

_MARKS = st.builds(LaneMark, st.integers(0, 2**53), st.integers(-1, 2**53), st.booleans())
_CHUNKS = st.builds(
    Chunk,
    st.dictionaries(st.text(max_size=24), _MARKS, max_size=5),
    st.lists(st.binary(max_size=50), max_size=5),
    st.dictionaries(st.integers(0, 1_000), st.integers(0, 2**53), max_size=3),
    st.dictionaries(
        st.text(max_size=9),
        st.dictionaries(st.integers(0, 9), st.tuples(st.integers(0, 99), st.integers(0, 99))),
        max_size=3,
    ),
)
_IDENTITIES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(_CHUNKS)
def test_a_chunk_round_trips(chunk: Chunk) -> None:
    assert decode_chunk(encode_chunk(chunk)) == chunk


@given(st.binary(max_size=200))
def test_garbage_is_a_chunk_or_a_decoding_error_and_nothing_else(raw: bytes) -> None:
    try:
        decode_chunk(raw)
    except msgspec.MsgspecError:
        return


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        msgspec.msgpack.encode([{}, [], {}, {}, "more"]),
        msgspec.msgpack.encode([{}]),
        msgspec.msgpack.encode([1, {}, []]),
    ],
)
def test_a_chunk_of_another_shape_is_refused(value: bytes) -> None:
    with pytest.raises(msgspec.MsgspecError):
        decode_chunk(value)


@given(_MARKS, _MARKS, _MARKS)
def test_marks_merge_in_any_order(a: LaneMark, b: LaneMark, c: LaneMark) -> None:
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    assert a.merged(a) == a


def test_lanes_of_different_sources_are_different_lanes() -> None:
    assert lane_key(1, "") != lane_key(11, "")
    assert lane_key(1, "x") != lane_key(2, "x")


@given(_IDENTITIES, st.binary(max_size=50))
def test_a_row_key_round_trips_and_is_no_position(identity: str, key: bytes) -> None:
    raw = row_record_key(identity, key)
    assert parse_record_key(raw) == (identity, key)
    assert raw != POSITION_KEY


@pytest.mark.parametrize("raw", [b"", b"no separator", POSITION_KEY, b"\0", b"\xff\xfe\0key"])
def test_a_key_that_is_no_row_is_nobodys(raw: bytes) -> None:
    assert parse_record_key(raw) is None


@given(st.integers(0, 2**63 - 1))
def test_a_position_round_trips(position: int) -> None:
    assert parse_position(b"%d" % position) == position


@pytest.mark.parametrize(
    "raw", [None, b"", b"-1", b"+1", b"1.0", b" 1", b"1_0", b"abc", b"9" * 20, b"\xb2"]
)
def test_what_is_no_position_is_none(raw: bytes | None) -> None:
    assert parse_position(raw) is None


def test_group_metadata_has_the_layout_that_librdkafka_reads() -> None:
    raw = Membership("grp", 7, "member-1").metadata()
    assert raw == b"CGMDv2:" + struct.pack("=i", 7) + b"grp\0member-1\0\x01"


@pytest.mark.parametrize(("generation", "member"), [(-1, "member"), (3, ""), (-1, "")])
def test_a_membership_that_fences_nothing_cannot_be_made(generation: int, member: str) -> None:
    with pytest.raises(ValueError, match="fence"):
        Membership("group", generation, member)


# Hashes of org.apache.kafka.common.utils.Utils.murmur2, from Kafka's own UtilsTest.
_MURMUR2 = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "hashed"), _MURMUR2.items())
@pytest.mark.parametrize("partitions", [1, 3, 12, 100])
def test_partitions_are_those_of_the_java_client(key: bytes, hashed: int, partitions: int) -> None:
    assert partition_for(key, partitions) == (hashed & 0x7FFFFFFF) % partitions


_COUNTS = st.builds(Counts, *[st.integers(0, 2**63)] * 4)


@given(
    _COUNTS, st.dictionaries(st.sampled_from(["", "a", "b-1"]), st.tuples(*[st.integers(0)] * 2))
)
def test_the_metadata_of_an_offset_round_trips(
    counts: Counts, moved: dict[str, tuple[int, int]]
) -> None:
    lanes = Lanes().advanced(moved)
    assert decode_metadata(encode_metadata(lanes, counts)) == (lanes, counts)
    assert declared_in(encode_metadata(lanes, counts)) is None


_SINCE = st.dictionaries(
    st.text("0123456789abcdef", min_size=8, max_size=8), st.integers(0, 2**63 - 1), max_size=80
)


@given(_COUNTS, st.booleans(), _SINCE.filter(bool))
def test_metadata_tells_since_when_what_is_declared_is_in_force(
    counts: Counts, idle: bool, since: dict[str, int]
) -> None:
    lanes = Lanes({"": Lane(1, 2), "a": Lane(3, 4, idle=idle)})
    text = encode_metadata(lanes, counts, since)
    assert declared_in(text) == since
    assert decode_metadata(text) == (lanes, counts)
    # A version that does not know of it takes it for part of the last lane.
    former = Lanes.decode(text.split("|", 2)[2])
    assert former == Lanes({"": Lane(1, 2), "a": Lane(3, 4)})


@pytest.mark.parametrize(
    "text", ["", "h1", "h1|", "h1|1,2,3", "h1|1,2,3|", "h1|a,b,c,d|", "h2|1,2,3,4|", ",1,2,0"]
)
def test_metadata_that_something_else_wrote_counts_as_nothing(text: str) -> None:
    assert decode_metadata(text) == (Lanes(), Counts())


@given(st.text())
def test_no_metadata_of_an_offset_fails_to_decode(text: str) -> None:
    decode_metadata(text)
    decode_metadata("h1|" + text)
    declared_in(text)
    told = declared_in("h1|1,2,3,4||" + text)
    assert told is None or len(told) <= DECLARED_MAX


def test_the_largest_metadata_is_what_kafka_accepts() -> None:
    latest, most = 253_402_300_799_999, 2**63 - 1
    names = [LIVE, *(f"{i:0{LANE_ID_MAX}d}" for i in range(LANES_MAX))]
    lanes = Lanes().advanced(dict.fromkeys(names, (latest, latest)))
    since = dict.fromkeys((f"{number:08x}" for number in range(DECLARED_MAX)), most)
    assert len(encode_metadata(lanes, Counts(most, most, most, most), since)) < 4_096


def test_counts_add_up_to_what_came_in() -> None:
    effects = Effects(
        applied=3, duplicates=2, rejects=[Reject(0, "x")], late=[Late(1, "t", 1), Late(2, "t", 1)]
    )
    counts = Counts().after(effects).after(effects)
    assert counts == Counts(applied=6, late=4, duplicate=4, rejected=2)
    assert counts.records == 16
