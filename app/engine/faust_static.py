"""Static membership: a worker that comes back within the session keeps its partitions.

aiokafka joins as a static member, but its heartbeats do not name the instance (their version
is too old): of two workers with one id each takes the other's place with every heartbeat, for
ever. So heartbeats are sent in the version that names it, and the broker fences the former.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import aiokafka
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.group import HeartbeatRequest
from aiokafka.protocol.types import Int16, Int32, Schema, String

FENCED_INSTANCE_ID = 82
"""Kafka's error code; aiokafka has no name for it."""


class HeartbeatResponseV3(Response):  # type: ignore[misc]
    """Answer to a heartbeat that names the instance."""

    API_KEY = 12
    API_VERSION = 3
    SCHEMA = Schema(("throttle_time_ms", Int32), ("error_code", Int16))


class HeartbeatRequestV3(RequestStruct):  # type: ignore[misc]
    """The last version without flexible fields (KIP-345)."""

    API_KEY = 12
    API_VERSION = 3
    RESPONSE_TYPE = HeartbeatResponseV3
    SCHEMA = Schema(
        ("group", String("utf-8")),
        ("generation_id", Int32),
        ("member_id", String("utf-8")),
        ("group_instance_id", String("utf-8")),
    )


class StaticHeartbeat(Request[HeartbeatRequestV3]):  # type: ignore[misc]
    """A heartbeat that names the instance."""

    API_KEY = 12

    def __init__(self, group: str, generation: int, member_id: str, instance: str) -> None:
        self._fields = (group, generation, member_id, instance)

    def build(self, request_struct_class: type[HeartbeatRequestV3]) -> HeartbeatRequestV3:
        """The request as it goes out."""
        return request_struct_class(*self._fields)


class DuplicateInstanceError(Exception):
    """Another worker has joined the group under this worker's instance id."""

    def __init__(self, instance: str) -> None:
        super().__init__(
            f"another worker has joined the group as {instance!r} and takes this one's place: "
            "two workers run on copies of one state folder; give one of them a folder of its "
            "own (HEADRACE_HOME), or remove the file 'id' from its copy"
        )


class MemberConsumer(aiokafka.AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer; as a static member, it learns that another took its place."""

    def __init__(self, fenced: Callable[[DuplicateInstanceError], None], **settings: Any) -> None:
        super().__init__(**settings)
        self._fenced = fenced

    async def start(self) -> None:
        """Connect; the group is joined after the first subscription."""
        await super().start()
        if self._group_instance_id is not None:
            self._watch(self._coordinator, self._group_instance_id)

    def _watch(self, coordinator: Any, instance: str) -> None:
        send = coordinator._send_req  # noqa: SLF001 - every request of the group goes through it

        async def send_as_instance(request: Any) -> Any:
            beat = isinstance(request, HeartbeatRequest)
            if beat:
                request = StaticHeartbeat(
                    coordinator.group_id, coordinator.generation, coordinator.member_id, instance
                )
            answer = await send(request)
            if getattr(answer, "error_code", 0) == FENCED_INSTANCE_ID:
                self._fenced(DuplicateInstanceError(instance))
                if beat:  # to aiokafka an unforeseen error; the worker ends anyway
                    return HeartbeatResponseV3(0, 0)
            return answer

        coordinator._send_req = send_as_instance  # noqa: SLF001 - as above
