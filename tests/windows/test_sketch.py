"""The cardinality sketch: near the truth, blind to order, and careful with foreign bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tables.sketch import BYTES_MAX, estimate, merge, sketch, valid

SOME = [sketch(f"user-{i}" for i in range(n)) for n in (1, 7, 8, 100, 384, 385, 3_000)]

words = st.one_of(
    st.sets(st.text(max_size=4), max_size=12),
    st.builds(
        lambda first, count: {f"user-{i}" for i in range(first, first + count)},
        st.integers(0, 2_000),
        st.sampled_from([1, 8, 190, 384, 385, 700]),
    ),
)


@pytest.mark.parametrize(
    ("count", "off_by"), [(0, 0), (1, 0), (100, 0), (384, 0), (1_000, 40), (100_000, 4_000)]
)
def test_the_estimate_is_exact_for_few_and_near_for_many(count: int, off_by: int):
    assert abs(estimate(sketch(f"user-{i}" for i in range(count))) - count) <= off_by


@given(words, words, words)
def test_merge_is_a_commutative_idempotent_monoid_of_equal_bytes(
    a: set[str], b: set[str], c: set[str]
):
    one, two, three = sketch(a), sketch(b), sketch(c)
    assert merge(one, two) == merge(two, one) == sketch(a | b)
    assert merge(merge(one, two), three) == merge(one, merge(two, three)) == sketch(a | b | c)
    assert merge(one, b"") == one == merge(b"", one) == merge(one, one)


@pytest.mark.slow
@given(st.lists(words, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_neither_bytes_nor_estimate_know_the_order_of_updates(parts: list[set[str]], random):
    def drawn() -> bytes:
        sketches = []
        for part in parts:
            values = sorted(part) * 2
            random.shuffle(values)
            sketches.append(sketch(values))
        random.shuffle(sketches)
        total = b""
        for each in sketches:
            total = merge(each, total) if random.random() < 0.5 else merge(total, each)
        return total

    first, second = drawn(), drawn()
    assert first == second == sketch(set().union(*parts))
    assert estimate(first) == estimate(second)


@given(words)
def test_what_is_written_here_is_valid_and_bounded(a: set[str]):
    assert valid(sketch(a))
    assert len(sketch(a)) <= BYTES_MAX


@given(
    st.sampled_from(SOME),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(0, 8),
    st.binary(max_size=8),
)
def test_altered_bytes_are_refused_or_harmless(
    raw: bytes, changes: list[tuple[int, int]], cut: int, more: bytes
):
    altered = bytearray(raw)
    for place, byte in changes:
        altered[place % len(altered)] = byte
    found = bytes(altered[: len(altered) - cut]) + more
    if valid(found):
        assert estimate(merge(found, SOME[0])) >= 0


@pytest.mark.parametrize(
    "raw", [b"x", bytes(8), bytes(BYTES_MAX), SOME[2][:-4], SOME[2] + bytes(4), SOME[5][:-1]]
)
def test_other_bytes_are_not_valid(raw: bytes):
    assert not valid(raw)


def test_registers_that_contradict_their_sums_are_not_valid():
    raw = bytearray(SOME[5])
    raw[-1] += 1
    assert not valid(bytes(raw))
