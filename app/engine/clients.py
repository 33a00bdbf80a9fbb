"""What librdkafka clients of engine and gateway are told of brokers that go and come back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

OUTAGES: Final[Mapping[str, str | int]] = MappingProxyType(
    {
        # Once every broker is down, librdkafka would forget all it knows of the cluster, and a
        # question under way (a send_offsets_to_transaction too) then waits for ever, whatever
        # its timeout.
        "metadata.recovery.strategy": "none",
        # By default up to ten seconds pass before a client of a long outage looks again, and a
        # start asks several, one after the other, and posts are answered 503.
        "reconnect.backoff.max.ms": 1_000,
    }
)
