"""Measurements, and the acceptance checks that are about time. ``python -m benchmarks``."""
