"""A worker whose handler of ``log-events`` can be slowed down and stopped while it runs.

Both sides share a folder: the test writes ``throttle.json``, the worker looks at it before each
delivery and each batch. Run as ``python -m tests.system.throttle`` in place of ``-m faust``.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from faust.cli.faust import cli

import app
from agents.topics import LOG_EVENTS
from app.engine.batch import RecordBatch
from app.engine.delivery import Delivery
from app.engine.effects import Effects, Step, View
from app.engine.engine import Engine
from app.main import build

FOLDER = "THROTTLE_FOLDER"
"""Environment variable that names the folder to the worker."""
ENTRY = ("-m", "tests.system.throttle")
LOOK_AGAIN_S = 0.05


@dataclass(frozen=True, slots=True)
class Throttle:
    """``stopped``: deliveries wait. ``record_s``: so do they by their number of records, while
    the worker goes on; ``batch_s``: each step takes so much longer, and the worker with it.
    """

    stopped: bool = False
    record_s: float = 0.0
    batch_s: float = 0.0

    def set(self, folder: Path) -> None:
        """Let the worker know."""
        folder.mkdir(parents=True, exist_ok=True)
        staged = folder / "throttle.new"
        staged.write_text(json.dumps(asdict(self)))
        staged.replace(folder / "throttle.json")


def _now(folder: Path) -> Throttle:
    return Throttle(**json.loads((folder / "throttle.json").read_text()))


def slowed(step: Step, folder: Path) -> Step:
    """The same step, taking longer."""

    def run(batch: RecordBatch, view: View, now_ms: int) -> Effects:
        time.sleep(_now(folder).batch_s)
        return step(batch, view, now_ms)

    return run


class ThrottledEngine(Engine):
    """Takes deliveries of ``log-events`` when the throttle lets it."""

    async def process(self, delivery: Delivery) -> None:
        if delivery.batch.topic == LOG_EVENTS:
            folder = Path(os.environ[FOLDER])
            while _now(folder).stopped:  # noqa: ASYNC110 - another process tells
                await asyncio.sleep(LOOK_AGAIN_S)
            await asyncio.sleep(_now(folder).record_s * len(delivery.batch))
        await super().process(delivery)


def main() -> None:
    """Build the application around the throttle, where ``-A app`` will find it."""
    folder = Path(os.environ[FOLDER])
    vars(app.main)["Engine"] = ThrottledEngine
    made = vars(app)["app"] = build()
    made.specs = tuple(
        replace(spec, step=slowed(spec.step, folder)) if spec.topic == LOG_EVENTS else spec
        for spec in made.specs
    )
    cli()


if __name__ == "__main__":
    main()
