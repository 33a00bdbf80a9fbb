"""Names of history files: what a file holds, said without opening it. Pure."""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import Final

SUFFIX: Final = ".parquet"
TEMPORARY: Final = ".tmp-"
"""Begins the name of a file that is being written: nobody reads it."""
ASIDE: Final = ".bad"
"""Ends the name of a file that could not be read: nobody reads it again."""
DAY_MS: Final = 86_400_000
_DAY_PREFIX: Final = "day="
_EPOCH: Final = dt.date(1970, 1, 1)
_DAY: Final = re.compile(r"day=(\d{4}-\d{2}-\d{2})", re.ASCII)
_NAME: Final = re.compile(
    r"([0-9a-f]{8})-p(\d{1,5})(?:of(\d{1,5}))?-(\d{1,19})-(\d{1,19})-(\d{1,16})-(\d{1,16})\.parquet",
    re.ASCII,
)


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """Whose records: the first 8 hex digits of the topic's id, and the partition.

    A topic that is deleted and made anew begins at offset 0 again, under another id.
    """

    topic_id: str
    partition: int


@dataclass(frozen=True, slots=True)
class HistoryFile:
    """One file. It speaks for every offset from ``first`` to ``last``, both included.

    Holes in the log (transaction markers) belong to the range. ``min_ms`` and ``max_ms``
    bound the event times of its rows, both included. ``day`` (UTC) is when its records were
    appended to the log. ``partitions``: every key in it is where murmur2 puts it among so
    many partitions; None: it is not known to be.
    """

    source: Source
    first: int
    last: int
    min_ms: int
    max_ms: int
    day: str
    partitions: int | None = None

    @property
    def name(self) -> str:
        """File name, without the folder."""
        of = "" if self.partitions is None else f"of{self.partitions}"
        return (
            f"{self.source.topic_id}-p{self.source.partition}{of}"
            f"-{self.first}-{self.last}-{self.min_ms}-{self.max_ms}{SUFFIX}"
        )

    @property
    def path(self) -> str:
        """Path inside the dataset's folder."""
        return f"{_DAY_PREFIX}{self.day}/{self.name}"


def parse_name(day: str, name: str) -> HistoryFile | None:
    """The file of that name in the folder of ``day``; None: no name of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    topic_id, partition, of, first, last, min_ms, max_ms = found.groups()
    file = HistoryFile(
        Source(topic_id, int(partition)),
        int(first),
        int(last),
        int(min_ms),
        int(max_ms),
        day,
        None if of is None else int(of),
    )
    # A name written otherwise (leading zeros) would be a second name of one file.
    sound = file.first <= file.last and file.min_ms <= file.max_ms and file.name == name
    return file if sound and file.partitions != 0 else None


def listed_file(folder: str, name: str, ending: str = "") -> HistoryFile | None:
    """The file of that name, without ``ending``, in that folder; None: no name of ours."""
    day = parse_day(folder)
    if day is None or not name.endswith(ending):
        return None
    return parse_name(day, name.removesuffix(ending))


def parse_day(folder: str) -> str | None:
    """Day of a folder ``day=YYYY-MM-DD``; None: no name of ours."""
    found = _DAY.fullmatch(folder)
    if found is None:
        return None
    try:
        dt.date.fromisoformat(found[1])
    except ValueError:
        return None
    return found[1]


def day_of(epoch_ms: int) -> str:
    """UTC day of a time, ``YYYY-MM-DD``. Times outside the years 1 to 9999 are clamped."""
    days = min(max(epoch_ms // DAY_MS, -719_162), 2_932_896)
    return (_EPOCH + dt.timedelta(days=days)).isoformat()
