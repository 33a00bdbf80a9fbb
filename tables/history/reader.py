"""Asking the history: bounded in rows, memory and time. Blocking, for threads."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

import duckdb
import msgspec
import pyarrow as pa

from tables.history.columns import NOTHING, Told, latest
from tables.history.datasets import (
    DATASETS,
    ENTITIES,
    SESSIONS,
    WINDOWS,
    ArchivedSession,
    ColdEntityEvent,
    ColdWindow,
    Dataset,
)
from tables.history.names import HistoryFile
from tables.history.parquet import defect
from tables.history.place import Place, cause
from tables.history.query import Asked, concerns, question, told, unsorted_question
from tables.history.ranges import Piece, cover
from tables.history.store import DatasetStore, Scan, Stat
from tables.history.stores import dataset_store, reading_duck

logger = logging.getLogger(__name__)

ROWS_MAX: Final = 50_000
"""Rows of one answer: a month of minutes."""
UNSORTED_MAX: Final = 2 * ROWS_MAX
"""Rows read to choose the revisions of an answer's windows from; where there are more, SQL does."""
TIME_MAX_S: Final = 5.0
THREADS: Final = 2
ATTEMPTS: Final = 3
BAD_MAX: Final = 1_024
"""Unreadable files remembered; where there are more, the oldest are looked at again."""

_T = TypeVar("_T")
_Duck: TypeAlias = duckdb.DuckDBPyConnection
_Read: TypeAlias = Callable[[_Duck, Sequence[Piece], Scan], _T]
Cells: TypeAlias = tuple[Any, ...]
"""A row as DuckDB gives it: types are those of the dataset's columns."""


class HistoryError(Exception):
    """The history could not be asked; the text says why."""


class HistoryTimeoutError(HistoryError):
    """The answer took too long: ask for a shorter range."""


class History:
    """Reads one namespace's history; safe to use from several threads.

    Times are epoch ms, ranges half-open, over the start of a window or session or the
    timestamp of an event. An answer holds the newest ``limit`` rows of the range, at most
    :data:`ROWS_MAX`, oldest first, each in its latest revision. An unreadable file is told
    of once and left out.
    Every question raises :class:`HistoryError`, or :class:`HistoryTimeoutError` after
    ``time_max_s``.
    """

    def __init__(self, place: Place, namespace: str, *, time_max_s: float = TIME_MAX_S) -> None:
        self._place = place
        self._stores = {name: dataset_store(place, namespace, name) for name in DATASETS}
        self._time_max_s = time_max_s
        self._lock = threading.Lock()
        self._duck: duckdb.DuckDBPyConnection | None = None
        self._bad: dict[tuple[str, HistoryFile], Stat | None] = {}

    def windows(
        self, name: str, key: str, from_ms: int, to_ms: int, limit: int = ROWS_MAX
    ) -> list[ColdWindow]:
        """Closed windows of one key."""
        rows = self.windows_told(name, key, from_ms, to_ms, limit, {})
        return [_window(row) for _, row in rows.since(0)]

    def windows_told(
        self, name: str, key: str, from_ms: int, to_ms: int, limit: int, also: Mapping[str, str]
    ) -> Told:
        """The same as JSON, each with the fields of ``also`` as well."""
        fields = ColdWindow.__struct_fields__
        asked = Asked(
            WINDOWS,
            from_ms,
            to_ms,
            (*fields, "offset"),
            {"name": name, "key": key},
            f"{name}/{key}".encode(),
            limit,
        )

        def read(cursor: _Duck, pieces: Sequence[Piece], scan: Scan) -> pa.Table:
            sql, parameters = unsorted_question(asked, pieces, scan, UNSORTED_MAX)
            found = cursor.sql(told(sql, fields, also), params=parameters).to_arrow_table()
            if found.num_rows == UNSORTED_MAX:
                sql, parameters = question(asked, pieces, scan)
                found = cursor.sql(told(sql, fields, also), params=parameters).to_arrow_table()
            return found

        found = self._ask(asked, read)
        return NOTHING if found is None else Told.of(latest(found, limit))

    def sessions(
        self, type_: str, user: str | None, from_ms: int, to_ms: int, limit: int = ROWS_MAX
    ) -> list[ArchivedSession]:
        """Closed sessions of a type, of one user or (None) of all; none that was superseded."""
        whose = {} if user is None else {"user": user}
        columns = ArchivedSession.__struct_fields__
        rows = self.ask(
            Asked(
                SESSIONS,
                from_ms,
                to_ms,
                columns,
                {"type": type_, **whose},
                None if user is None else user.encode(),
                limit,
            )
        )
        return [
            msgspec.convert(dict(zip(columns, row, strict=True)), ArchivedSession) for row in rows
        ]

    def entities(
        self, type_: str, id_: str, from_ms: int, to_ms: int, limit: int = ROWS_MAX
    ) -> list[ColdEntityEvent]:
        """Events of one entity in order of arrival, each once however often it was sent."""
        columns = ColdEntityEvent.__struct_fields__
        rows = self.ask(
            Asked(
                ENTITIES,
                from_ms,
                to_ms,
                columns,
                {"type": type_, "id": id_},
                f"{type_}:{id_}".encode(),
                limit,
            )
        )
        return [_entity(*row) for row in rows]

    def ask(self, asked: Asked) -> list[Cells]:
        """The rows of an answer, oldest first, as tuples of its columns."""

        def read(cursor: _Duck, pieces: Sequence[Piece], scan: Scan) -> list[Cells]:
            sql, parameters = question(asked, pieces, scan)
            return cursor.execute(sql, parameters).fetchall()[::-1]

        return self._ask(asked, read) or []

    def _ask(self, asked: Asked, read: _Read[_T]) -> _T | None:
        """What ``read`` makes of the files that may hold the answer; None: there are none."""
        if asked.limit is None or not 1 <= asked.limit <= ROWS_MAX:
            raise HistoryError(f"limit must be from 1 to {ROWS_MAX}, not {asked.limit}")
        store = self._stores[asked.dataset.name]
        why = ""
        try:
            for _ in range(ATTEMPTS):
                files = [file for file in store.files() if concerns(asked, file)]
                files = [file for file in files if not self._known_bad(store, asked.dataset, file)]
                if not files:
                    return None
                try:
                    with self._cursor() as cursor:
                        return read(cursor, cover(files), store.scan(cursor))
                except duckdb.InterruptException as exc:
                    raise HistoryTimeoutError(
                        f"history took longer than {self._time_max_s:g} s: ask for a shorter range"
                    ) from exc
                except duckdb.Error as exc:
                    why = cause(str(exc))
                    self._look_for_bad(asked.dataset, store, files)
        except OSError as exc:
            raise HistoryError(f"history cannot be read: {exc}") from exc
        raise HistoryError(f"history cannot be read: {why}")

    def close(self) -> None:
        """Let go of memory and files; questions that run are ended."""
        with self._lock:
            if self._duck is not None:
                self._duck.close()
                self._duck = None

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[_Duck]:
        """A cursor of its own, interrupted when it is used for too long."""
        with self._lock:
            if self._duck is None:
                self._duck = reading_duck(self._place, THREADS)
            cursor = self._duck.cursor()
        alarm = threading.Timer(self._time_max_s, cursor.interrupt)
        alarm.daemon = True
        alarm.start()
        try:
            yield cursor
        finally:
            alarm.cancel()
            # An interrupt must not reach into a closed cursor.
            alarm.join()
            cursor.close()

    def _known_bad(self, store: DatasetStore, dataset: Dataset, file: HistoryFile) -> bool:
        known = (dataset.name, file)
        return known in self._bad and self._bad[known] == _stamp(store, file)

    def _look_for_bad(
        self, dataset: Dataset, store: DatasetStore, files: Sequence[HistoryFile]
    ) -> None:
        """Remember the files that cannot be read; one that is gone was merged or removed."""
        if len(store.stats(files)) < len(files):
            return
        bad = _defects(dataset, store, files, deep=False) or _defects(
            dataset, store, files, deep=True
        )
        with self._lock:
            for file, reason in bad.items():
                logger.warning("history file %s is left out: %s", store.where(file), reason)
                self._bad[dataset.name, file] = _stamp(store, file)
            while len(self._bad) > BAD_MAX:
                del self._bad[next(iter(self._bad))]


def _defects(
    dataset: Dataset, store: DatasetStore, files: Sequence[HistoryFile], *, deep: bool
) -> dict[HistoryFile, str]:
    found = {}
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            reason = defect(store, file, dataset, deep=deep)
            if reason is not None:
                found[file] = reason
    return found


def _stamp(store: DatasetStore, file: HistoryFile) -> Stat | None:
    """Size and time of change: a file that was put in its place is looked at anew."""
    try:
        return store.stat(file)
    except FileNotFoundError:
        return None


_window = msgspec.json.Decoder(ColdWindow).decode


def _entity(*cells: Any) -> ColdEntityEvent:
    event = ColdEntityEvent(*cells)
    return msgspec.structs.replace(event, attributes=msgspec.Raw(cells[5].encode()))
