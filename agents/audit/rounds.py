"""The auditor inside a worker: a round a minute, in a thread, on a small share of a CPU.

Every worker is ready to audit, and one does: whoever owns what the composition root says goes
with the task. Whoever takes over reads the topics from their beginning, about 40 s for each million
records at the share below; the age of the last audit shows in its metric until then. To begin where
the former auditor ended would need all its books (rows, open finals, what was in flight), carried
over in step with a cut: books that were lost in part would hide what they are there to find.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from prometheus_client import CollectorRegistry, Gauge

from agents.audit.accounts import SOURCES
from agents.audit.auditor import Auditor
from agents.audit.facts import Audited
from agents.audit.reader import AuditError, AuditStoppedError, AuditTarget, Reader
from agents.audit.report import FINDINGS_MAX, Report

logger = logging.getLogger(__name__)

PERIOD_S: Final = 60.0
SHARE: Final = 0.2
"""Of one CPU: agents and web of the worker go before."""


class AuditRounds:
    """Audits while it is this worker's turn, and tells of what does not add up."""

    def __init__(
        self,
        target: AuditTarget,
        configured: Audited,
        clock: Callable[[], int],
        registry: CollectorRegistry,
        mine: Callable[[], bool | None],
        period_s: float = PERIOD_S,
    ) -> None:
        """``clock`` gives epoch milliseconds.

        ``mine``: whether it is this worker that audits; None: not known at the moment, so what
        was read so far is kept.
        """
        self._target = target
        self._configured = configured
        self._clock = clock
        self._mine = mine
        self._period_s = period_s
        self._mismatch = Gauge(
            "ledger_mismatch",
            "Records that the auditor found too many or too few",
            ["topic"],
            registry=registry,
        )
        self._audited = Gauge(
            "ledger_audited_timestamp_seconds",
            "When this worker's last audit ended, Unix time; 0: it has made none",
            registry=registry,
        )
        self._stopped = threading.Event()
        self._reader: Reader | None = None
        self._auditor: Auditor | None = None
        self._report: Report | None = None
        self._told: frozenset[str] = frozenset()

    def last(self) -> dict[str, object] | None:
        """The last round's report; None before the first, and where no rounds are made."""
        return None if self._report is None else self._report.document()

    def alert(self) -> str:
        """What does not add up, in a sentence; "" where nothing does, or nobody has looked."""
        return "" if self._report is None else self._report.alert

    async def run(self) -> None:
        """Rounds until cancelled."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        try:
            while True:
                await asyncio.sleep(self._period_s)
                mine = self._mine()
                if mine is None:
                    continue
                if not mine:
                    await loop.run_in_executor(thread, self._leave)
                    self._forget()
                    continue
                try:
                    report = await loop.run_in_executor(thread, self._round)
                except AuditStoppedError:
                    return
                except AuditError as exc:
                    logger.warning("the ledger could not be audited: %s", exc)
                except Exception:  # the auditor must never stop what it audits
                    logger.exception("the ledger could not be audited")
                else:
                    self._tell(report)
        finally:
            self._stopped.set()
            thread.submit(self._leave)
            thread.shutdown(wait=False)

    def _round(self) -> Report:
        """One round. In the audit's thread."""
        if self._reader is None or self._auditor is None:
            self._reader = Reader(self._target, SHARE, self._stopped.is_set)
            self._auditor = Auditor(self._reader, self._configured, self._clock)
        return self._auditor.round()

    def _leave(self) -> None:
        """Let go of the broker and of what was read. In the audit's thread."""
        reader, self._reader, self._auditor = self._reader, None, None
        if reader is not None:
            reader.close()

    def _forget(self) -> None:
        """Say nothing more: what was found is for another worker to find and to tell."""
        self._report, self._told = None, frozenset()
        self._mismatch.clear()

    def _tell(self, report: Report) -> None:
        self._report = report
        self._audited.set(report.at_ms / 1000)
        for topic in SOURCES:
            line = next(each for each in report.lines if each.topic == topic)
            self._mismatch.labels(topic).set(line.difference)
        found = frozenset(each.sentence() for each in report.mismatches)
        if found and found != self._told:
            logger.error("%s", report.alert_of(FINDINGS_MAX))
        self._told = found
