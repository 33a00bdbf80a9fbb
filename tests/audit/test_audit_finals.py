"""No window and no session is written twice in one revision: what is remembered, and how long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.audit import accounts
from agents.audit.accounts import Judge
from agents.audit.books import Books
from agents.audit.facts import Reading, audited
from agents.audit.finals import FinalsBook, final_name
from agents.audit.report import account_of
from agents.topics import SESSIONS_CLOSED, WINDOWS_FINAL
from tables.sessions.closing import closed_session, encode_closed
from tables.sessions.config import load_sessions
from tables.sessions.state import Closed
from tables.windows.finals import encode_record, window_record
from tables.windows.spec import load_windows
from tables.windows.stats import WindowStats
from tests.system.harness import CHECKOUT

CONFIG = Path(CHECKOUT) / "config"
WINDOW = load_windows(CONFIG / "windows.yaml")[0]
SESSION = load_sessions(CONFIG / "sessions.yaml")[0]
NOW = 1_790_000_000_000
HOUR_MS = 3_600_000

windows = st.tuples(st.sampled_from(["/a", "/b"]), st.integers(0, 2), st.integers(1, 3))


def window(key: str = "/a", minute: int = 0, revision: int = 1, count: int = 5) -> bytes:
    """A final as the engine writes it."""
    start_ms = NOW + 60_000 * minute
    stats = WindowStats(count=count)
    return encode_record(window_record(WINDOW, key, start_ms, stats, revision, final=True))


def session(user: str = "u", start: int = NOW, revision: int = 1) -> bytes:
    """A closed session as the engine writes it."""
    return encode_closed(closed_session(SESSION, user, Closed(start, start + 9, 3, 1, 0, revision)))


@given(st.lists(windows, max_size=30))
def test_each_final_that_was_there_before_is_counted(written: list[tuple[str, int, int]]):
    book = FinalsBook(WINDOWS_FINAL, HOUR_MS, 100)
    book.add((window(*each), NOW) for each in written)
    assert book.twice == len(written) - len(set(written))
    assert (book.foreign, book.forgotten) == (0, False)


def test_what_names_a_session_is_its_id_and_revision():
    names = [session(), session("v"), session(start=NOW + 1), session(revision=2)]
    assert len({final_name(SESSIONS_CLOSED, each) for each in names}) == 4
    longer = encode_closed(closed_session(SESSION, "u", Closed(NOW, NOW + 50, 9, 1, 0, 1)))
    assert final_name(SESSIONS_CLOSED, longer) == final_name(SESSIONS_CLOSED, session())


def test_a_window_that_counts_otherwise_in_the_same_revision_is_the_same_final():
    assert final_name(WINDOWS_FINAL, window(count=5)) == final_name(WINDOWS_FINAL, window(count=6))


def test_what_comes_again_once_its_row_is_gone_is_no_duplicate():
    book = FinalsBook(WINDOWS_FINAL, HOUR_MS, 100)
    book.add([(window(), NOW), (window(), NOW + HOUR_MS)])
    assert book.twice == 0
    book.add([(window(), NOW + 2 * HOUR_MS - 1)])
    assert (book.twice, book.forgotten) == (1, False)


def test_memory_is_bounded_and_what_it_lets_go_is_said():
    book = FinalsBook(WINDOWS_FINAL, HOUR_MS, 100)
    longest = 0
    for n in range(1_000):
        book.add([(window(minute=n), NOW + n * 1_000)])
        longest = max(longest, len(book))
    assert book.forgotten
    assert 90 <= longest <= 100
    assert book.note() == (
        "finals come faster than they can be remembered (100 of them): one that is written twice "
        "is noticed if it comes again within 1 min, not within 1h; nothing that was read is wrong"
    )
    book.add([(window(minute=999), NOW + 10**6), (window(minute=0), NOW + 10**6)])
    assert book.twice == 1


def test_what_was_let_go_is_not_spoken_of_once_it_might_come_again():
    book = FinalsBook(WINDOWS_FINAL, HOUR_MS, 10)
    book.add((window(minute=n), NOW) for n in range(11))
    assert book.forgotten
    book.add([(window(minute=99), NOW + HOUR_MS)])
    assert not book.forgotten


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, HOUR_MS // 2_000)), max_size=60),
    st.sampled_from([64, 200, 10_000]),
)
def test_ids_are_remembered_as_long_as_they_may_not_come_again(
    written: list[tuple[int, int]], most: int
):
    book, last, twice, now_ms = FinalsBook(WINDOWS_FINAL, HOUR_MS, most), dict[int, int](), 0, NOW
    for minute, later_s in written:
        now_ms += later_s * 1_000
        book.add([(window(minute=minute), now_ms)])
        if now_ms - last.get(minute, 0) < HOUR_MS:
            twice += 1
        else:
            last[minute] = now_ms
    assert book.twice == twice
    assert not book.forgotten


@pytest.mark.parametrize("topic", [WINDOWS_FINAL, SESSIONS_CLOSED])
@given(value=st.none() | st.binary(max_size=40) | st.just(b'{"id": 1}') | st.just(b"[" * 5_000))
def test_any_bytes_are_read_and_what_is_no_final_is_counted_as_such(
    topic: str, value: bytes | None
):
    book = FinalsBook(topic, HOUR_MS, 10)
    book.add([(value, NOW), (value, NOW)])
    assert (book.foreign, book.twice) == (2, 0)


def test_finals_may_come_again_after_half_of_their_retention():
    shorter = replace(SESSION, name="short", retention_ms=HOUR_MS)
    found = audited((WINDOW, replace(WINDOW, retention_ms=3 * HOUR_MS)), (SESSION, shorter))
    assert found.unique_ms == {
        WINDOWS_FINAL: WINDOW.retention_ms // 2,
        SESSIONS_CLOSED: HOUR_MS // 2,
    }


@pytest.mark.parametrize(
    ("topic", "value", "account"),
    [
        (WINDOWS_FINAL, window(), "window-partials"),
        (SESSIONS_CLOSED, session(), "session-partials"),
    ],
)
def test_a_final_written_twice_is_a_mismatch_of_the_topic_it_came_from(
    topic: str, value: bytes, account: str
):
    books, judge = Books(Reading((), 1 << 20)), Judge()
    book = books.finals[topic, 3] = FinalsBook(topic, HOUR_MS, 10)
    book.add([(value, NOW)])
    (right,) = accounts.finals(books)
    assert judge.judge(right).verdict == "balanced"
    book.add([(value, NOW + 1)])
    (wrong,) = [judge.judge(check) for check in accounts.finals(books)]
    assert (wrong.verdict, wrong.difference, account_of(wrong)) == ("mismatch", 1, account)
    assert f"{topic}/3: written twice" in wrong.sentence()
