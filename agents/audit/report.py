"""What an audit found, as data: for the endpoint, the metric, the log and the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from agents.audit.accounts import SOURCES, Committed, Cut, Finding, Settled, Verdict, worst
from agents.audit.books import Books
from agents.audit.facts import RECORDS
from agents.audit.since import NEVER
from agents.topics import (
    LOG_EVENTS,
    SESSION_PARTIALS,
    SESSIONS_CLOSED,
    WINDOW_CHANGELOG,
    WINDOW_PARTIALS,
    WINDOWS_FINAL,
)

ACCOUNTS: Final = {
    WINDOW_CHANGELOG: WINDOW_PARTIALS,
    WINDOWS_FINAL: WINDOW_PARTIALS,
    SESSIONS_CLOSED: SESSION_PARTIALS,
}
FINDINGS_MAX = 20
"""Mismatches and notes named one by one."""


@dataclass(frozen=True, slots=True)
class TopicLine:
    """One topic's account, all partitions together, by the auditor's own count.

    ``duplicate`` alone is the engine's word. ``in_flight``: committed records that the
    group has not yet passed. ``difference``: sum of what does not add up, without signs.
    """

    topic: str
    records: int
    applied: int
    late: int
    duplicate: int
    rejected: int
    in_flight: int
    difference: int
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """One pass over the topics. Times are epoch ms; ``seconds`` is what it took."""

    at_ms: int
    lines: tuple[TopicLine, ...]
    mismatches: tuple[Finding, ...]
    notes: tuple[str, ...]
    records_read: int
    seconds: float

    @property
    def verdict(self) -> Verdict:
        """The worst of the topics'."""
        return worst([line.verdict for line in self.lines])

    @property
    def alert(self) -> str:
        """What does not add up and what to do, in a sentence; "" where everything does."""
        return self.alert_of(1)

    def alert_of(self, most: int) -> str:
        """The same, naming so many mismatches one by one."""
        if not self.mismatches:
            return ""
        named = "; ".join(each.sentence() for each in self.mismatches[:most])
        more = len(self.mismatches) - most
        return (
            f"the ledger does not balance: {named}{f'; and {more} more' if more > 0 else ''}; "
            "events were lost or counted twice, or a topic was changed by hand: "
            "see GET /api/v1/ledger"
        )

    def document(self) -> dict[str, object]:
        """As ``GET /api/v1/ledger`` shows it."""
        return {
            "at": self.at_ms,
            "verdict": self.verdict,
            "topics": [
                {"in" if k == "records" else k: v for k, v in asdict(line).items()}
                for line in self.lines
            ],
            "mismatches": [
                {
                    "source": account_of(each),
                    "topic": each.check.topic,
                    "partition": each.check.partition,
                    "account": each.check.account,
                    "difference": each.difference,
                    "text": each.sentence(),
                }
                for each in self.mismatches[:FINDINGS_MAX]
            ],
            "mismatches_total": len(self.mismatches),
            "notes": list(self.notes[:FINDINGS_MAX]),
            "records_read": self.records_read,
            "seconds": round(self.seconds, 3),
        }


def account_of(finding: Finding) -> str:
    """Topic whose account a finding belongs to: a changelog's, and finals', is their source's."""
    topic = finding.check.topic
    return ACCOUNTS.get(topic, topic)


def topic_lines(
    books: Books, cut: Cut, settled: Settled, in_flight: dict[str, int], findings: Sequence[Finding]
) -> tuple[TopicLine, ...]:
    """A line for each source topic."""
    lines = []
    for topic in SOURCES:
        mine = [each for each in findings if account_of(each) == topic]
        tps = [tp for tp in books.sources if tp[0] == topic]
        records = sum(settled.records[tp][RECORDS] for tp in tps)
        late = sum(settled.late[tp][RECORDS] for tp in tps)
        rejected = sum(settled.rejected[tp][RECORDS] for tp in tps)
        duplicate = sum(_duplicate(cut.get(tp)) for tp in tps)
        lines.append(
            TopicLine(
                topic,
                records,
                records - late - rejected - duplicate,
                late,
                duplicate,
                rejected,
                in_flight.get(topic, 0),
                sum(abs(each.difference) for each in mine),
                worst([each.verdict for each in mine]),
            )
        )
    return tuple(lines)


def _duplicate(committed: Committed | None) -> int:
    return 0 if committed is None or committed.account is None else committed.account.duplicate


def later(books: Books) -> list[str]:
    """Windows that are not counted from their log's beginning, and those that are not counted."""
    notes = []
    for w, window in enumerate(books.reading.windows):
        since = [book.since.of(w) for tp, book in books.sources.items() if tp[0] == LOG_EVENTS]
        if window.key is None or not any(since):
            continue
        missing = since.count(NEVER)
        notes.append(
            f"{LOG_EVENTS}: {window.name} is not counted yet, or by a version that tells "
            f"nothing, in {missing} of {len(since)} partitions"
            if missing
            else f"{LOG_EVENTS}: {window.name} is compared from a later offset on: it was declared "
            "anew there, or nothing was told before"
        )
    return notes


def excuses(findings: Iterable[Finding]) -> list[str]:
    """Why some accounts are counted from a baseline only, each reason once."""
    said = {f"{each.check.topic}: {each.check.excuse}" for each in findings if each.check.excuse}
    return sorted(said)
