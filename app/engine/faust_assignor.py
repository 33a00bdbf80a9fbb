"""Who owns which partition, who keeps a standby of it, and how queries find both.

Faust's assignor with a placement of its own: Faust's leaves workers without any partition
as soon as standbys are wanted (4 partitions on 3 workers become 2, 2 and 0). The group's
assignment proper holds actives only. Standbys travel in its user data: each worker's own
in the client assignment, everybody's in the field where Faust would publish changelogs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from faust.assignor.client_assignment import ClientAssignment, CopartitionedAssignment
from faust.assignor.cluster_assignment import ClusterAssignment
from faust.assignor.partition_assignor import PartitionAssignor
from faust.types.assignor import HostToPartitionMap

if TYPE_CHECKING:
    from app.engine.faust_app import EngineApp


@dataclass(frozen=True, slots=True)
class Held:
    """Partitions of a worker: those it owns, and those it only keeps a standby of."""

    actives: frozenset[int] = frozenset()
    standbys: frozenset[int] = frozenset()


def place(partitions: int, held: Mapping[str, Held], replicas: int) -> dict[str, Held]:
    """Place ``partitions`` on the workers of ``held``, which says what each has now (>= 1).

    Loads differ by one at most. Nothing moves without need, and what must move goes to a
    worker with a standby of it where that has room. Each partition gets ``replicas``
    standbys, fewer where there are not as many other workers, and rather where its state is
    already. The same input gives the same placement.
    """
    actives = _place_actives(partitions, held)
    standbys = _place_standbys(partitions, held, actives, min(replicas, len(held) - 1))
    return {name: Held(frozenset(actives[name]), frozenset(standbys[name])) for name in held}


def _place_actives(partitions: int, held: Mapping[str, Held]) -> dict[str, set[int]]:
    least, surplus = divmod(partitions, len(held))
    richest = sorted(held, key=lambda name: (-len(held[name].actives), name))
    room = {name: least + (rank < surplus) for rank, name in enumerate(richest)}
    placed: dict[str, set[int]] = {name: set() for name in richest}
    free = set(range(partitions))
    for name in richest:
        # A partition two workers claim (one of them was away) stays with the first.
        kept = held[name].actives & free
        ranked = sorted(kept, key=lambda p: (_has_standby(p, held, name), p))
        placed[name] = set(ranked[: room[name]])
        free -= placed[name]
    for with_standby in (True, False):
        for partition in sorted(free):
            able = [
                name
                for name in richest
                if len(placed[name]) < room[name]
                and (partition in held[name].standbys or not with_standby)
            ]
            if able:
                placed[min(able, key=lambda name: (len(placed[name]), name))].add(partition)
                free.discard(partition)
    return placed


def _has_standby(partition: int, held: Mapping[str, Held], besides: str) -> bool:
    return any(partition in each.standbys for name, each in held.items() if name != besides)


def _place_standbys(
    partitions: int, held: Mapping[str, Held], actives: Mapping[str, set[int]], replicas: int
) -> dict[str, set[int]]:
    placed: dict[str, set[int]] = {name: set() for name in sorted(held)}
    owners = {p: name for name, owned in actives.items() for p in owned}
    share = -(-partitions * replicas // len(held))
    shadowed: dict[tuple[str, str], int] = defaultdict(int)
    for partition in range(partitions):
        owner = owners[partition]

        def cost(name: str, partition: int = partition, owner: str = owner) -> tuple[Any, ...]:
            has = partition in held[name].standbys or partition in held[name].actives
            # Spread over the others: whoever dies, its partitions do not all fall on one.
            load, of_owner = len(placed[name]), shadowed[name, owner]
            return (load >= share, not has, of_owner, load, name)

        for name in sorted(placed.keys() - {owner}, key=cost)[:replicas]:
            placed[name].add(partition)
            shadowed[name, owner] += 1
    return placed


class StandbyAssignor(PartitionAssignor):
    """Faust's assignor, with :func:`place` and with standbys published for queries."""

    app: EngineApp

    def _perform_assignment(self, cluster: Any, member_metadata: Any) -> Any:
        clients = {
            member: self._get_client_metadata(metadata)
            for member, metadata in member_metadata.items()
        }
        subscriptions = {m: metadata.subscription for m, metadata in member_metadata.items()}
        known = ClusterAssignment()
        for member, metadata in clients.items():
            known.add_client(member, subscriptions[member], metadata)
        self._update_member_urls(clients)
        groups = self._get_copartitioned_groups(known.topics(), cluster, subscriptions)
        assignments = {m: ClientAssignment(actives={}, standbys={}) for m in member_metadata}
        group_of: dict[str, int] = {}
        for group, (partitions, copartitioned) in enumerate(sorted(groups.items())):
            for topics in copartitioned:
                group_of |= dict.fromkeys(topics, group)
                held = {
                    member: Held(frozenset(each.actives), frozenset(each.standbys))
                    for member, each in known.copartitioned_assignments(topics).items()
                }
                for member, each in place(partitions, held, self.replicas).items():
                    assignments[member].add_copartitioned_assignment(
                        CopartitionedAssignment(set(each.actives), set(each.standbys), set(topics))
                    )
        return self._protocol_assignments(
            assignments,
            self._get_changelog_distribution(assignments),
            self._get_external_topic_distribution(assignments),
            group_of,
        )

    def _get_changelog_distribution(self, assignments: Any) -> HostToPartitionMap:
        """Standbys of everybody, of the topics that have tables."""
        topics = self.app.standby_topics()
        return {
            self._member_urls[member]: self._topics_filtered(assignment.standbys, topics)
            for member, assignment in assignments.items()
        }

    def standby_urls(self, topic: str, partition: int) -> list[str]:
        """URLs of the workers that keep a standby of a partition (physical topic)."""
        return sorted(
            str(url).rstrip("/")
            for url, topics in self.changelog_distribution.items()
            if partition in topics.get(topic, ())
        )
