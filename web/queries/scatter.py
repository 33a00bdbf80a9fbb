"""Asking every worker that owns a part of an agent's tables, and saying who did not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import msgspec
from aiohttp import web

from app.engine.query import NotReadyError, Owner, Queries
from web.peers import FORWARDED, PeerAnswer, PeerError, Peers
from web.problem import Kind, ProblemError

PARTIALS_TOPIC: Final = "window-partials"
"""Topic whose agent owns the window tables."""
HOP_TIMEOUT_S: Final = 3.0
RETRY_AFTER_S: Final = 2
MOVING: Final = "rebalancing"
"""Stands among the missing workers for partitions that have no owner at the moment."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Gathered(Generic[T]):
    """Answers of the workers that gave one, and names of those that did not."""

    answers: list[T]
    missing: list[str]


def is_forwarded(request: web.Request, queries: Queries) -> bool:
    """Whether another worker asks, which is never passed on a second time.

    503 when it is this worker that asked: in a rebalance it may be named as the owner of a
    partition before it has it, and would count its own rows twice.
    """
    asker = request.headers.get(FORWARDED)
    if asker == queries.worker:
        raise moving()
    return asker is not None


def moving() -> ProblemError:
    """503 for a partition that changes its owner."""
    return ProblemError(
        Kind.UNAVAILABLE,
        "the partition is moving to another worker",
        retry_after_s=RETRY_AFTER_S,
    )


def restoring(exc: NotReadyError) -> ProblemError:
    """503 for a partition that is being restored."""
    return ProblemError(Kind.UNAVAILABLE, str(exc), retry_after_s=RETRY_AFTER_S)


def local_partitions(queries: Queries, topic: str = PARTIALS_TOPIC) -> list[int]:
    """Partitions of the topic's tables that this worker owns."""
    return [owner.partition for owner in queries.owners(topic) if owner.local]


def remote_urls(owners: list[Owner]) -> list[str]:
    """Addresses of the other owners, each once, in order."""
    return sorted({owner.url for owner in owners if not owner.local and owner.url is not None})


def passed_on(answer: PeerAnswer) -> web.Response:
    """Another worker's answer as this one's own."""
    headers = {} if answer.retry_after is None else {"Retry-After": answer.retry_after}
    return web.Response(
        body=answer.body,
        status=answer.status,
        content_type=answer.content_type,
        headers=headers,
    )


async def gather(
    queries: Queries,
    peers: Peers,
    path: str,
    decode: Callable[[bytes], T],
    topic: str = PARTIALS_TOPIC,
) -> Gathered[T]:
    """Ask all other owners of the topic's tables for ``path``, :data:`HOP_TIMEOUT_S` in all."""
    return await ask_owners(queries.owners(topic), peers, path, decode)


async def ask_owners(
    owners: list[Owner], peers: Peers, path: str, decode: Callable[[bytes], T]
) -> Gathered[T]:
    """Ask every other worker among the owners at once, :data:`HOP_TIMEOUT_S` in all."""
    answers = await ask_each(peers, dict.fromkeys(remote_urls(owners), path), decode)
    missing = [url for url, each in answers.items() if each is None]
    if any(not owner.local and owner.url is None for owner in owners):
        missing.append(MOVING)
    return Gathered([each for each in answers.values() if each is not None], missing)


async def ask_each(
    peers: Peers, paths: Mapping[str, str], decode: Callable[[bytes], T]
) -> dict[str, T | None]:
    """What each address answers for its path, all at once; None where it is no answer."""

    async def ask(url: str) -> T | None:
        try:
            answer = await peers.get(url, paths[url], HOP_TIMEOUT_S)
            return decode(answer.body) if answer.status == 200 else None
        except (PeerError, msgspec.MsgspecError, UnicodeDecodeError):
            return None

    answers = await asyncio.gather(*map(ask, paths))
    return dict(zip(paths, answers, strict=True))
