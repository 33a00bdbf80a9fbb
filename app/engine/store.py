"""Committed state of one partition: one RocksDB, a column family per table.

Written only after a commit (or while restoring), always together with the position in
the changelog and in the source, in one WriteBatch. Block cache and write buffers are
shared by every partition of the worker, so memory does not grow with their number.
"""

from __future__ import annotations

import copy
import logging
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import rocksdict

from app.engine.effects import KeyRange
from app.engine.store_faults import what_to_do
from app.engine.store_memory import StoreMemory

logger = logging.getLogger(__name__)

_POSITIONS = "positions"
_CHANGELOG = b"changelog"
_SOURCE = b"source"


class StoreError(Exception):
    """The local store cannot be opened, read or written; the text says why."""


class StoreDamagedError(StoreError):
    """Its files cannot be trusted; the state can be rebuilt from the changelog."""


@dataclass(frozen=True, slots=True)
class Positions:
    """How far a store has come; None: never written.

    ``changelog``: next changelog offset to apply. ``source``: next source offset whose
    effects are not yet in the state.
    """

    changelog: int | None = None
    source: int | None = None


class Store:
    """RocksDB of one partition. Not shared between processes.

    A thread that a hand-over did not wait for may still come to write: closed is closed.
    """

    def __init__(self, path: Path, families: Iterable[str], memory: StoreMemory) -> None:
        self.path = path
        self._memory = memory
        self.rows = memory.rows
        self.families = tuple(sorted(families))
        self._lock = threading.Lock()
        self._closed = False
        self.damaged = False
        """RocksDB found its files corrupt, or it is to be rebuilt: only :meth:`reset` helps."""
        self._open()

    @classmethod
    def open(cls, path: Path, families: Iterable[str], memory: StoreMemory) -> Store:
        """Open the store; one whose files are damaged is set aside and begun anew.

        Raises :class:`StoreError` where the files are not to blame: another process holds them,
        the disk is full. They stay as they are.
        """
        wanted = tuple(families)
        try:
            return cls(path, wanted, memory)
        except StoreDamagedError as exc:
            logger.warning("%s: set aside, rebuilt from the changelog", exc)
            set_aside(path)
            return cls(path, wanted, memory)

    def _open(self) -> None:
        wanted = {_POSITIONS, *self.families}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = (
                set(rocksdict.Rdict.list_cf(str(self.path), self._memory.options()))
                if (self.path / "CURRENT").exists()
                else set()
            )
            names = (there | wanted) - {"default"}
            self._db = rocksdict.Rdict(
                str(self.path),
                self._memory.options(),
                {name: self._memory.options() for name in sorted(names)},
            )
            for name in names - wanted:  # state of a former meaning: never read again
                self._db.drop_column_family(name)
        except OSError as exc:  # from the folder; rocksdict raises bare Exception
            raise StoreError(f"cannot open the state in {self.path}: {exc}") from exc
        except Exception as exc:
            said = f"cannot open the state in {self.path}: {exc}"
            advice = what_to_do(str(exc), self.path)
            if advice is None:
                raise StoreDamagedError(said) from exc
            raise StoreError(f"{said}; {advice}") from exc
        self._columns = {name: self._db.get_column_family(name) for name in wanted}
        self._handles = {name: self._db.get_column_family_handle(name) for name in wanted}

    def positions(self) -> Positions:
        """Where this store stands."""
        with self._lock:
            self._check_open()
            if not self._columns:  # a reset that failed is tried again
                self._open()
            try:
                # In no variable: the traceback of an error would hold the database open.
                changelog = self._columns[_POSITIONS].get(_CHANGELOG)
                source = self._columns[_POSITIONS].get(_SOURCE)
            except Exception as exc:  # rocksdict raises bare Exception
                raise self._failed("read", exc) from exc
        return Positions(
            None if changelog is None else int(changelog),
            None if source is None else int(source),
        )

    def get(self, family: str, key: bytes) -> bytes | None:
        """Raw committed value, or None."""
        try:
            value: bytes | None = self._columns[family].get(key)
        except Exception as exc:  # rocksdict raises bare Exception
            raise self._failed("read", exc) from exc
        return value

    def _failed(self, what: str, exc: Exception) -> StoreError:
        self.damaged = self.damaged or str(exc).startswith("Corruption")
        return StoreError(f"cannot {what} the state in {self.path}: {exc}")

    def range(
        self, family: str, lo: bytes, hi: bytes | None, *, limit: int, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Raw rows with ``lo <= key < hi``, in key order or from the end, at most ``limit``."""
        # Read at once: a cursor that a reader keeps would hold the database open, and its
        # folder locked, when the partition moves.
        rows: list[tuple[bytes, bytes]] = []
        cursor = self._columns[family].iter()
        if not reverse:
            cursor.seek(lo)
        elif hi is None:
            cursor.seek_to_last()
        else:
            cursor.seek_for_prev(hi)
            if cursor.valid() and cursor.key() == hi:
                cursor.prev()
        while limit > 0 and cursor.valid():
            key: bytes = cursor.key()
            if key < lo if reverse else (hi is not None and key >= hi):
                break
            rows.append((key, cursor.value()))
            limit -= 1
            if reverse:
                cursor.prev()
            else:
                cursor.next()
        try:
            cursor.status()  # a cursor that comes upon an error just ends
        except Exception as exc:  # rocksdict raises bare Exception
            del cursor  # as above
            raise self._failed("read", exc) from exc
        return iter(rows)

    def keys(self, family: str, lo: bytes, hi: bytes, *, limit: int) -> list[bytes]:
        """Keys of the rows with ``lo <= key < hi``, in order, at most ``limit``."""
        keys: list[bytes] = []
        cursor = self._columns[family].iter()
        cursor.seek(lo)
        while len(keys) < limit and cursor.valid() and (key := cursor.key()) < hi:
            keys.append(key)
            cursor.next()
        try:
            cursor.status()
        except Exception as exc:  # rocksdict raises bare Exception
            del cursor  # as above
            raise self._failed("read", exc) from exc
        return keys

    def write(
        self,
        changes: Mapping[str, Mapping[bytes, bytes | None]],
        positions: Positions,
        dropped: Mapping[str, Sequence[KeyRange]] = MappingProxyType({}),
    ) -> None:
        """Forget ranges, apply changes (None deletes) and positions (None: as is) atomically."""
        with self._lock:
            self._check_open()
            batch = self._batch(changes, positions, dropped)
            try:
                self._db.write(batch)
            except Exception as exc:  # rocksdict raises bare Exception
                raise self._failed("write", exc) from exc

    def everything(self, family: str) -> list[KeyRange]:
        """The range of all rows that are there now; none where there are none."""
        return [
            (b"", key + b"\0") for key, _ in self.range(family, b"", None, limit=1, reverse=True)
        ]

    def clear(self, families: Iterable[str]) -> None:
        """Forget all rows of these families."""
        void = {family: self.everything(family) for family in families}
        self.write({family: {} for family in void}, Positions(), void)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError(f"the state in {self.path} was handed over")

    def _batch(
        self,
        changes: Mapping[str, Mapping[bytes, bytes | None]],
        positions: Positions,
        dropped: Mapping[str, Sequence[KeyRange]],
    ) -> rocksdict.WriteBatch:
        batch = rocksdict.WriteBatch(raw_mode=True)
        for family, rows in changes.items():
            handle, ranges = self._handles[family], dropped.get(family, ())
            for lo, hi in ranges:
                batch.delete_range(lo, hi, handle)
            for key, value in rows.items():
                if value is not None:
                    batch.put(key, value, handle)
                elif not any(lo <= key < hi for lo, hi in ranges):
                    batch.delete(key, handle)
        meta = self._handles[_POSITIONS]
        if positions.changelog is not None:
            batch.put(_CHANGELOG, b"%d" % positions.changelog, meta)
        if positions.source is not None:
            batch.put(_SOURCE, b"%d" % positions.source, meta)
        return batch

    def size_bytes(self) -> int:
        """Estimated size on disk and in write buffers."""
        total = 0
        for column in self._columns.values():
            for name in ("rocksdb.total-sst-files-size", "rocksdb.cur-size-all-mem-tables"):
                total += column.property_int_value(name) or 0
        return total

    def close(self) -> None:
        """Release the folder. The store must not be used afterwards."""
        with self._lock:
            self._closed = True
            self._release()

    def passed_on(self) -> Store:
        """The same database under a new handle; this one is closed."""
        with self._lock:
            self._check_open()
            self._closed = True
            heir = copy.copy(self)
            heir._closed, heir._lock = False, threading.Lock()  # noqa: SLF001 - a Store as well
            self._columns, self._handles = {}, {}
            return heir

    def _release(self) -> None:
        if not self._columns:  # a reset that failed has closed it
            return
        self._columns.clear()
        self._handles.clear()
        self._db.close()

    def reset(self) -> None:
        """Forget everything: the state will be rebuilt from the changelog."""
        with self._lock:
            self._check_open()
            self._release()
            set_aside(self.path)
            self._open()
            self.damaged = False


def set_aside(path: Path) -> None:
    """Move a store that cannot be trusted out of the way, keeping only the newest such.

    Raises :class:`StoreError` when the folder above does not let it.
    """
    aside = path.with_name(path.name + ".aside")
    try:
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
    except OSError as exc:
        raise StoreError(
            f"cannot move {path} to {aside.name}: {exc.strerror}; remove {aside}, and make "
            f"{path.parent} writable for the worker's user"
        ) from exc
