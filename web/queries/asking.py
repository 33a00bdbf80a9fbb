"""Asking for one key: here, of its owner by one hop, or (asked ``stale``) of a standby."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from app.engine.query import NotOwnedError, NotReadyError, Owner, Queries
from web.peers import PeerAnswer, PeerError, Peers
from web.problem import Kind, ProblemError
from web.queries.params import Consistency
from web.queries.scatter import HOP_TIMEOUT_S, moving, restoring

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Question:
    """``key`` is that of the topic's records; ``path`` asks another worker the same.

    ``forwarded``: another worker asks, so it is answered here or not at all.
    """

    topic: str
    key: bytes
    path: str
    consistency: Consistency
    forwarded: bool


@contextmanager
def unavailable() -> Iterator[None]:
    """A partition that moves or is being restored becomes a 503 :class:`ProblemError`."""
    try:
        yield
    except NotReadyError as exc:
        raise restoring(exc) from exc
    except NotOwnedError as exc:
        raise moving() from exc


async def ask(
    queries: Queries, peers: Peers, question: Question, here: Callable[[int], Awaitable[T]]
) -> T | PeerAnswer:
    """What ``here`` says for the key's partition, or another worker's answer as it was given.

    With ``consistency=stale`` whoever has the partition answers: this worker, else its owner,
    else a standby. Raises :class:`ProblemError`: 503 (moving, restoring) and 504.
    """
    owner = queries.owner(question.topic, question.key)
    if question.consistency == "stale":
        return await _ask_anyone(queries, peers, question, owner, here)
    if owner.local:
        return await here(owner.partition)
    return await hop(peers, owner, question)


async def hop(peers: Peers, owner: Owner, question: Question) -> PeerAnswer:
    """The owner's answer."""
    if question.forwarded or owner.url is None:
        raise moving()
    try:
        return await peers.get(owner.url, question.path, HOP_TIMEOUT_S)
    except PeerError as exc:
        raise ProblemError(Kind.OWNER_UNREACHABLE, str(exc)) from exc


async def _ask_anyone(
    queries: Queries,
    peers: Peers,
    question: Question,
    owner: Owner,
    here: Callable[[int], Awaitable[T]],
) -> T | PeerAnswer:
    try:
        return await here(owner.partition)
    except ProblemError as exc:
        if question.forwarded or exc.kind is not Kind.UNAVAILABLE:
            raise
        refused = exc
    urls = [] if owner.local or owner.url is None else [owner.url]
    urls += queries.standbys(question.topic, owner.partition)
    for url in dict.fromkeys(urls):
        try:
            answer = await peers.get(url, question.path, HOP_TIMEOUT_S)
        except PeerError as exc:
            refused = ProblemError(Kind.OWNER_UNREACHABLE, str(exc))
            continue
        if answer.status != Kind.UNAVAILABLE.status:
            return answer
    raise refused
