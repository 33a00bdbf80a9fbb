"""One broker of the drills' own for the whole run, started when the first drill needs it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.faults.own_broker import OwnBroker, own_broker


@pytest.fixture(scope="session")
def drill_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    """A broker that may be killed, paused and cut off."""
    with own_broker(tmp_path_factory.mktemp("drill-broker")) as broker:
        yield broker
