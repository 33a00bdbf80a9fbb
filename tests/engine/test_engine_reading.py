"""Up to when a partition was read: never later than it was."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from app.engine.epoch import TaskId
from app.engine.reading import HEARD_GAP_MS, LogEnd, Reading
from tests.engine.rig import MEMBERSHIP, SOURCE, RecordingFlow, Rig, batch

SECOND = 1_000


def looks(*seen: tuple[int, int, int]) -> Reading:
    """After looks of (position, end, time), each with an answer of its own."""
    reading = Reading()
    for number, (position, end, now_ms) in enumerate(seen):
        reading = reading.looked(position, LogEnd(end, number), now_ms)
    return reading


def span(reading: Reading) -> tuple[int, int]:
    return reading.since_ms, reading.upto_ms


def test_nothing_is_read_before_the_broker_has_answered() -> None:
    assert span(Reading().looked(5, None, SECOND)) == (-1, -1)


def test_an_empty_partition_is_read_up_to_the_look_before() -> None:
    assert span(looks((0, 0, 1_000))) == (1_000, 1_000)
    assert span(looks((0, 0, 1_000), (0, 0, 2_000), (0, 0, 3_000))) == (1_000, 2_000)


def test_what_waited_at_the_start_is_unread_until_its_end_was_reached() -> None:
    assert span(looks((0, 9, 1_000), (8, 12, 2_000))) == (1_000, -1)
    assert span(looks((0, 9, 1_000), (9, 15, 2_000))) == (1_000, 1_000)


def test_a_partition_that_always_has_a_little_lag_is_read_all_the_same() -> None:
    found = looks(*((10 * n, 10 * n + 3, SECOND * (n + 1)) for n in range(40)))
    assert found.upto_ms >= 37 * SECOND


def test_without_an_answer_no_time_passes() -> None:
    reading = looks((0, 0, 1_000), (0, 0, 2_000))
    for second in range(3, 100):
        reading = reading.looked(0, LogEnd(0, 1), second * SECOND)
    assert span(reading) == (1_000, 1_000)


def test_after_a_broker_was_away_silence_counts_anew() -> None:
    back = 2_000 + HEARD_GAP_MS + 1
    assert span(looks((0, 0, 1_000), (0, 0, 2_000), (0, 0, back))) == (back, back)
    assert span(looks((0, 0, 1_000), (0, 0, 2_000), (0, 0, back - 1))) == (1_000, 2_000)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=60))
def test_everything_appended_up_to_then_was_worked_on(steps: list[tuple[int, int, bool]]) -> None:
    reading, appended, position = Reading(), [0], 0
    for second, (more, done, answers) in enumerate(steps, 1):
        end = appended[-1] + more  # appended since the look before, seen by the answer or not
        position = min(end, position + done)
        answer = LogEnd(appended[-1], second) if answers else None
        appended.append(end)
        reading = reading.looked(position, answer, second * SECOND)
        if reading.since_ms < reading.upto_ms:
            assert position >= appended[reading.upto_ms // SECOND - 1]


class Growing(RecordingFlow):
    """A consumer that has handed over ``handed`` records of ``end``."""

    handed = end_offset = answers = 0

    def delivered(self, task: TaskId) -> int:  # noqa: ARG002
        return self.handed

    def fetched(self, task: TaskId) -> int | None:  # noqa: ARG002
        return self.handed

    def appended(self, task: TaskId) -> LogEnd | None:  # noqa: ARG002
        self.answers += 1
        return LogEnd(self.end_offset, self.answers)


async def test_a_task_knows_up_to_when_it_was_read_and_forgets_it_when_it_starts_anew(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    rig.flow = rig.engine.flow = flow = Growing()
    await rig.start()
    task = rig.engine.tasks[SOURCE]

    def look() -> tuple[bool, bool]:
        rig.clock.advance(SECOND)
        rig.engine.watch.look(rig.engine.tasks, flow, rig.starter.progress, MEMBERSHIP)
        return task.reading.since_ms >= 0, task.reading.upto_ms >= 0

    flow.end_offset = 3
    assert look() == (True, False)
    flow.handed = 3  # handed over, and not yet worked on
    assert look() == (True, False)
    await rig.feed(batch([b"a"] * 3))
    assert look() == (True, True)
    task.start(3, task.lanes, task.counts)
    assert task.reading == Reading()
    await rig.engine.close()
