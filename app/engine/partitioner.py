"""Which partition a key belongs to: the same murmur2 as Kafka's default partitioner."""

from __future__ import annotations

from functools import lru_cache

from aiokafka.partitioner import murmur2


@lru_cache(maxsize=65_536)
def _positive_hash(key: bytes) -> int:
    return int(murmur2(key)) & 0x7FFFFFFF


def partition_for(key: bytes, partitions: int) -> int:
    """Partition of a key in a topic of ``partitions`` partitions (>= 1)."""
    return _positive_hash(key) % partitions
