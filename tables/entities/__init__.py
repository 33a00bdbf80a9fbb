"""Entity state: the latest version of each device, account or driver, and what led to it.

Lifecycle events (``register``, ``update``, ``deregister``) come in on ``entity-events``, keyed
``type:id``; that topic is the history, ``entity-state`` the compacted latest state. An event
carries the whole of its entity's attributes and the version its writer gave it: the highest
(version, timestamp, event id) wins, whatever the order of arrival, and a deregistration wins
or loses like any other version, so that nothing older brings an entity back. Two tables
live in the partition of the key: ``entities``, one row per entity, and ``entity_history``,
its newest events. The types, and their limits, stand in ``config/entities.yaml``.

``spec`` reads that file, ``event`` is what one event may hold, ``state`` and ``history`` are
the tables and the rule that decides, ``snapshot`` tells two copies of the state apart.
"""
