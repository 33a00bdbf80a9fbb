"""Faust's table manager, replaced: partitions go to the engine, which restores them itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from faust.tables import TableManager
from faust.types import TP

from app.engine.epoch import TaskId

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


class EngineTables(TableManager):
    """Tells the engine what it owns. There are no Faust tables."""

    app: EngineApp

    async def on_start(self) -> None:
        """Nothing to register: the conductor may subscribe at once."""
        self._tables_registered.set()

    async def on_stop(self) -> None:
        """Stop fetching."""
        await self.app._fetcher.stop()  # noqa: SLF001 - as the base class does

    def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """The engine hands over when Faust waits for the consumer to be empty."""

    async def on_rebalance(
        self,
        assigned: set[TP],
        revoked: set[TP],  # noqa: ARG002 - the base class's signature
        newly_assigned: set[TP],  # noqa: ARG002 - the base class's signature
        generation_id: int = 0,  # noqa: ARG002 - the base class's signature
    ) -> None:
        """Give the engine its partitions; it runs them once they are restored."""
        app = self.app
        tasks = {TaskId(app.logical(tp.topic), tp.partition) for tp in assigned}
        await app.engine.assign(
            {task for task in tasks if task.topic in app.engine.specs},
            app.membership,
            app.assigned_standbys() - tasks,
        )
        await app._fetcher.maybe_start()  # noqa: SLF001 - the base class's recovery does it
        self.on_actives_ready()
        self.on_standbys_ready()

    async def wait_until_recovery_completed(self) -> bool:
        """Timers and web answer while partitions are restored; /ready tells."""
        return False

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __eq__(self, other: Any) -> bool:
        return self is other
