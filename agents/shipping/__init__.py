"""Getting events in: files, this host's readings, the broker's log, demonstration traffic."""
