"""Runs a step over a batch so that one poison record costs that record only. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Reject, Step, View
from app.engine.store import StoreError


class StepContractError(Exception):
    """A step lost count of its records."""


def trimmed(batch: RecordBatch, position: int) -> RecordBatch | None:
    """The records at or after ``position``; None when there are none."""
    if batch.offsets[0] >= position:
        return batch
    first = next((i for i, offset in enumerate(batch.offsets) if offset >= position), None)
    return None if first is None else sliced(batch, first, len(batch))


def sliced(batch: RecordBatch, start: int, stop: int) -> RecordBatch:
    """Records ``start`` to ``stop`` (exclusive) of a batch."""
    return RecordBatch(
        batch.topic,
        batch.partition,
        batch.offsets[start:stop],
        batch.timestamps[start:stop],
        batch.keys[start:stop],
        batch.values[start:stop],
        batch.headers[start:stop],
    )


def run_step(
    step: Step, batch: RecordBatch, view: View, now_ms: int
) -> Iterator[tuple[RecordBatch, Effects]]:
    """Effects of the batch, in order; apply each before asking for the next.

    A step that raises is run again on each half, down to the single record, which is then
    rejected as PROCESSING. Only :class:`StoreError` passes: it is not the record's fault.
    """
    try:
        effects = _counted(step(batch, view, now_ms), batch)
    except StoreError:
        raise
    except Exception as exc:  # noqa: BLE001 - whatever it is, it must cost one record only
        if len(batch) == 1:
            yield (
                batch,
                Effects(rejects=[Reject(0, f"{type(exc).__name__}: {exc}", "", "PROCESSING")]),
            )
            return
        middle = len(batch) // 2
        yield from run_step(step, sliced(batch, 0, middle), view, now_ms)
        yield from run_step(step, sliced(batch, middle, len(batch)), view, now_ms)
    else:
        yield batch, effects


def _counted(effects: Effects, batch: RecordBatch) -> Effects:
    done = effects.applied + effects.duplicates + len(effects.rejects) + len(effects.late)
    if done != len(batch):
        raise StepContractError(f"{done} of {len(batch)} records are accounted for")
    named = [r.index for r in effects.rejects] + [late.index for late in effects.late]
    if not all(0 <= index < len(batch) for index in named):
        raise StepContractError("a reject or a late record is not in the batch")
    return effects
