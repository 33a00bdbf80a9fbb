"""Lists over all partitions: each told by its owner or, asked ``stale``, by a standby of it.

A partition is told once: by this worker, else by the owner that answers for it, else by the
first standby that has it. Only what was read to its end counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar
from urllib.parse import urlencode

from aiohttp import web

from app.engine.query import Queries
from web.peers import Peers
from web.queries.params import Consistency, parse_consistency
from web.queries.scatter import (
    MOVING,
    PARTIALS_TOPIC,
    ask_each,
    gather,
    is_forwarded,
    local_partitions,
)
from web.queries.times import refusal
from web.queries.whence import Held, Spread, Spreading, leaving, whole

PARTITION_DIGITS_MAX: Final = 6

T = TypeVar("T")
Decode = Callable[[bytes], tuple[Spread, T]]
"""Another worker's answer: what it says of itself, and its part."""
Here = Callable[[Held], Awaitable[tuple[T, int | None]]]
"""The part of a partition of this worker, and its watermark."""


@dataclass(frozen=True, slots=True)
class AskedList:
    """A question for a list. ``path`` asks an owner the same, ``standby_path`` a standby.

    ``query`` is passed on. ``partitions``: those that another worker wants, whatever this one is
    to them; None: those that it owns.
    """

    path: str
    standby_path: str
    query: Mapping[str, str]
    consistency: Consistency
    forwarded: bool
    partitions: tuple[int, ...] | None

    @property
    def stale(self) -> bool:
        """Whether a standby may answer."""
        return self.consistency == "stale"

    def of_owners(self) -> str:
        """The question to whoever owns partitions."""
        query = {**self.query, "consistency": self.consistency}
        return f"{self.path}?{urlencode(query)}"

    def of_standbys(self, partitions: Iterable[int]) -> str:
        """The question to a standby of these partitions."""
        wanted = ",".join(map(str, partitions))
        query = {**self.query, "consistency": self.consistency, "partitions": wanted}
        return f"{self.standby_path}?{urlencode(query)}"


def asked_list(
    request: web.Request, queries: Queries, path: str, standby_path: str, query: Mapping[str, str]
) -> AskedList:
    """The question of a request; 400 for what it may not ask, 503 when it is this worker's own."""
    forwarded = is_forwarded(request, queries)
    wanted = request.query.get("partitions") if forwarded else None
    partitions = None if wanted is None else _partitions(wanted)
    consistency = parse_consistency(request.query)
    return AskedList(path, standby_path, query, consistency, forwarded, partitions)


def _partitions(text: str) -> tuple[int, ...]:
    numbers = text.split(",")
    if not all(n.isascii() and n.isdigit() and len(n) <= PARTITION_DIGITS_MAX for n in numbers):
        raise refusal("partitions", "expected numbers of partitions, as 1,2")
    return tuple(sorted(set(map(int, numbers))))


class Collected(Generic[T]):
    """The parts of a list so far, and what the answer says of itself."""

    def __init__(self, queries: Queries, asked: AskedList) -> None:
        self.parts: list[T] = []
        self.spread = Spreading(queries.worker, stale=asked.stale)
        self._queries = queries
        self._asked = asked

    async def read(self, partition: int, here: Here[T]) -> None:
        """Add a partition of this worker; see :func:`leaving` and :func:`whole`."""
        guard = leaving if self._asked.stale else whole
        with guard(self.spread):
            held = Held(self._queries, PARTIALS_TOPIC, partition, self._asked.consistency)
            part, watermark_ms = await here(held)
            self.spread.hold(held.figures(watermark_ms))
            self.parts.append(part)

    def add(self, answer: tuple[Spread, T]) -> None:
        """Add what another worker told."""
        spread, part = answer
        self.spread.add(spread)
        self.parts.append(part)

    def lacks(self) -> list[int]:
        """Partitions that nobody has told."""
        told = self.spread.partitions
        return [
            o.partition for o in self._queries.owners(PARTIALS_TOPIC) if o.partition not in told
        ]

    def settle(self) -> None:
        """Missing is whoever owns what nobody has told, and nobody else."""
        owners = self._queries.owners(PARTIALS_TOPIC)
        lacks = set(self.lacks())
        self.spread.miss_only(
            self._queries.worker if owner.local else owner.url or MOVING
            for owner in owners
            if owner.partition in lacks
        )


async def collect(
    queries: Queries, peers: Peers, asked: AskedList, here: Here[T], decode: Decode[T]
) -> Collected[T]:
    """All parts there are. Owners, and then each standby, have ``HOP_TIMEOUT_S`` to answer.

    503 (:class:`ProblemError`) while a partition of this worker is restored, unless a standby
    may answer.
    """
    found: Collected[T] = Collected(queries, asked)
    mine = local_partitions(queries) if asked.partitions is None else asked.partitions
    for partition in mine:
        await found.read(partition, here)
    if asked.forwarded:
        return found
    others = await gather(queries, peers, asked.of_owners(), decode)
    found.spread.miss(others.missing)
    for answer in others.answers:
        found.add(answer)
    if asked.stale:
        for partition in found.lacks():
            await found.read(partition, here)
        await _ask_standbys(queries, peers, asked, found, decode)
        found.settle()
    return found


async def _ask_standbys(
    queries: Queries, peers: Peers, asked: AskedList, found: Collected[T], decode: Decode[T]
) -> None:
    tried: set[tuple[str, int]] = set()
    while True:
        wanted: dict[str, set[int]] = defaultdict(set)
        for partition in found.lacks():
            for url in queries.standbys(PARTIALS_TOPIC, partition):
                if (url, partition) not in tried:
                    tried.add((url, partition))
                    wanted[url].add(partition)
                    break
        if not wanted:
            return
        paths = {url: asked.of_standbys(sorted(of)) for url, of in wanted.items()}
        for url, answer in (await ask_each(peers, paths, decode)).items():
            if answer is not None and wanted[url].issuperset(answer[0].partitions):
                found.add(answer)
