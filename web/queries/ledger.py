"""``GET /api/v1/ledger``: how every record of every source partition ended, over all workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import web

from app.engine.query import LedgerRow, Owner, Queries
from web.peers import Peers
from web.problem import json_response
from web.queries.scatter import ask_owners, is_forwarded

PATH: Final = "/api/v1/ledger"

Verdict = Mapping[str, Any]
"""The auditor's last report, as JSON. ``mismatches`` is a list of objects with ``source`` (an
agent's topic) and ``partition`` (None: the topic as a whole)."""
LastVerdict = Callable[[], Verdict | None]


def no_verdict() -> None:
    """This worker has not audited: one of the group does."""
    return


class Account(msgspec.Struct, frozen=True, rename={"records": "in"}):
    """A partition's committed account.

    ``in_flight``: records read and not yet committed, and those not yet read (None while
    that is not known). ``balanced``: the counts fit the committed offset, and the auditor's
    last look found nothing wrong with the partition.
    """

    topic: str
    partition: int
    worker: str
    position: int
    committed_position: int
    records: int
    applied: int
    late: int
    duplicate: int
    rejected: int
    in_flight: int | None
    balanced: bool


class Total(msgspec.Struct, frozen=True, rename={"records": "in"}):
    """All partitions of a topic; ``in_flight`` is None when that of one of them is."""

    topic: str
    partitions: int
    records: int
    applied: int
    late: int
    duplicate: int
    rejected: int
    in_flight: int | None
    balanced: bool


class LedgerAnswer(msgspec.Struct, frozen=True):
    """Accounts by topic and partition, as ``worker`` gathered them, and the last ``audit``.

    ``missing`` names workers that did not answer, ``unreported`` partitions
    (``topic/partition``) nobody speaks for; then it is ``partial``.
    """

    rows: Sequence[Account]
    totals: Sequence[Total]
    audit: Mapping[str, Any] | None
    worker: str
    partial: bool
    missing: list[str]
    unreported: list[str]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The ledger of one worker, and of the others by one hop.

    ``sources`` are the agents' topics. Rows are bounded by the catalogue's partitions.
    """

    queries: Queries
    peers: Peers
    sources: Sequence[str]
    verdict: LastVerdict = no_verdict

    async def handle(self, request: web.Request) -> web.Response:
        """Rows, totals by topic, the last audit; what is missing is named (``partial``)."""
        forwarded = is_forwarded(request, self.queries)
        audit = self.verdict()
        rows = [row_of(each, self.queries.worker) for each in self.queries.ledger()]
        missing: list[str] = []
        if not forwarded:
            owners = [owner for _, owner in self._owners()]
            others = await ask_owners(owners, self.peers, PATH, _answer_of)
            missing = others.missing
            for answer in others.answers:
                rows += answer.rows
                audit = audit or answer.audit
            rows = judged(latest(rows), audit)
        found = {(row.topic, row.partition) for row in rows}
        unreported = [] if forwarded else self._unreported(found)
        return json_response(
            LedgerAnswer(
                rows,
                totals(rows, audit),
                audit,
                self.queries.worker,
                partial=bool(missing or unreported),
                missing=missing,
                unreported=unreported,
            )
        )

    def _owners(self) -> list[tuple[str, Owner]]:
        return [(topic, o) for topic in self.sources for o in self.queries.owners(topic)]

    def _unreported(self, found: set[tuple[str, int]]) -> list[str]:
        """Partitions nobody speaks for: restored, moving, or their worker did not answer."""
        return [
            f"{topic}/{owner.partition}"
            for topic, owner in self._owners()
            if (topic, owner.partition) not in found
        ]


def _answer_of(body: bytes) -> LedgerAnswer:
    return msgspec.json.decode(body, type=LedgerAnswer)


def row_of(row: LedgerRow, worker: str) -> Account:
    """The answer's row of an engine's row."""
    done, seen = row.committed, row.counts
    return Account(
        row.topic,
        row.partition,
        worker,
        row.position,
        row.committed_position,
        done.records,
        done.applied,
        done.late,
        done.duplicate,
        done.rejected,
        None if row.lag is None else seen.records - done.records + row.lag,
        done.records <= row.committed_position,
    )


def latest(rows: Sequence[Account]) -> list[Account]:
    """One row a partition: while it moves, two workers may speak for it."""
    newest: dict[tuple[str, int], Account] = {}
    for row in rows:
        held = newest.get((row.topic, row.partition))
        if held is None or row.committed_position > held.committed_position:
            newest[row.topic, row.partition] = row
    return [newest[key] for key in sorted(newest)]


def judged(rows: Sequence[Account], audit: Verdict | None) -> list[Account]:
    """Rows with the auditor's word on each partition taken into account."""
    wrong = {(each["source"], each["partition"]) for each in _mismatches(audit)}
    return [
        msgspec.structs.replace(row, balanced=False) if (row.topic, row.partition) in wrong else row
        for row in rows
    ]


def _mismatches(audit: Verdict | None) -> list[dict[str, Any]]:
    return [] if audit is None else audit["mismatches"]


def totals(rows: Sequence[Account], audit: Verdict | None = None) -> list[Total]:
    """Sums by topic; a mismatch that names no partition speaks against its topic."""
    wrong = {each["source"] for each in _mismatches(audit)}
    topics: dict[str, list[Account]] = {}
    for row in rows:
        topics.setdefault(row.topic, []).append(row)
    found = []
    for topic, mine in sorted(topics.items()):
        flights = [row.in_flight for row in mine if row.in_flight is not None]
        found.append(
            Total(
                topic,
                len(mine),
                sum(row.records for row in mine),
                sum(row.applied for row in mine),
                sum(row.late for row in mine),
                sum(row.duplicate for row in mine),
                sum(row.rejected for row in mine),
                sum(flights) if len(flights) == len(mine) else None,
                topic not in wrong and all(row.balanced for row in mine),
            )
        )
    return found
