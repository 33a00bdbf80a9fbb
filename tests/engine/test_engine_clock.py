"""A wall clock that jumps changes nothing before the jump has lasted."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from app.engine.batch import RecordBatch
from app.engine.clock import JUMP_MS, SETTLE_S, SteadyClock
from app.engine.effects import Effects, View
from tests.engine.rig import ManualClock, Rig, batch, counting_agent

HOUR_MS = 3_600_000


@pytest.fixture
def wall() -> ManualClock:
    return ManualClock()


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS, JUMP_MS + 1, -JUMP_MS - 1])
def test_a_jump_that_is_taken_back_never_happened(wall: ManualClock, jump_ms: int) -> None:
    clock = SteadyClock(wall)
    began = clock.now_ms()
    wall.ms += jump_ms
    assert clock.now_ms() == began
    wall.advance(SETTLE_S - 0.001)
    assert clock.now_ms() == began + SETTLE_S * 1000 - 1
    wall.ms -= jump_ms
    wall.advance(10 * SETTLE_S)
    assert clock.now_ms() == wall.now_ms()


@pytest.mark.parametrize("jump_ms", [HOUR_MS, -HOUR_MS])
def test_a_jump_that_lasts_is_followed(wall: ManualClock, jump_ms: int) -> None:
    clock = SteadyClock(wall)
    wall.ms += jump_ms
    assert clock.now_ms() == wall.now_ms() - jump_ms
    wall.advance(SETTLE_S)
    assert clock.now_ms() == wall.now_ms()


def test_each_further_jump_is_waited_for_anew(wall: ManualClock) -> None:
    clock = SteadyClock(wall)
    began = clock.now_ms()
    for _ in range(10):
        wall.ms += HOUR_MS
        wall.advance(SETTLE_S - 1)
        began += int(SETTLE_S - 1) * 1000
        assert clock.now_ms() == began


def test_what_a_time_server_corrects_bit_by_bit_is_followed(wall: ManualClock) -> None:
    clock = SteadyClock(wall)
    for _ in range(100):
        wall.ms += JUMP_MS // 2
        wall.advance(1.0)
        assert clock.now_ms() == wall.now_ms()


def test_a_jump_is_said_once(wall: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    clock = SteadyClock(wall)
    wall.ms += HOUR_MS
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            clock.now_ms()
            wall.advance(1.0)
    assert [record.message.split(";")[0] for record in caplog.records] == [
        "the clock jumped by 3600.0 s"
    ]


async def test_no_tick_and_no_step_sees_a_clock_that_was_wrong_for_a_while(
    tmp_path: Path,
) -> None:
    told: list[int] = []

    def tick(partition: int, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        told.append(now_ms)
        return Effects()

    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        told.append(now_ms)
        return Effects(applied=len(batch))

    rig = Rig(tmp_path, [counting_agent(step=step, tick=tick)])
    await rig.start()
    began = rig.clock.now_ms()
    for number, jump_ms in enumerate((HOUR_MS, -HOUR_MS)):
        rig.clock.ms += jump_ms
        rig.clock.advance(1.0)
        await rig.engine.tick()
        await rig.feed(batch([b"a"], number))
    assert told == [began + 1_000] * 2 + [began + 2_000] * 2
    await rig.engine.close()
