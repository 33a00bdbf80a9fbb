"""Reads of the committed windows from any worker, and the worker's own condition."""
