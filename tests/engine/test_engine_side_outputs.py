"""Dead letters and late records carry the record as it was read, and why."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.batch import header
from app.engine.effects import Late, Reject
from app.engine.side_outputs import (
    ERROR_MESSAGE_MAX,
    HEADER_KEPT_MAX,
    HEADERS_KEPT_MAX,
    KEY_KEPT_MAX,
    dead_letter,
    error_signature,
    late_record,
)
from tests.engine.rig import batch

MOST = 1 << 20

_RECORDS = dataclasses.replace(
    batch([b"one", b"\xff\x00", None], 40, partition=3, headers=(("lane", b"x"),)),
    keys=[b"k1", b"k2", None],
)


def test_a_dead_letter_is_the_record_with_its_coordinates_and_the_reason() -> None:
    letter = dead_letter(
        "dlq", _RECORDS, Reject(1, "is not JSON", "body"), now_ms=99, record_bytes_max=MOST
    )
    assert (letter.topic, letter.key, letter.value) == ("dlq", b"k2", b"\xff\x00")
    assert letter.partition is None
    assert dict(letter.headers) == {
        "lane": b"x",
        "original_topic": b"source",
        "original_partition": b"3",
        "original_offset": b"41",
        "error_type": b"VALIDATION",
        "error_signature": error_signature("VALIDATION", "body: is not JSON").encode(),
        "error_message": b"body: is not JSON",
        "attempt_count": b"1",
        "first_failure_timestamp": b"99",
        "last_failure_timestamp": b"99",
    }


def test_a_tombstone_can_be_a_dead_letter() -> None:
    letter = dead_letter(
        "dlq", _RECORDS, Reject(2, "has no value"), now_ms=1, record_bytes_max=MOST
    )
    assert (letter.key, letter.value) == (None, None)


def test_a_late_record_names_its_table_and_how_late_it_was() -> None:
    late = late_record("late", _RECORDS, Late(0, "per_minute", 1_500), MOST)
    assert (late.topic, late.key, late.value) == ("late", b"k1", b"one")
    assert header(late.headers, "table") == b"per_minute"
    assert header(late.headers, "lateness_ms") == b"1500"
    assert header(late.headers, "original_offset") == b"40"
    assert header(late.headers, "reason")


@given(st.text(), st.integers(0, 100))
def test_headers_and_message_are_bounded_whatever_came(reason: str, number: int) -> None:
    records = batch([b"x"], headers=[("h", b"v")] * number)
    letter = dead_letter("dlq", records, Reject(0, reason * 100), now_ms=1, record_bytes_max=MOST)
    kept = [name for name, _ in letter.headers if name == "h"]
    assert len(kept) == min(number, HEADERS_KEPT_MAX)
    message = header(letter.headers, "error_message")
    assert message is not None
    assert len(message) <= ERROR_MESSAGE_MAX


def test_a_reason_that_is_no_text_is_still_written() -> None:
    letter = dead_letter(
        "dlq", batch([b"x"]), Reject(0, "lone \ud800"), now_ms=1, record_bytes_max=MOST
    )
    assert header(letter.headers, "error_message") == b"lone ?"


@given(st.integers(0, 2**64), st.integers(0, 2**64))
def test_errors_that_differ_only_in_numbers_have_one_signature(a: int, b: int) -> None:
    assert error_signature("VALIDATION", f"byte {a} of 7") == error_signature(
        "VALIDATION", f"byte {b} of 12"
    )


def test_ids_do_not_split_a_signature_but_words_and_kinds_do() -> None:
    one = error_signature("VALIDATION", "event 3f2a9c7e11 is unknown")
    assert one == error_signature("VALIDATION", "event deadbeef00 is unknown")
    assert one != error_signature("PROCESSING", "event 3f2a9c7e11 is unknown")
    assert one != error_signature("VALIDATION", "event 3f2a9c7e11 is broken")
    assert len(one) == 16


@pytest.mark.parametrize("size", [MOST - 50, MOST, 3 * MOST])
def test_a_record_too_large_to_be_written_again_is_cut_and_says_so(size: int) -> None:
    records = dataclasses.replace(
        batch([b"v" * size], headers=[("n" * 5_000, b"h" * 5_000)] * 50), keys=[b"k" * 100_000]
    )
    for output in (
        dead_letter("dlq", records, Reject(0, "r" * 5_000), now_ms=1, record_bytes_max=MOST),
        late_record("late", records, Late(0, "t", 1), MOST),
    ):
        assert header(output.headers, "original_bytes") == b"%d" % size
        assert len(output.key or b"") == KEY_KEPT_MAX
        assert all(len(value) <= HEADER_KEPT_MAX for _, value in output.headers)
        total = sum(len(name) + len(value) for name, value in output.headers)
        assert len(output.value or b"") + len(output.key or b"") + total < MOST


def test_a_record_that_fits_is_not_cut() -> None:
    letter = dead_letter(
        "dlq", batch([b"v" * (MOST // 2)]), Reject(0, "x"), now_ms=1, record_bytes_max=MOST
    )
    assert letter.value == b"v" * (MOST // 2)
    assert header(letter.headers, "original_bytes") is None
