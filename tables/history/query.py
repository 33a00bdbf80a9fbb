"""Questions to the files, as SQL: what users write are parameters, never text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from app.engine.partitioner import partition_for
from tables.history.datasets import ENTITIES, SESSIONS, WINDOWS, Dataset
from tables.history.names import HistoryFile
from tables.history.ranges import Piece
from tables.history.store import Parameter, Scan

_LATEST: Final[Mapping[str, str]] = {
    WINDOWS.name: 'PARTITION BY "name", "key", "start" ORDER BY "revision" DESC, "offset" DESC',
    SESSIONS.name: 'PARTITION BY "id" ORDER BY "revision" DESC, "offset" DESC',
    # An event may have been sent twice; events of one version by several writers are history.
    ENTITIES.name: 'PARTITION BY "type", "id", "version", "event_id" ORDER BY "offset"',
}
_ORDER: Final[Mapping[str, tuple[str, ...]]] = {
    WINDOWS.name: ("start", "name", "key"),
    SESSIONS.name: ("start", "id"),
    ENTITIES.name: ("ingest_ts", "offset"),
}


_CELL: Final = '"{}"'
_JSON: Final[Mapping[str, str]] = {
    "codes": 'TRY_CAST("{}" AS JSON)',
    **dict.fromkeys(
        ("sum", "avg", "min", "max", "p50", "p95", "p99", "stddev"),
        'CASE WHEN isfinite("{0}") THEN "{0}" END',
    ),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A question: rows whose event time lies in ``[from_ms, to_ms)``, the latest of each.

    ``equal``: columns of the dataset and what they must be. ``key``: the records' Kafka key
    if the question is about one, so that only files of its partition are read. ``limit``:
    the newest so many, newest first; None: all, oldest first.
    """

    dataset: Dataset
    from_ms: int
    to_ms: int
    columns: tuple[str, ...]
    equal: Mapping[str, str] = field(default_factory=dict)
    key: bytes | None = None
    limit: int | None = None


def concerns(asked: Asked, file: HistoryFile) -> bool:
    """Whether the file may hold rows of the answer, by its name."""
    if file.min_ms >= asked.to_ms or file.max_ms < asked.from_ms:
        return False
    if asked.key is None or file.partitions is None:
        return True
    return partition_for(asked.key, file.partitions) == file.source.partition


def question(asked: Asked, pieces: Sequence[Piece], scan: Scan) -> tuple[str, list[Parameter]]:
    """SQL and parameters over the pieces (>= 1)."""
    name, start = asked.dataset.name, asked.dataset.start
    found, parameters = _found(asked, pieces, scan)
    chosen = "SELECT * FROM found"
    if name == SESSIONS.name:
        chosen += ' WHERE "id" NOT IN (SELECT unnest("supersedes") FROM found)'
    down = "" if asked.limit is None else " DESC"
    order = ", ".join(f'"{column}"{down}' for column in _ORDER[name])
    columns = ", ".join(f'"{column}"' for column in asked.columns)
    sql = (
        f"WITH found AS (SELECT * {found}), "  # noqa: S608 - names of columns and placeholders
        f"latest AS ({chosen} QUALIFY row_number() OVER ({_LATEST[name]}) = 1) "
        f'SELECT {columns} FROM latest WHERE "{start}" >= ? ORDER BY {order}'
    )
    parameters.append(asked.from_ms)
    if asked.limit is not None:
        sql += " LIMIT ?"
        parameters.append(asked.limit)
    return sql, parameters


def told(sql: str, columns: Sequence[str], also: Mapping[str, str]) -> str:
    """SQL for the windows of ``sql``: ``start``, ``revision``, ``offset`` and JSON as ``row``.

    The object has the ``columns`` in their order, then what ``also`` gives each of them (plain
    words). DuckDB writes it in a fraction of what it takes to make objects of the cells.
    """
    # What is no JSON, or no finite number, was not written here; an answer stays readable.
    fields = [f"'{name}': {_JSON.get(name, _CELL).format(name)}" for name in columns]
    fields += [f"'{name}': '{value}'" for name, value in also.items()]
    row = f"to_json({{{', '.join(fields)}}})::VARCHAR"
    return f'SELECT "start", "revision", "offset", {row} AS "row" FROM ({sql})'  # noqa: S608 - names of columns


def unsorted_question(
    asked: Asked, pieces: Sequence[Piece], scan: Scan, rows_max: int
) -> tuple[str, list[Parameter]]:
    """SQL for the rows as the files hold them, all revisions, at most ``rows_max`` of them.

    Sorting and choosing revisions in SQL costs more than reading, and most windows have but
    one. ``asked.limit`` is left to who reads them.
    """
    found, parameters = _found(asked, pieces, scan)
    columns = ", ".join(f'"{column}"' for column in asked.columns)
    return f"SELECT {columns} {found} LIMIT ?", [*parameters, rows_max]


def _found(asked: Asked, pieces: Sequence[Piece], scan: Scan) -> tuple[str, list[Parameter]]:
    """What the rows of the question are chosen from: SQL from its FROM on."""
    name, schema = asked.dataset.name, asked.dataset.schema
    unknown = [column for column in (*asked.equal, *asked.columns) if column not in schema.names]
    if unknown:
        raise ValueError(f"dataset {name} has no column {', '.join(unknown)}")
    source, parameters = rows_of(pieces, scan)
    start = asked.dataset.start
    where = [f'"{column}" = ?' for column in asked.equal]
    parameters += asked.equal.values()
    where.append(f'"{start}" < ?')
    # A session began before its last revision ended: all that touch the range are looked at,
    # and what is left of them must begin in it.
    where.append(f'"{"end" if name == SESSIONS.name else start}" >= ?')
    parameters += [asked.to_ms, asked.from_ms]
    return f"FROM ({source}) WHERE {' AND '.join(where)}", parameters


def rows_of(pieces: Sequence[Piece], scan: Scan) -> tuple[str, list[Parameter]]:
    """A SELECT of all rows of the pieces (>= 1), each offset once."""
    parts: list[str] = []
    parameters: list[Parameter] = []
    whole = [piece.file for piece in pieces if piece.whole]
    if whole:
        source, given = scan(whole)
        parts.append(f"SELECT * FROM {source}")  # noqa: S608 - the store's own words
        parameters += given
    for piece in pieces:
        if not piece.whole:
            source, given = scan([piece.file])
            parts.append(f'SELECT * FROM {source} WHERE "offset" BETWEEN ? AND ?')  # noqa: S608 - as above
            parameters += [*given, piece.first, piece.last]
    return " UNION ALL BY NAME ".join(parts), parameters
