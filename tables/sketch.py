"""Cardinality sketch: about how many different strings were seen. ``b""`` has seen none.

HyperLogLog of Apache DataSketches, brought into one form, so that equal contents are equal
bytes whatever the order in which they came: few values as ascending coupons, many as one
register of eight bits per slot, without the estimator that depends on the order of updates.
Up to some 380 values the count is exact but for one in 10 000, beyond that the standard
error is 1.6 %. ``docs/adr/0012-cardinality-sketch.md`` says why this one.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable
from struct import Struct
from typing import Final

from datasketches import hll_sketch, hll_union, tgt_hll_type

LAYOUT: Final = "hll-8-12"
"""Names the form of the bytes: part of the identity of every table that stores sketches."""

BYTES_MAX: Final = 40 + (1 << 12)

_LG_SLOTS: Final = 12
_KIND: Final = tgt_hll_type.HLL_8
_LIST: Final = re.compile(rb"\x02\x01\x07\x0c\x03\x08([\x01-\x07])\x08", re.DOTALL)
_SET: Final = re.compile(rb"\x03\x01\x07\x0c[\x05-\x09]\x08\x00\x09(..)\x00\x00", re.DOTALL)
_DENSE_HEAD: Final = b"\x0a\x01\x07\x0c\x00\x18\x00\x0a" + bytes(8)
_DENSE_SUMS: Final = Struct("<ddII")
"""Sums of 2^-register below and from 2^-32 on, slots that are empty, exceptions (none)."""
_REGISTER_MAX: Final = 63
_SPARSE_MAX: Final = 384
_COUPON_MIN: Final = 1 << 26
"""A coupon is a slot (26 bits) under a register's value, which is at least 1."""
_OUT_OF_ORDER: Final = 0x10


def sketch(values: Iterable[str]) -> bytes:
    """Sketch of the strings; ``b""`` of none."""
    drawn = hll_sketch(_LG_SLOTS, _KIND)
    for value in values:
        drawn.update(value)
    return b"" if drawn.is_empty() else _canonical(drawn)


def merge(left: bytes, right: bytes) -> bytes:
    """Sketch of what either has seen: associative, commutative, idempotent. Both are valid."""
    if left == right or not right:
        return left
    if not left:
        return right
    union = hll_union(_LG_SLOTS)
    union.update(hll_sketch.deserialize(left))
    union.update(hll_sketch.deserialize(right))
    return _canonical(union.get_result(_KIND))


def estimate(raw: bytes) -> int:
    """How many different strings a valid sketch has seen, about."""
    return round(hll_sketch.deserialize(raw).get_estimate()) if raw else 0


def valid(raw: bytes) -> bool:
    """Whether these are bytes that this module writes.

    To be asked before bytes from elsewhere are used: the library takes lengths on trust.
    """
    if not raw:
        return True
    if len(raw) == BYTES_MAX:
        return _valid_dense(raw)
    found, head = _LIST.match(raw), 8
    if found is None:
        found, head = _SET.match(raw), 12
    if found is None:
        return False
    count = int.from_bytes(found[1], "little")
    if count > _SPARSE_MAX or len(raw) != head + 4 * count:
        return False
    coupons = array("I", raw[head:])
    return (
        coupons[0] >= _COUPON_MIN
        and all(map(int.__lt__, coupons, coupons[1:]))
        and _canonical(hll_sketch.deserialize(raw)) == raw
    )


def _valid_dense(raw: bytes) -> bool:
    registers = raw[-(1 << _LG_SLOTS) :]
    counts = [registers.count(value) for value in range(_REGISTER_MAX + 1)]
    sums = [
        sum(count * 2.0**-value for value, count in part)
        for part in (list(enumerate(counts))[:32], list(enumerate(counts))[32:])
    ]
    head = _DENSE_HEAD + _DENSE_SUMS.pack(*sums, counts[0], 0)
    return sum(counts) == len(registers) and raw.startswith(head)


def _canonical(drawn: hll_sketch) -> bytes:
    raw: bytes = drawn.serialize_compact()
    head = raw[0] * 4
    if len(raw) == BYTES_MAX:
        # The running estimate knows the order of updates; this flag says not to use it.
        return b"%b%c%b%b%b" % (raw[:5], raw[5] | _OUT_OF_ORDER, raw[6:8], bytes(8), raw[16:])
    return raw[:head] + array("I", sorted(array("I", raw[head:]))).tobytes()
