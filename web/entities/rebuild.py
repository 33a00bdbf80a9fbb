"""``POST /api/v1/entities/rebuild``: the state rebuilt from offset 0, and held against the topic.

The worker that is asked sets the stores of its partitions aside and restores them from the
beginning of their changelog, exactly once: it answers 503 meanwhile, the other workers go on, and
are asked in their turn. Then it reads the compacted topic ``entity-state`` from offset 0, as a
reader would who has nothing else, and compares the result with the tables of every partition's
owner: changelog and topic are written by the same transactions, but by different code.

Each partition is looked at while events come in: an entity whose record lies beyond the
topic's end as it was before the table was read has moved, and is left out of that look.
All others must be equal. A difference is looked at again, since a table follows its
transaction by some milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Final, Protocol
from urllib.parse import urlencode
from uuid import uuid4

import msgspec
from aiohttp import web
from pydantic import SecretStr

from app.engine.query import NotOwnedError, NotReadyError, Queries
from tables.entities.snapshot import digest
from tables.entities.state import ENTITIES_TABLE, state_value
from web.admin import require_admin
from web.entities.asked import PATH as ENTITIES_PATH
from web.entities.comparing import Latest, Look, Report, compare
from web.entities.gateway import TOPIC
from web.entities.statetopic import KEYS_MAX, StateTopicError
from web.peers import PeerError, Peers
from web.problem import Kind, ProblemError, json_response
from web.queries.asking import unavailable
from web.queries.params import encode_cursor, parse_cursor
from web.queries.scatter import HOP_TIMEOUT_S, is_forwarded, local_partitions, moving

log = logging.getLogger(__name__)

PATH: Final = f"{ENTITIES_PATH}/rebuild"
ROWS_PATH: Final = "/internal/entities"
REPORTS_MAX: Final = 20
LOOKS_MAX: Final = 3
LOOK_AGAIN_S: Final = 0.5
ROWS_PAGE: Final = 5_000
ROWS_SLICE: Final = 200
RESTORE_LOOK_S: Final = 0.25
RESTORE_LOOKS_MAX: Final = 2_400
"""Ten minutes: a restore that takes longer fails the report, and goes on."""

Renew = Callable[[], Awaitable[int]]
"""Begins to rebuild the stores of this worker's partitions; how many these are."""


class TopicReader(Protocol):
    """Blocking reads of ``entity-state``; they raise :class:`StateTopicError`."""

    def end(self, partition: int) -> int:
        """Offset after the partition's last committed record."""
        ...

    def read(self, partition: int) -> Latest:
        """The last committed record of each key."""
        ...

    def stop(self) -> None:
        """End a read that is under way in another thread."""
        ...

    def close(self) -> None:
        """There is no more to read for now."""
        ...


class _Rows(msgspec.Struct, frozen=True):
    """Digests of live entities of one partition; ``cursor`` None: it was the last page."""

    rows: dict[str, str]
    cursor: str | None


class Rebuilds:
    """The rebuilds of one worker: one at a time, the last :data:`REPORTS_MAX` reports kept."""

    def __init__(
        self,
        queries: Queries,
        peers: Peers,
        topic: TopicReader,
        renew: Renew,
        token: SecretStr | None,
        clock: Callable[[], int],
    ) -> None:
        """``clock`` gives epoch milliseconds."""
        self._queries = queries
        self._peers = peers
        self._topic = topic
        self._renew = renew
        self._token = token
        self._clock = clock
        self._reports: OrderedDict[str, Report] = OrderedDict()
        self._running: asyncio.Task[None] | None = None

    async def start(self, request: web.Request) -> web.Response:
        """202 with the report's id and place; 401, 403; 409 while another one runs here."""
        require_admin(request, self._token)
        if self._running is not None and not self._running.done():
            raise ProblemError(
                Kind.CONFLICT,
                f"a rebuild runs on this worker: {PATH}/{next(reversed(self._reports))}",
                retry_after_s=5,
            )
        report = Report(str(uuid4()), "running", self._queries.worker, self._clock())
        self._keep(report)
        self._running = asyncio.create_task(self._run(report))
        response = json_response(report, 202)
        response.headers["Location"] = f"{PATH}/{report.id}"
        return response

    async def report(self, request: web.Request) -> web.Response:
        """A report of this worker; 404 for one it does not have (any longer)."""
        require_admin(request, self._token)
        report = self._reports.get(request.match_info["report"])
        if report is None:
            raise ProblemError(
                Kind.NOT_FOUND,
                f"{self._queries.worker} has no such report: ask the worker that was asked for it; "
                f"each keeps its last {REPORTS_MAX}",
            )
        return json_response(report)

    async def stop(self) -> None:
        """End a rebuild that runs."""
        if self._running is not None:
            self._topic.stop()
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    def _keep(self, report: Report) -> None:
        self._reports[report.id] = report
        while len(self._reports) > REPORTS_MAX:
            self._reports.popitem(last=False)

    async def _run(self, report: Report) -> None:
        try:
            rebuilt = await self._renew()
            await self._restored()
            done = await self._compared(msgspec.structs.replace(report, rebuilt=rebuilt))
        except (StateTopicError, PeerError) as exc:
            done = report.failed(str(exc))
        except ProblemError as exc:
            done = report.failed(exc.detail)
        except Exception:
            log.exception("the rebuild %s failed", report.id)
            done = report.failed("it met an error: see the worker's log")
        await asyncio.to_thread(self._topic.close)
        self._keep(msgspec.structs.replace(done, finished_at=self._clock()))

    async def _restored(self) -> None:
        """Wait until this worker's partitions are there again, for as long as that may take."""
        for _ in range(RESTORE_LOOKS_MAX):
            try:
                for partition in local_partitions(self._queries, TOPIC):
                    self._queries.table(TOPIC, partition, ENTITIES_TABLE)
            except (NotReadyError, NotOwnedError):
                await asyncio.sleep(RESTORE_LOOK_S)
            else:
                return

    async def _compared(self, report: Report) -> Report:
        # One partition after the other, so that memory is that of one.
        owners = self._queries.owners(TOPIC)
        return report.of([await self._settled(owner.partition) for owner in owners])

    async def _settled(self, partition: int) -> Look:
        """The partition compared, again while it differs."""
        look = await self._look(partition)
        for _ in range(LOOKS_MAX - 1):
            if not look.different:
                break
            await asyncio.sleep(LOOK_AGAIN_S)
            look = await self._look(partition)
        return look

    async def _look(self, partition: int) -> Look:
        before = await asyncio.to_thread(self._topic.end, partition)
        rows = await self._rows_of(partition)
        latest = await asyncio.to_thread(self._topic.read, partition)
        return await asyncio.to_thread(compare, partition, latest, rows, before)

    async def _rows_of(self, partition: int) -> dict[bytes, int]:
        found: dict[bytes, int] = {}
        after: str | None = None
        while True:
            page = await self._page_of(partition, after)
            found.update((key.encode(), int(told, 16)) for key, told in page.rows.items())
            if page.cursor is None:
                return found
            if len(found) > KEYS_MAX:
                raise StateTopicError(f"partition {partition} has more than {KEYS_MAX} entities")
            after = parse_cursor({"cursor": page.cursor})

    async def _page_of(self, partition: int, after: str | None) -> _Rows:
        owner = self._queries.owners(TOPIC)[partition]
        if owner.local:
            return await self._local(partition, after)
        if owner.url is None:
            raise moving()
        query = "" if after is None else "?" + urlencode({"cursor": encode_cursor(after)})
        path = f"{ROWS_PATH}/{partition}{query}"
        answer = await self._peers.get(owner.url, path, HOP_TIMEOUT_S)
        if answer.status != 200:
            raise PeerError(f"{owner.url} answered {answer.status} for partition {partition}")
        try:
            return msgspec.json.decode(answer.body, type=_Rows)
        except (msgspec.MsgspecError, UnicodeDecodeError) as exc:
            raise PeerError(f"{owner.url} answered what cannot be read: {exc}") from exc

    async def rows(self, request: web.Request) -> web.Response:
        """For other workers: digests of the live entities of a partition of this one."""
        is_forwarded(request, self._queries)
        partition = int(request.match_info["partition"])
        return json_response(await self._local(partition, parse_cursor(request.query)))

    async def _local(self, partition: int, after: str | None) -> _Rows:
        lo = b"" if after is None else after.encode() + b"\0"
        found: dict[str, str] = {}
        for _ in range(ROWS_PAGE // ROWS_SLICE):
            with unavailable():
                table = self._queries.table(TOPIC, partition, ENTITIES_TABLE)
            rows = list(table.range(lo, None, limit=ROWS_SLICE))
            for key, state in rows:
                value = state_value(state)
                if value is not None:
                    found[key.decode()] = f"{digest(key, value):032x}"
                lo = key + b"\0"
            if len(rows) < ROWS_SLICE:
                return _Rows(found, None)
            await asyncio.sleep(0)
        return _Rows(found, encode_cursor(lo[:-1].decode()))
