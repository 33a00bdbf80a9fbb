"""Exact micro-batches under Faust: epochs, state, recovery. Knows nothing of logs."""
