"""The auditor inside a worker: a round a minute, in a thread, on a small share of a CPU."""

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
    """Audits for as long as the worker runs, and tells of what does not add up."""

    def __init__(
        self,
        target: AuditTarget,
        configured: Audited,
        clock: Callable[[], int],
        registry: CollectorRegistry,
        period_s: float = PERIOD_S,
    ) -> None:
        """``clock`` gives epoch milliseconds."""
        self._target = target
        self._configured = configured
        self._clock = clock
        self._period_s = period_s
        self._mismatch = Gauge(
            "ledger_mismatch",
            "Records that the auditor found too many or too few",
            ["topic"],
            registry=registry,
        )
        self._stopped = threading.Event()
        self._report: Report | None = None
        self._told: frozenset[str] = frozenset()

    def last(self) -> dict[str, object] | None:
        """The last round's report; None before the first, and where no rounds are made."""
        return None if self._report is None else self._report.document()

    async def run(self) -> None:
        """Rounds until cancelled."""
        loop = asyncio.get_running_loop()
        thread = ThreadPoolExecutor(1, thread_name_prefix="audit")
        reader = Reader(self._target, SHARE, self._stopped.is_set)
        auditor = Auditor(reader, self._configured, self._clock)
        try:
            while True:
                await asyncio.sleep(self._period_s)
                try:
                    self._tell(await loop.run_in_executor(thread, auditor.round))
                except AuditStoppedError:
                    return
                except AuditError as exc:
                    logger.warning("the ledger could not be audited: %s", exc)
                except Exception:  # the auditor must never stop what it audits
                    logger.exception("the ledger could not be audited")
        finally:
            self._stopped.set()
            thread.submit(reader.close)
            thread.shutdown(wait=False)

    def _tell(self, report: Report) -> None:
        self._report = report
        for topic in SOURCES:
            line = next(each for each in report.lines if each.topic == topic)
            self._mismatch.labels(topic).set(line.difference)
        sentences = [each.sentence() for each in report.mismatches]
        if sentences and frozenset(sentences) != self._told:
            more = len(sentences) - FINDINGS_MAX
            logger.error(
                "the ledger does not balance: %s%s; events were lost or counted twice, or a "
                "topic was changed by hand: see GET /api/v1/ledger",
                "; ".join(sentences[:FINDINGS_MAX]),
                f"; and {more} more" if more > 0 else "",
            )
        self._told = frozenset(sentences)
