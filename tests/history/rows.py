"""Records as their producers write them, and files of them without an archiver."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agents.history.files import write_rows
from agents.history.pending import Pending
from tables.history.datasets import Dataset
from tables.history.folder import DatasetFolder, dataset_folder
from tables.history.names import HistoryFile, Source
from tables.history.place import Place
from tables.history.stores import dataset_store

NAME = "requests_per_endpoint"
MINUTE = 60_000
DAY_0 = 1_795_219_200_000
"""2026-11-21 00:00 UTC."""
SOURCE = Source("0badcafe", 0)


def window(key: str, start: int, revision: int = 1, **changes: Any) -> tuple[bytes, bytes]:
    """A final's key and value."""
    value = {
        "id": f"{NAME}|{key}|{start}|{revision}",
        "name": NAME,
        "key": key,
        "start": start,
        "end": start + MINUTE,
        "revision": revision,
        "count": 10 * revision,
        "errors": revision,
        "sum": 12.5,
        "avg": 1.25,
        "min": 0.5,
        "max": 3.0,
        "p50": 1.0,
        "p95": 2.0,
        "p99": 3.0,
        "stddev": 0.7,
        "distinct": 4,
        "late": 0,
        "codes": {"404": 3},
        **changes,
    }
    return f"{value['name']}/{key}".encode(), json.dumps(value).encode()


def session(
    id_: str,
    start: int,
    end: int,
    *,
    revision: int = 1,
    supersedes: Iterable[str] = (),
    **more: Any,
) -> tuple[bytes, bytes]:
    """A closed session's key and value."""
    value = {
        "id": id_,
        "type": "web",
        "user": "ann",
        "start": start,
        "end": end,
        "count": 3,
        "pages": 2,
        "steps": ["view", "cart"],
        "converted": False,
        "revision": revision,
        "supersedes": list(supersedes),
        "duration_ms": end - start,
        **more,
    }
    return str(value["user"]).encode(), json.dumps(value).encode()


def entity_event(id_: str, version: int, timestamp: int, **more: Any) -> tuple[bytes, bytes]:
    """An entity event's key and value."""
    value = {
        "event_id": f"e-{id_}-{version}",
        "op": "update",
        "version": version,
        "timestamp": timestamp,
        "attributes": {"version": version},
        **more,
    }
    return f"device:{id_}".encode(), json.dumps(value).encode()


def pending(
    dataset: Dataset,
    records: Iterable[tuple[bytes | None, bytes | None]],
    *,
    first: int = 0,
    source: Source = SOURCE,
    append_ms: int = DAY_0,
) -> Pending:
    """A batch of records with offsets from ``first`` on."""
    held = Pending(source, first, first)
    for offset, (key, value) in enumerate(records, first):
        held.add(offset, dataset.take(key, value, append_ms), append_ms, 100, False, 0.0)
    return held


def archive(
    history: Place,
    dataset: Dataset,
    records: Iterable[tuple[bytes | None, bytes | None]],
    **where: Any,
) -> HistoryFile:
    """Write records as one file, as the archiver does."""
    held = pending(dataset, records, **where)
    file = held.file(1)
    write_rows(dataset_store(history, "", dataset.name), file, dataset, held.rows)
    return file


def folder(history: Path, dataset: Dataset) -> DatasetFolder:
    return dataset_folder(history, "", dataset.name)
