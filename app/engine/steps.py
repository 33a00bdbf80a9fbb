"""Runs a step over a batch so that one poison record costs that record only. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from app.engine.batch import RecordBatch
from app.engine.effects import Effects, Reject, Step, View
from app.engine.store import StoreError

OUTPUT_FRAMING_BYTES = 16 << 10
"""Room left for an output's key, headers and framing."""


class StepContractError(Exception):
    """A step lost count of its records, or made something that cannot be written."""


class StepFailedError(Exception):
    """A step failed on a batch whose agent does not dead-letter at once."""

    def __init__(self, batch: RecordBatch, what: str) -> None:
        super().__init__(f"the step of {batch.topic}/{batch.partition} {what}")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a step on a batch, as the agent's failure policy wants it.

    ``number`` counts from 1; ``first_failed_ms`` is when an earlier one failed. What fails is
    isolated and rejected (``isolate``), or :class:`StepFailedError` is raised; so it is for
    what the step rejects, unless it ``may_reject``. Partials of what it ``gathers`` are made
    with its epoch, or else at once, so that what fails there is isolated as well.
    """

    number: int = 1
    first_failed_ms: int | None = None
    isolate: bool = True
    may_reject: bool = True
    gathers: bool = True


ONLY = Attempt()
"""The attempt of a policy that makes but one."""


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
    step: Step,
    batch: RecordBatch,
    view: View,
    now_ms: int,
    record_bytes_max: int,
    attempt: Attempt = ONLY,
) -> Iterator[tuple[RecordBatch, Effects]]:
    """Effects of the batch, in order; apply each before asking for the next.

    A step that raises, loses count or makes an output no topic admits is run again on each
    half, down to the single record, which is then rejected as PROCESSING. The halves are
    part of the same attempt. Where the attempt allows no such thing, or no reject,
    :class:`StepFailedError` is raised instead, before anything was answered.
    :class:`StoreError` always passes: it is not the record's fault.
    """
    try:
        effects = _checked(step(batch, view, now_ms), batch, record_bytes_max)
        if effects.gathered is not None and not attempt.gathers:
            effects.partials += effects.gathered.partials()
            effects.gathered = None
    except StoreError:
        raise
    except Exception as exc:
        reason = f"{type(exc).__name__}: {exc}"
        if not attempt.isolate:
            what = f"failed on offsets {batch.offsets[0]} to {batch.offsets[-1]}: {reason}"
            raise StepFailedError(batch, what) from exc
        if len(batch) == 1:
            tried = (attempt.number, attempt.first_failed_ms)
            yield batch, Effects(rejects=[Reject(0, reason, "", "PROCESSING", *tried)])
            return
        middle = len(batch) // 2
        for part in (sliced(batch, 0, middle), sliced(batch, middle, len(batch))):
            yield from run_step(step, part, view, now_ms, record_bytes_max, attempt)
    else:
        if effects.rejects and not attempt.may_reject:
            first = min(effects.rejects, key=lambda reject: reject.index)
            what = f"rejected offset {batch.offsets[first.index]}: {first.said}"
            raise StepFailedError(batch, what)
        yield batch, effects


def _checked(effects: Effects, batch: RecordBatch, record_bytes_max: int) -> Effects:
    done = effects.applied + effects.duplicates + len(effects.rejects) + len(effects.late)
    if done != len(batch):
        raise StepContractError(f"{done} of {len(batch)} records are accounted for")
    named = [r.index for r in effects.rejects] + [late.index for late in effects.late]
    if not all(0 <= index < len(batch) for index in named):
        raise StepContractError("a reject or a late record is not in the batch")
    room = record_bytes_max - OUTPUT_FRAMING_BYTES
    for output in effects.outputs:
        size = len(output.value) if output.value is not None else 0
        for name, raw in output.headers:
            size += len(name) + len(raw or b"")
        if size > room:
            raise StepContractError(
                f"an output of {size} bytes for {output.topic}, which takes {room}"
            )
    return effects
