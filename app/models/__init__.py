"""Events: the schema, its rules, and their two readers (hot path and HTTP edge)."""
