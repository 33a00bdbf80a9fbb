"""Lifecycle events of entities, from ``entity-events`` to the tables and to ``entity-state``."""
