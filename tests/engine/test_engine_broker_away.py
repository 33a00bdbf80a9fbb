"""A broker that ends between two questions costs nobody what is stored."""

from __future__ import annotations

from pathlib import Path

import confluent_kafka as ck
import pytest
from confluent_kafka.cimpl import NewTopic

from app.engine.changelog import row_record_key
from app.engine.clock import SystemClock
from app.engine.progress import Progress
from app.engine.restore import RestoreError, Restorer
from app.engine.spec import EngineConfig
from app.engine.standby_tail import Tail
from app.engine.store import Positions, Store
from app.engine.stores import Stores
from tests.engine.rig import COUNTS, PATIENCE_S, SOURCE, counting_agent, engine_config
from tests.faults.own_broker import own_broker
from tests.system.harness import wait_for
from tests.system.topics import make_topics

pytestmark = pytest.mark.faults

CHANGELOG = "source-changelog"
AGENT = counting_agent()


def held(stores: Stores) -> Store:
    store = stores.take(SOURCE, AGENT)
    assert store is not None
    return store


def stands(store: Store) -> tuple[Positions, bytes | None]:
    return store.positions(), store.get(COUNTS.identity, b"a")


def filled(config: EngineConfig) -> None:
    producer = ck.Producer({"bootstrap.servers": config.bootstrap})
    producer.produce(CHANGELOG, b"7", row_record_key(COUNTS.identity, b"a"), 0)
    assert producer.flush(PATIENCE_S) == 0


def test_a_store_is_not_taken_to_be_ahead_of_a_changelog_that_nobody_tells_of(
    tmp_path: Path,
) -> None:
    with own_broker(tmp_path / "broker") as broker:
        make_topics(broker.bootstrap, NewTopic(CHANGELOG, 1, 1))
        owner = engine_config(tmp_path / "owner", bootstrap=broker.bootstrap)
        other = engine_config(tmp_path / "other", bootstrap=broker.bootstrap)
        filled(owner)
        progress, restorer = Progress(SystemClock()), Restorer(owner)
        store = held(Stores(owner))
        wanted = {SOURCE: (CHANGELOG, store)}
        restorer.catch_up(wanted, progress, lambda: False)
        stores = Stores(other)
        tail = Tail(other, {"source": AGENT}, stores, SystemClock())

        def current() -> bool:
            return tail.step(frozenset({SOURCE}))[SOURCE].current_at_s is not None

        wait_for("the standby is current", lambda: current() or None)
        stood = stands(store)
        assert stood == (Positions(1, None), b"7")

        broker.kill()
        with pytest.raises(RestoreError):
            restorer.catch_up(wanted, progress, lambda: False)
        assert stands(store) == stood
        tail.drop(frozenset())
        with pytest.raises(RestoreError):
            tail.step(frozenset({SOURCE}))
        tail.drop(frozenset())
        assert stands(held(stores)) == stood
        restorer.close()
