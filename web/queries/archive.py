"""What only files hold: closed windows and sessions older than state, beside what state has."""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from aiohttp import web

from tables.history.columns import Told
from tables.history.datasets import ArchivedSession, ColdEntityEvent
from tables.history.reader import History, HistoryError, HistoryTimeoutError
from tables.history.span import COLD, HOT, span
from tables.windows.answer import State, WindowAnswer
from tables.windows.spec import WindowSpec
from web.problem import Kind, ProblemError
from web.queries.times import TimeRange, refusal
from web.queries.whence import Whence

SPAN_MAX: Final = 44_640
"""Windows of an answer that reaches into the history: a month of minutes."""
ENCODED_AT_ONCE: Final = 1_000
"""Windows: about a millisecond."""
ASKED_AT_ONCE: Final = 2
WAITING_MAX: Final = 16
RETRY_AFTER_S: Final = 2

T = TypeVar("T")


_FINAL: Final[State] = "final"
_TOLD: Final[Mapping[str, str]] = {"state": _FINAL, "source": COLD}
"""What is said of each window from the history, besides what its final record told."""


class Sources(msgspec.Struct, frozen=True):
    """How many windows are from state, and how many from the history."""

    hot: int
    cold: int


class KeyWindows(Whence, frozen=True, kw_only=True):
    """Windows of one key, oldest first; ``sources`` where they span state and history."""

    name: str
    key: str
    size_ms: int
    advance_ms: int
    sources: Sources | msgspec.UnsetType = msgspec.UNSET
    windows: Sequence[WindowAnswer] = ()


class Archive:
    """The history, asked from threads: few questions at once, and few that wait."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._turns = asyncio.Semaphore(ASKED_AT_ONCE)
        self._waiting = 0

    async def windows(
        self,
        head: KeyWindows,
        wanted: TimeRange,
        hot: Sequence[WindowAnswer],
        state: State | None = None,
    ) -> tuple[list[bytes], bool]:
        """JSON of ``head`` with the windows of its key in a range, and whether there are any.

        It comes in parts, and tells those of ``state`` alone (None: all). Each window says its
        ``source``, and ``sources`` how many are which; ``hot`` ones are told as given, and have
        to be all there are: the history's copy of one that is left out would be told for it.
        Raises a 503 :class:`ProblemError` when the history does not answer.
        """
        name, key = head.name, head.key
        from_ms, to_ms = wanted.from_ms or 0, wanted.to_ms
        assert to_ms is not None  # noqa: S101 - for the type checker

        def read() -> tuple[list[bytes], bool]:
            cold = self._history.windows_told(name, key, from_ms, to_ms, SPAN_MAX, _TOLD)
            before, both = spanned(hot, cold)
            if state is not None:
                before = before if state == _FINAL else 0
                both = [row for row in both if _state(row) == state]
            warm = sum(isinstance(row, WindowAnswer) for row in both)
            sources = Sources(warm, before + len(both) - warm)
            parts = cold.joined(before, ENCODED_AT_ONCE) + in_json(both)
            told = msgspec.structs.replace(head, sources=sources)
            return document(told, parts), bool(hot or len(cold))

        return await self._ask(read)

    async def sessions(
        self, type_: str, user: str, from_ms: int, to_ms: int, limit: int
    ) -> list[ArchivedSession]:
        """Closed sessions of a user that began in the range, the newest ``limit``."""
        return await self._ask(lambda: self._history.sessions(type_, user, from_ms, to_ms, limit))

    async def entity_events(
        self, type_: str, id_: str, from_ms: int, to_ms: int, limit: int
    ) -> list[ColdEntityEvent]:
        """Events of an entity in the range, in order of arrival, the newest ``limit``."""
        return await self._ask(lambda: self._history.entities(type_, id_, from_ms, to_ms, limit))

    async def _ask(self, read: Callable[[], T]) -> T:
        if self._waiting >= WAITING_MAX:
            raise _busy("too many questions wait for the history")
        self._waiting += 1
        try:
            async with self._turns:
                return await asyncio.to_thread(read)
        except HistoryTimeoutError as exc:
            raise refusal("from", str(exc)) from exc
        except HistoryError as exc:
            raise _busy(str(exc)) from exc
        finally:
            self._waiting -= 1


def _busy(reason: str) -> ProblemError:
    return ProblemError(Kind.UNAVAILABLE, reason, retry_after_s=RETRY_AFTER_S)


def spanned(
    hot: Sequence[WindowAnswer], cold: Told
) -> tuple[int, list[WindowAnswer | msgspec.Raw]]:
    """Both, each in order of time, as one: how many of the history come first, and the others.

    Only where the two meet is looked at row by row.
    """
    told = [msgspec.structs.replace(row, source=HOT) for row in hot]
    before = bisect_left(cold.starts, told[0].start) if told else len(cold)
    rows = (row for _, row in span(told, cold.since(before), _start, _cold_start))
    return before, [row if isinstance(row, WindowAnswer) else msgspec.Raw(row[1]) for row in rows]


def _start(window: WindowAnswer) -> int:
    return window.start


def _cold_start(row: tuple[int, bytes]) -> int:
    return row[0]


def _state(row: WindowAnswer | msgspec.Raw) -> State:
    return row.state if isinstance(row, WindowAnswer) else _FINAL


def reaches_back(spec: WindowSpec, wanted: TimeRange, now_ms: int) -> bool:
    """Whether a range begins before what state is sure to hold of a window that closes."""
    from_ms = wanted.from_ms
    return spec.closes and from_ms is not None and from_ms < now_ms - spec.retention_ms


def in_json(rows: Sequence[WindowAnswer | msgspec.Raw]) -> list[bytes]:
    """JSON of the rows joined by commas, in parts: a month of them takes a while.

    An encoder lets no other thread run, and so neither the event loop.
    """
    encode, starts = msgspec.json.encode, range(0, len(rows), ENCODED_AT_ONCE)
    return [encode(rows[at : at + ENCODED_AT_ONCE])[1:-1] for at in starts]


def document(head: KeyWindows, rows: Sequence[bytes]) -> list[bytes]:
    """JSON of ``head`` with its windows, in parts; ``rows`` are those joined by commas."""
    encoded = msgspec.json.encode(head)  # its last field is the empty list of windows
    return [encoded[:-2], *rows[:1], *(b"," + part for part in rows[1:]), b"]}"]


def in_parts(parts: Sequence[bytes]) -> web.Response:
    """A JSON answer sent part by part: as a whole it would be copied on its way, more than once."""

    async def each() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    return web.Response(
        body=each(),
        headers={"Content-Length": str(sum(map(len, parts)))},
        content_type="application/json",
    )
