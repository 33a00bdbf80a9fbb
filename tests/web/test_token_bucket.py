"""The ingest limit, without waiting for real time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from web.gateway.limits import WAIT_MS_MAX, TokenBucket


def test_a_burst_of_one_second_passes_at_once_and_the_next_event_waits():
    bucket = TokenBucket(100, 0)
    assert all(bucket.take(1, 0).wait_ms == 0 for _ in range(100))
    assert bucket.take(1, 0).wait_ms == 10


def test_who_would_wait_longer_than_allowed_is_refused_and_told_when_to_come_back():
    bucket = TokenBucket(100, 0)
    bucket.take(100, 0)
    bucket.take(10, 0)
    refused = bucket.take(1, 0)
    assert not refused.admitted
    assert bucket.take(1, refused.wait_ms).admitted


def test_a_refused_request_takes_nothing():
    bucket = TokenBucket(10, 0)
    bucket.take(10, 0)
    for _ in range(1_000):
        assert not bucket.take(5, 0).admitted
    assert bucket.take(5, 500).admitted


def test_a_batch_larger_than_a_second_passes_a_full_bucket_and_is_owed_afterwards():
    bucket = TokenBucket(100, 0)
    assert bucket.take(1_000, 0).admitted
    assert not bucket.take(1, 8_000).admitted
    assert bucket.take(1, 9_000).admitted


def test_a_clock_that_goes_back_gives_no_tokens():
    bucket = TokenBucket(100, 10_000)
    bucket.take(110, 10_000)
    assert not bucket.take(10, 5_000).admitted


@given(
    rate=st.integers(1, 5_000),
    asks=st.lists(st.tuples(st.integers(1, 1_000), st.integers(0, 2_000)), max_size=60),
)
def test_whatever_is_asked_the_rate_holds(rate: int, asks: list[tuple[int, int]]):
    bucket = TokenBucket(rate, 0)
    now = passed = largest = 0
    for events, later in asks:
        now += later
        admission = bucket.take(events, now)
        assert admission.wait_ms > 0 or admission.admitted
        if admission.admitted:
            assert admission.wait_ms <= WAIT_MS_MAX
            passed += events
            largest = max(largest, events)
    assert passed <= rate * (now / 1000 + 1.1) + largest
