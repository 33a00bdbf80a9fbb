"""Mergeable state types and their specs."""
