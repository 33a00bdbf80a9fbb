"""Where to go on in a partition: the first offset no file speaks for. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.history.pending import Pending
from tables.history.names import HistoryFile, Source
from tables.history.ranges import Gap, gaps


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read of a partition, in order; the last gap has no end.

    ``lost`` counts offsets that no file has and the log has no more.
    """

    gaps: tuple[Gap, ...]
    lost: int


def plan(files: Sequence[HistoryFile], lowest: int | None, log_start: int) -> Plan:
    """What files of one source leave to read of a log that begins at ``log_start``.

    ``lowest`` is the first offset that was ever archived; None: none was.
    """
    left, lost = [], 0
    for gap in gaps(files, lowest):
        if gap.end is not None and gap.end <= log_start:
            lost += gap.end - gap.first
        elif gap.first < log_start:
            lost += 0 if lowest is None else log_start - gap.first
            left.append(Gap(log_start, gap.end))
        else:
            left.append(gap)
    return Plan(tuple(left), lost)


class Progress:
    """A partition's batch and the gaps still to fill."""

    def __init__(self, source: Source, partitions: int, gaps_left: Sequence[Gap]) -> None:
        """``gaps_left`` as of :func:`plan`; ``partitions`` of the topic."""
        self.partitions = partitions
        self.pending = Pending(source, gaps_left[0].first, gaps_left[0].first)
        self._gaps = list(gaps_left)
        self._seen = -1

    def goes_on(self, offset: int) -> bool:
        """Whether the offset comes after all that came before; it does not in a new topic."""
        later = offset > self._seen
        self._seen = offset
        return later

    def beyond(self, offset: int) -> bool:
        """Whether the offset lies past the current gap, which is then read to its end."""
        end = self._gaps[0].end
        return end is not None and offset >= end

    def close_gap(self) -> None:
        """Nothing of the gap is left: its range reaches to its end, whatever was there."""
        end = self._gaps[0].end
        if end is None:
            raise ValueError("the last gap has no end")
        self.pending.next = end

    def next_gap(self) -> None:
        """Go on with the next gap, once the batch is written."""
        self._gaps.pop(0)
        self.pending = Pending(self.pending.source, self._gaps[0].first, self._gaps[0].first)

    def overlaps(self, files: Sequence[HistoryFile]) -> bool:
        """Whether files of the source hold any of the batch: someone else has written."""
        first, last = self.pending.first, self.pending.next - 1
        return any(file.first <= last and file.last >= first for file in files)
