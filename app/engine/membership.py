"""Group membership as the transactional producer needs it (KIP-447 fencing).

Faust's consumer (aiokafka) holds the membership, librdkafka commits the offsets. The
broker rejects a transactional offset commit whose generation or member is not current,
if it is given one; aiokafka resets its own to ``(-1, "")`` after a failed heartbeat, and
that the broker accepts. So the membership is frozen when partitions are assigned.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Membership:
    """One generation of one member of the consumer group, frozen at assignment.

    ``instance``: the group instance id of a static member. Its generation stays when it comes
    back; the member id is new each time, and that is what fences its former self.
    """

    group: str
    generation: int
    member_id: str
    instance: str | None = None

    def __post_init__(self) -> None:
        if self.generation < 0 or not self.member_id:
            raise ValueError(f"not a membership that could fence anything: {self}")

    def metadata(self) -> bytes:
        """Opaque group metadata of librdkafka (``rd_kafka_consumer_group_metadata_read``).

        Layout, version 2: magic, int32 generation (native order), group id NUL, member id
        NUL, one byte that says whether a group instance id follows (1: it is null).
        """
        instance = b"\1" if self.instance is None else b"\0" + self.instance.encode() + b"\0"
        return (
            b"CGMDv2:"
            + struct.pack("=i", self.generation)
            + self.group.encode()
            + b"\0"
            + self.member_id.encode()
            + b"\0"
            + instance
        )
