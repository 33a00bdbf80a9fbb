"""Stores that change hands stay open; who gave one away can do nothing with it any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.engine.epoch import TaskId
from app.engine.store import Positions, Store, StoreError
from app.engine.stores import Stores
from tests.engine.rig import COUNTS, SOURCE, Rig, batch, counting_agent, engine_config

OTHER = TaskId("source", 1)


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(engine_config(tmp_path))


def taken(stores: Stores, task: TaskId = SOURCE) -> Store:
    store = stores.take(task, counting_agent())
    assert store is not None
    return store


def database(store: Store) -> object:
    return store._db


def test_a_store_given_back_is_taken_as_it_stands(stores: Stores) -> None:
    first = taken(stores)
    first.write({COUNTS.identity: {b"a": b"1"}}, Positions(3, 4))
    held = database(first)
    stores.give(SOURCE, first)
    again = taken(stores)
    assert database(again) is held
    assert (again.get(COUNTS.identity, b"a"), again.positions()) == (b"1", Positions(3, 4))
    again.close()


def test_who_gave_a_store_back_cannot_write_to_it_any_more(stores: Stores) -> None:
    first = taken(stores)
    stores.give(SOURCE, first)
    again = taken(stores)
    with pytest.raises(StoreError, match="handed over"):
        first.write({COUNTS.identity: {b"late": b"1"}}, Positions(9, 9))
    with pytest.raises(StoreError):
        first.get(COUNTS.identity, b"late")
    with pytest.raises(StoreError):
        first.reset()
    assert again.get(COUNTS.identity, b"late") is None
    again.close()


def test_what_nobody_takes_is_closed_but_for_what_somebody_will(stores: Stores) -> None:
    kept, gone = taken(stores), taken(stores, OTHER)
    held = database(kept)
    stores.give(SOURCE, kept)
    stores.give(OTHER, gone)
    stores.close_idle({SOURCE})
    assert database(taken(stores)) is held
    opened = taken(stores, OTHER)
    assert database(opened) is not database(gone)
    opened.close()


def test_an_agent_without_tables_has_no_store(stores: Stores) -> None:
    assert stores.take(SOURCE, counting_agent(tables=(), changelog=None)) is None


async def test_a_partition_that_stays_keeps_its_database_and_one_that_goes_is_closed(
    tmp_path: Path,
) -> None:
    rig = Rig(tmp_path)
    await rig.start(SOURCE, OTHER)
    await rig.feed(batch([b"a"]))
    before = rig.engine.tasks[SOURCE].store
    assert before is not None
    held = database(before)
    await rig.start(SOURCE)
    after = rig.engine.tasks[SOURCE].store
    assert after is not None
    assert (database(after) is held, after.get(COUNTS.identity, b"a")) == (True, b"1")
    free = taken(Stores(rig.engine.config), OTHER)
    free.close()
    await rig.engine.close()
    assert taken(Stores(rig.engine.config)).positions().source == 1
