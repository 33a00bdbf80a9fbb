"""How far librdkafka reads ahead, in every consumer but Faust's. Pure.

It unpacks a fetch as a whole, each record with some hundred bytes of its own around it, and what
records shrink to on the wire says nothing of what they become. By its defaults (1 MiB of each
partition, 50 MiB at once, 100 000 records) a restore of a million small rows from eight
partitions took a process 320 MiB more; so bounded it takes 50, in the same time.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

READ_AHEAD: Final[Mapping[str, int]] = MappingProxyType(
    {
        "fetch.message.max.bytes": 64 << 10,  # of each partition
        "fetch.max.bytes": 1 << 20,  # at once, compressed
        "queued.min.messages": 20_000,  # with so many it fetches no more
        "queued.max.messages.kbytes": 8_192,  # nor with so much
        "fetch.queue.backoff.ms": 5,  # how long it then waits: by default a second
    }
)
"""Settings of a consumer. A single Kafka batch that is larger is fetched all the same."""
