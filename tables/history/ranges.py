"""Which file speaks for which offsets. Pure.

Files may overlap: a merged file and those it replaces, a crash between the two, an archiver
that wakes up after another took its partition. A record's place in its log never changes
what it says, so any file is as good as another for an offset both hold: :func:`cover` gives
each offset to exactly one.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from tables.history.names import HistoryFile, Source

SMALL_BYTES: Final = 8 << 20
"""Smaller files of the current day are merged before it ends."""
SMALL_MAX: Final = 32
"""So many small files in a row are merged."""
MERGE_BYTES_MAX: Final = 64 << 20
"""Files merged into one: this bounds a merge's time and the worth of a file."""


class Piece(NamedTuple):
    """Rows of ``file`` with offsets from ``first`` to ``last``, both included."""

    file: HistoryFile
    first: int
    last: int

    @property
    def whole(self) -> bool:
        """Whether the piece is the whole file."""
        return self.first == self.file.first and self.last == self.file.last


class Gap(NamedTuple):
    """Offsets ``first`` to ``end`` (not included; None: the log's end, wherever it is)."""

    first: int
    end: int | None


def _by_source(files: Iterable[HistoryFile]) -> dict[Source, list[HistoryFile]]:
    """Files of each source, the longest first among those that begin together."""
    found: defaultdict[Source, list[HistoryFile]] = defaultdict(list)
    for file in files:
        found[file.source].append(file)
    for of_source in found.values():
        of_source.sort(key=lambda file: (file.first, -file.last, file.path))
    return dict(sorted(found.items()))


def cover(files: Iterable[HistoryFile]) -> list[Piece]:
    """Pieces that hold every offset of the files once, by source and offset.

    A file whose range others cover has no piece; of one that overlaps another only what is
    new.
    """
    pieces = []
    for of_source in _by_source(files).values():
        covered = -1
        for file in of_source:
            if file.last > covered:
                pieces.append(Piece(file, max(file.first, covered + 1), file.last))
                covered = file.last
    return pieces


def gaps(files: Iterable[HistoryFile], lowest: int | None = None) -> list[Gap]:
    """What is missing of one source, in order; the last gap has no end.

    Nothing is missing below ``lowest``, or else below the first file: old days may be
    removed by hand. Without files and ``lowest`` everything is missing.
    """
    pieces = cover(files)
    if len({piece.file.source for piece in pieces}) > 1:
        raise ValueError("gaps of one source only")
    at = lowest if lowest is not None else (pieces[0].first if pieces else 0)
    missing = []
    for piece in pieces:
        if piece.first > at:
            missing.append(Gap(at, piece.first))
        at = max(at, piece.last + 1)
    return [*missing, Gap(at, None)]


def superseded(files: Iterable[HistoryFile]) -> list[tuple[HistoryFile, HistoryFile]]:
    """Files whose whole range another file holds, each with that other."""
    found = []
    for of_source in _by_source(files).values():
        widest: HistoryFile | None = None
        for file in of_source:
            if widest is not None and file.last <= widest.last:
                found.append((file, widest))
            else:
                widest = file
    return found


def merges(
    files: Iterable[HistoryFile], sizes: Mapping[HistoryFile, int], today: str
) -> list[list[HistoryFile]]:
    """Which files to make one of: neighbours of one day without a hole between them.

    ``sizes`` are bytes; a file without a size is left alone, and so is one that overlaps
    another. Of days before ``today`` as many as stay below :data:`MERGE_BYTES_MAX`
    together; of ``today`` runs of at least :data:`SMALL_MAX` files below
    :data:`SMALL_BYTES`. A merged file that cannot be merged further is not given again.
    """
    found = []
    for run in _runs(files, sizes, today):
        if run[0].day < today or len(run) >= SMALL_MAX:
            found += [group for group in _packed(run, sizes) if len(group) > 1]
    return found


def _runs(
    files: Iterable[HistoryFile], sizes: Mapping[HistoryFile, int], today: str
) -> list[list[HistoryFile]]:
    runs: list[list[HistoryFile]] = []
    for piece in cover(files):
        file = piece.file
        size = sizes.get(file)
        if not piece.whole or size is None or (file.day >= today and size >= SMALL_BYTES):
            runs.append([])
            continue
        before = runs[-1][-1] if runs and runs[-1] else None
        if before is not None and _neighbours(before, file):
            runs[-1].append(file)
        else:
            runs.append([file])
    return [run for run in runs if run]


def _neighbours(left: HistoryFile, right: HistoryFile) -> bool:
    same = left.source == right.source and left.day == right.day
    return same and left.last + 1 == right.first


def _packed(
    run: Sequence[HistoryFile], sizes: Mapping[HistoryFile, int]
) -> list[list[HistoryFile]]:
    groups: list[list[HistoryFile]] = [[]]
    held = 0
    for file in run:
        if groups[-1] and held + sizes[file] > MERGE_BYTES_MAX:
            groups.append([])
            held = 0
        groups[-1].append(file)
        held += sizes[file]
    return groups


def merged(files: Sequence[HistoryFile]) -> HistoryFile:
    """The file that replaces neighbours, given in order (>= 1)."""
    counts = {file.partitions for file in files}
    return HistoryFile(
        files[0].source,
        files[0].first,
        files[-1].last,
        min(file.min_ms for file in files),
        max(file.max_ms for file in files),
        files[0].day,
        counts.pop() if len(counts) == 1 else None,
    )
