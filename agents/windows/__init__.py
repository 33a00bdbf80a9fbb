"""Windows as steps: partials beside the source, merged where the key lives."""
