"""Records whose partials are made once an epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine import pacing
from app.engine.batch import RecordBatch
from app.engine.chunks import decode_chunk
from app.engine.driver import Driver
from app.engine.effects import Effects, Partials, View
from app.engine.epoch import Epoch, GatherError, OpenEpoch, Rekeyed, TaskId
from app.engine.spec import AgentSpec
from tests.engine.rig import REPARTITION, SOURCE, Rig, batch, counting_agent

Parts = dict[str, dict[int, tuple[int, int]]]


class Values:
    """Values of records; one that is bad cannot be worked out."""

    def __init__(self, values: list[bytes]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def add(self, more: Values) -> None:
        self.values.extend(more.values)

    def partials(self) -> Iterator[Partials]:
        if b"bad" in self.values:
            raise ValueError("cannot work it out")
        yield Partials(REPARTITION, Counter(value.decode() for value in self.values))


def gathering_agent() -> AgentSpec:
    def step(batch: RecordBatch, view: View, now_ms: int) -> Effects:  # noqa: ARG001
        return Effects(gathered=Values([v or b"" for v in batch.values]), applied=len(batch))

    return counting_agent(step=step, tables=(), changelog=None, repartitions=(REPARTITION,))


async def folding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, *, few_keys: bool = False
) -> Rig:
    """A worker that, while late, works out every ``size`` records; ``few_keys``: whatever comes."""
    monkeypatch.setattr(pacing, "FOLD_MIN", size)
    monkeypatch.setattr(pacing, "FOLD_MAX", size)
    if few_keys:
        monkeypatch.setattr(pacing, "FOLD_SHARE", 0)
    rig = Rig(tmp_path, [gathering_agent()])
    await rig.start()
    return rig


def counted(epochs: list[Epoch]) -> Counter[str]:
    """What all epochs sent."""
    sums: Counter[str] = Counter()
    for epoch in epochs:
        for rekeyed in epoch.rekeyed:
            sums.update(rekeyed.values)
    return sums


@given(st.lists(st.lists(st.sampled_from([b"a", b"b", b"c"]), min_size=1, max_size=5), max_size=6))
def test_what_batches_gathered_is_worked_out_as_one(batches: list[list[bytes]]) -> None:
    driver = Driver([gathering_agent()], {"source": 1, "partials": 1})
    whole: Counter[str] = Counter()
    for values in batches:
        driver.feed("source", values)
        whole.update(value.decode() for value in values)
    chunks = [decode_chunk(record.value or b"") for record in driver.topics["partials"]]
    sent: Counter[str] = Counter()
    for chunk in chunks:
        sent.update(dict(map(REPARTITION.decode, chunk.partials)))
    assert (sent, len(chunks)) == (whole, len(batches))
    assert driver.tasks[SOURCE].counts.applied == sum(whole.values())


async def test_an_epoch_of_several_batches_sends_one_partial_for_a_key(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [gathering_agent()])
    await rig.start()
    await rig.feed(batch([b"a", b"b"]))
    await rig.feed(batch([b"a"], 2))
    await rig.commit()
    [epoch] = rig.writer.epochs
    [rekeyed] = epoch.rekeyed
    assert rekeyed.values == {"a": 2, "b": 1}
    await rig.engine.close()


async def test_partials_of_all_partitions_of_a_topic_travel_as_one(tmp_path: Path) -> None:
    other = TaskId("source", 1)
    rig = Rig(tmp_path, [gathering_agent()])
    await rig.start(SOURCE, other)
    await rig.feed(batch([b"a", b"b"]))
    await rig.feed(batch([b"a"], partition=1))
    await rig.commit()
    [epoch] = rig.writer.epochs
    [rekeyed] = epoch.rekeyed
    assert rekeyed.values == {"a": 2, "b": 1}
    assert epoch.positions("source") == {0: 2, 1: 1}
    await rig.engine.close()


async def test_after_records_that_cannot_be_worked_out_all_partitions_are_isolated(
    tmp_path: Path,
) -> None:
    other = TaskId("source", 1)
    rig = Rig(tmp_path, [gathering_agent()])
    await rig.start(SOURCE, other)
    records = [batch([b"a", b"bad"]), batch([b"a"], partition=1)]
    for each in records:
        await rig.feed(each)
    assert not await rig.engine.commits.commit()
    assert await rig.flow.released() == {SOURCE: 0, other: 0}
    for each in records:
        await rig.feed(each)
    await rig.commit()
    assert counted(rig.writer.epochs) == {"a": 2}
    await rig.engine.close()


parts = st.dictionaries(
    st.sampled_from(["v", "w"]),
    st.dictionaries(st.integers(0, 2), st.tuples(st.integers(0, 9), st.integers(0, 9))),
)


@given(st.lists(parts, max_size=5))
def test_what_partials_are_made_of_adds_up_by_source(told: list[Parts]) -> None:
    rekeyed = Rekeyed("source", REPARTITION)
    for counted in told:
        rekeyed.add(Partials(REPARTITION, {}, counted))
    for place in (0, 1):
        sums: Counter[tuple[str, int]] = Counter()
        for counted in told:
            for name, sources in counted.items():
                sums.update({(name, source): each[place] for source, each in sources.items()})
        found = {
            (name, source): each[place]
            for name, sources in rekeyed.counted.items()
            for source, each in sources.items()
        }
        assert found == dict(sums)


def test_an_epoch_holds_each_record_that_was_gathered() -> None:
    held = OpenEpoch()
    for values in ([b"a", b"a"], [b"a"]):
        held.gather("source", Values(values))
    assert held.size() == 3


async def test_a_record_that_cannot_be_worked_out_costs_that_record_only(tmp_path: Path) -> None:
    rig = Rig(tmp_path, [gathering_agent()])
    await rig.start()
    records = batch([b"a", b"bad", b"c", b"a"])
    await rig.feed(records)
    assert not await rig.engine.commits.commit()
    assert await rig.flow.released() == {SOURCE: 0}
    assert rig.writer.epochs == []
    await rig.feed(records)
    await rig.commit()
    assert counted(rig.writer.epochs) == {"a": 2, "c": 1}
    [epoch] = rig.writer.epochs
    assert [output.value for output in epoch.outputs] == [b"bad"]
    assert epoch.tasks[SOURCE].counts.rejected == 1
    await rig.engine.close()


async def test_what_a_late_epoch_gathered_is_folded_into_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await folding(tmp_path, monkeypatch, 3, few_keys=True)
    rig.engine._lateness.seconds = 60.0
    for number, values in enumerate(([b"a", b"b"], [b"a", b"c"], [b"b", b"d"])):
        await rig.feed(batch(values, number * 2))
    assert rig.engine._filling.gathered("source") == 2
    await rig.commit()
    [epoch] = rig.writer.epochs
    [rekeyed] = epoch.rekeyed
    assert rekeyed.values == {"a": 2, "b": 2, "c": 1, "d": 1}
    assert epoch.tasks[SOURCE].position == 6
    await rig.engine.close()


async def test_of_many_keys_nothing_is_folded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await folding(tmp_path, monkeypatch, 2)
    await rig.feed(batch([b"a", b"b"]))
    await rig.commit()
    rig.engine._lateness.seconds = 60.0
    await rig.feed(batch([b"a", b"b"], 2))
    assert rig.engine._filling.gathered("source") == 2
    await rig.engine.close()


async def test_what_keeps_up_is_left_to_the_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await folding(tmp_path, monkeypatch, 3, few_keys=True)
    await rig.feed(batch([b"a", b"b", b"c", b"d"]))
    assert rig.engine._filling.gathered("source") == 4
    await rig.engine.close()


async def test_a_record_that_cannot_be_folded_costs_that_record_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await folding(tmp_path, monkeypatch, 1)
    rig.engine._lateness.seconds = 60.0
    records = batch([b"a", b"bad", b"a"])
    await rig.feed(records)
    assert await rig.flow.released() == {SOURCE: 0}
    await rig.feed(records)
    await rig.commit()
    assert counted(rig.writer.epochs) == {"a": 2}
    assert [each.value for each in rig.writer.epochs[0].outputs] == [b"bad"]
    await rig.engine.close()


def test_the_driver_says_of_which_topic_no_partials_can_be_made() -> None:
    driver = Driver([gathering_agent()], {"source": 2, "partials": 1})
    with pytest.raises(GatherError, match="of source") as caught:
        driver.feed("source", [b"bad"], partition=1)
    assert caught.value.topic == "source"
