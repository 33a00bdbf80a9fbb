"""What the auditor reads of a record agrees with what was written, by other code."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import agents.audit
from agents.audit.auditor import CUT_BELOW_BYTES
from agents.audit.facts import (
    CHECKSUM,
    RECORDS,
    WINDOWS,
    Reading,
    Row,
    audited,
    event_id_of,
    id_hash,
    same_checksum,
    total,
)
from agents.audit.marks import (
    Account,
    Origin,
    read_account,
    read_made,
    read_origin,
    read_since,
)
from agents.audit.since import EVER, NEVER, Since, since_of
from agents.log_events.agent import log_events_agent
from agents.normalise.step import normalise_step
from agents.windows.agent import windows_agent
from agents.windows.repartition import encode_partial
from app.engine.batch import RecordBatch
from app.engine.changelog import row_record_key
from app.engine.chunks import Chunk, LaneMark, encode_chunk
from app.engine.counts import Counts, encode_metadata
from app.engine.declared import fingerprint
from app.engine.driver import Driver
from app.engine.effects import Late, Reject
from app.engine.epoch import TaskId
from app.engine.lanes import Lane, Lanes
from app.engine.side_outputs import dead_letter, late_record
from tables.windows.keys import row_key
from tables.windows.spec import WINDOWS_MAX, ErrorsWhen, WindowSpec
from tables.windows.stats import WindowAggregate, WindowStats
from tables.windows.where import Condition
from tests.windows.driver import event
from tests.windows.world import World

SPEC = WindowSpec(
    name="requests_per_endpoint",
    topic="log-events",
    kind="tumbling",
    size_ms=60_000,
    grace_ms=30_000,
    key="endpoint",
    value="latency_ms",
    errors=ErrorsWhen(500),
)
RECORD_BYTES_MAX = 1 << 21
READING = Reading(audited((SPEC,), ()).windows, RECORD_BYTES_MAX - CUT_BELOW_BYTES)
NOW = 1_790_000_000_000

ids = st.one_of(
    st.none(),
    st.uuids().map(str),
    st.uuids().map(lambda u: str(u).upper()),
    st.uuids().map(lambda u: u.hex),
    st.text(max_size=40),
    st.integers(),
)
shipped = st.fixed_dictionaries(
    {"source": st.just("shop"), "message": st.just("m")},
    optional={"event_id": ids, "eventId": ids, "id": ids, "endpoint": st.just("/a")},
)
records = st.one_of(
    st.none(), st.binary(max_size=20), shipped.map(lambda e: json.dumps(e).encode())
)
counts = st.integers(0, 1 << 31)


def batch_of(value: bytes | None, offset: int = 7) -> RecordBatch:
    return RecordBatch("application-logs", 3, [offset], [NOW], [b"k"], [value], [[]])


@given(records, st.integers(0, 1 << 40))
def test_the_id_of_a_record_is_that_of_the_event_made_of_it(value: bytes | None, offset: int):
    effects = normalise_step("log-events")(batch_of(value, offset), None, NOW)  # type: ignore[arg-type]
    record = READING.shipped("application-logs", 3, offset, value)
    for output in effects.outputs:
        event_id = json.loads(output.value or b"")["event_id"]
        assert event_id_of("application-logs", 3, offset, value) == event_id
        event = READING.event(output.value)
        assert event[CHECKSUM] == record[CHECKSUM] == id_hash(event_id)
        assert read_made(dict(output.headers)) == Origin("application-logs", 3, offset)


@given(records, st.integers(0, 1 << 40))
def test_a_dead_letter_reads_as_the_record_it_was(value: bytes | None, offset: int):
    batch = batch_of(value, offset)
    for output in (
        dead_letter("log-events-dlq", batch, Reject(0, "no"), NOW, RECORD_BYTES_MAX),
        late_record("log-events-late", batch, Late(0, SPEC.name, 5), RECORD_BYTES_MAX),
    ):
        origin = read_origin(dict(output.headers))
        assert origin == Origin("application-logs", 3, offset)
        assert READING.shipped(origin.topic, 3, offset, output.value) == READING.shipped(
            "application-logs", 3, offset, value
        )


def test_a_dead_letter_that_was_cut_reads_as_the_record_it_was():
    padding = b" " * (RECORD_BYTES_MAX - 200)
    value = b'{"event_id": "3f2b6c1e-8d4a-4b57-9a63-0c5d1e7f2a90", "source": "s"' + padding + b"}"
    letter = dead_letter("log-events-dlq", batch_of(value), Reject(0, "no"), NOW, RECORD_BYTES_MAX)
    assert len(letter.value or b"") < len(value)
    for read in (READING.event, lambda v: READING.shipped("application-logs", 3, 7, v)):
        assert read(letter.value) == read(value)


@given(st.dictionaries(st.text(max_size=20), st.one_of(st.none(), st.binary(max_size=24))))
def test_any_headers_are_read(headers: dict[str, bytes | None]):
    names = ("original_topic", "original_partition", "original_offset")
    assert read_origin(headers) is None or set(names) <= headers.keys()


@given(st.tuples(counts, counts, counts, counts), st.integers(0, NOW))
def test_an_account_is_read_from_the_committed_metadata(
    numbers: tuple[int, int, int, int], seen: int
):
    metadata = encode_metadata(Lanes({"": Lane(seen, seen), "a-b": Lane(1, 2)}), Counts(*numbers))
    assert read_account(metadata) == Account(*numbers)
    assert Account(*numbers).records == sum(numbers)


offsets = st.integers(0, (1 << 63) - 1)


@given(st.lists(offsets, min_size=1, max_size=4), st.booleans())
def test_since_when_a_window_is_counted_is_read_as_the_engine_tells_it(
    since: list[int], another: bool
):
    specs = [replace(SPEC, name=f"window-{n}") for n in range(5)]
    told = {fingerprint(spec.identity): at for spec, at in zip(specs, since, strict=False)}
    metadata = encode_metadata(Lanes({"": Lane(1, 2)}), Counts(1), told)
    assert read_account(metadata) == Account(1, 0, 0, 0)
    windows = audited(specs[: len(since) + another], ()).windows
    assert since_of(windows, read_since(metadata)).offsets == (*since, *[NEVER] * another)
    assert since_of(windows, read_since(encode_metadata(Lanes(), Counts()))).offsets == (
        (NEVER,) * len(windows)
    )


@given(st.text())
def test_any_metadata_tells_since_when_or_nothing(metadata: str):
    for text in (metadata, f"h1|1,2,3,4||{metadata}"):
        assert all(isinstance(at, int) for at in (read_since(text) or {}).values())
    assert read_since(None) is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=4), st.integers(0, 9))
def test_a_record_counts_for_the_windows_that_were_declared_by_then(since: list[int], offset: int):
    vector = tuple(range(1, WINDOWS + 2 * len(since) + 1))
    masked = Since(tuple(since)).masked(offset, vector)
    assert masked[:WINDOWS] == vector[:WINDOWS]
    for w, at in enumerate(since):
        place = slice(WINDOWS + 2 * w, WINDOWS + 2 * w + 2)
        assert masked[place] == (vector[place] if offset >= at else (0, 0))
    assert Since(tuple(since)).masked(offset, (1, 2)) == (1, 2)
    assert EVER.masked(offset, vector) is vector


def test_one_chunk_of_an_epoch_tells_what_all_of_them_are_made_of():
    world = World((log_events_agent((SPEC,)),), {"log-events": 3, "window-partials": 2}, NOW)
    for partition, keys in ((0, ["/a", "/b", None]), (1, ["/b"] * 5), (2, [None])):
        world.put("log-events", [event(NOW, key) for key in keys], partition)
    world.put("log-events", [event(NOW - 600_000, "/b")], 0)
    for partition in range(3):
        world.pump(TaskId("log-events", partition))
    world.commit()
    told, sums = zip(
        *(READING.chunk(each.value) for each in world.topics["window-partials"]), strict=True
    )
    assert len(told) == 2
    assert [each for each in told if each] == [
        {0: (4, (0, 0, 2, 1)), 1: (5, (0, 0, 5, 0))},
    ]
    assert total(sums, READING.width) == [2, 0, 7, 1]


def test_as_many_windows_as_may_be_declared_have_room_in_the_metadata():
    specs = tuple(replace(SPEC, name=f"window_{n}") for n in range(WINDOWS_MAX))
    assert len(log_events_agent(specs).declared) == WINDOWS_MAX
    assert windows_agent(specs).declared.keys() > log_events_agent(specs).declared.keys()


@given(st.text())
def test_other_metadata_is_no_account(metadata: str):
    assert read_account(metadata) is None or metadata.startswith("h1|")
    assert read_account(None) is None


@given(st.lists(st.tuples(counts, counts), max_size=5), st.integers(0, 11))
def test_a_chunk_sums_what_its_partials_count(pairs: list[tuple[int, int]], source: int):
    partials = [
        encode_partial((SPEC.name, f"/{n}", 60_000 * n), WindowStats(count=count, late=late))
        for n, (count, late) in enumerate(pairs)
    ]
    marks = {"0/": LaneMark(NOW, NOW, idle=False)}
    counted = {SPEC.name: {source: (3, 4)}, "another": {source: (5, 6)}}
    chunk = Chunk(marks, partials, {source: 9}, counted)
    told, sums = READING.chunk(encode_chunk(chunk))
    assert told == {source: (9, (0, 0, 3, 4))}
    assert sums[WINDOWS] == sum(count for count, _ in pairs)
    assert sums[WINDOWS + 1] == sum(late for _, late in pairs)


@given(counts, counts, st.dictionaries(st.integers(0, 500), st.integers(1, 9), max_size=4))
def test_a_row_tells_its_counts(count: int, late: int, hist: dict[int, int]):
    stats = WindowStats(count=count, n=sum(hist.values()), hist=hist, late=late, lanes=("0/",))
    key = row_record_key(SPEC.identity, row_key("/a", NOW))
    assert READING.row(key, WindowAggregate().encode(stats)) == (0, Row(0, count, late))
    assert READING.row(key, None) == (0, None)
    assert READING.row(row_record_key(SPEC.identity, row_key("/a", NOW)), b"x") == (-1, None)
    assert READING.row(row_record_key("window-1-other", b"k"), b"x") is None
    assert READING.row(row_record_key("lane-mark-1", b"k"), b"x") is None


def test_panes_of_every_kind_of_window_add_up_to_its_events():
    kinds = (
        SPEC,
        replace(SPEC, name="hopping", kind="hopping", size_ms=300_000, sizes_ms=(300_000,)),
        replace(SPEC, name="trend", kind="sliding", key="service", global_row=True),
        replace(SPEC, name="filtered", where=(Condition("status", (503,)),)),
        replace(SPEC, name="by_user", key="user_id"),
    )
    reading = Reading(audited(kinds, ()).windows, RECORD_BYTES_MAX - CUT_BELOW_BYTES)
    driver = Driver(
        (log_events_agent(kinds), windows_agent(kinds)),
        {"log-events": 1, "window-partials": 2},
        NOW,
    )
    values = [
        event(NOW - 600_000 + n * 977, "/a" if n % 3 else None, service="*" if n % 2 else "shop")
        for n in range(200)
    ]
    values.append(event(NOW - 600_000, "/late"))
    driver.feed("log-events", values)
    chunks = [reading.chunk(each.value)[1] for each in driver.topics["window-partials"]]
    rows = [
        reading.row(row_record_key(spec.identity, key), spec.table().aggregate.encode(state))
        for spec in kinds
        for key, state in driver.rows("window-partials", spec.name).items()
    ]
    assert [row for row in rows if row is not None and row[1] is None] == []
    for w, spec in enumerate(kinds):
        place = WINDOWS + 2 * w
        events = sum(reading.event(value)[place] for value in values)
        counted = sum(each[place] for each in chunks)
        late = sum(each[place + 1] for each in chunks)
        kept = [row[1] for row in rows if row is not None and row[0] == w and row[1] is not None]
        assert events == counted + late, spec.name
        assert sum(row.count + row.late for row in kept) == events, spec.name
        assert (events > 0, late > 0) == ((spec.name not in ("filtered", "by_user"),) * 2)


@given(st.one_of(st.none(), st.binary()), st.one_of(st.none(), st.binary()))
def test_any_bytes_are_read_as_one_record(key: bytes | None, value: bytes | None):
    assert READING.event(value)[RECORDS] == 1
    assert READING.chunk(value)[1][RECORDS] == 1
    assert READING.row(key or b"", value) is None or key is not None


@given(st.lists(st.uuids().map(str), min_size=1, max_size=30), st.randoms())
def test_a_checksum_knows_ids_not_their_order(event_ids: list[str], draw: Any):
    shuffled = list(event_ids)
    draw.shuffle(shuffled)
    checksum = sum(map(id_hash, event_ids))
    assert same_checksum(checksum, sum(map(id_hash, shuffled)))
    assert not same_checksum(checksum, checksum - id_hash(event_ids[0]))
    assert not same_checksum(checksum, checksum + id_hash(event_ids[0]))


@pytest.mark.parametrize(
    "header",
    [None, b"", b"x", b"t/1", b"1:2", b"/1:2", b"t/x:2", b"t/1:-2", b"t/1:" + b"9" * 20, b"\xff:1"],
)
def test_what_is_written_to_log_events_by_others_is_made_of_nothing(header: bytes | None):
    assert read_made({} if header is None else {"origin": header}) is None


def test_the_auditor_imports_nothing_of_the_engine():
    folder = Path(agents.audit.__file__).parent
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("app.engine", "agents.windows")), path
