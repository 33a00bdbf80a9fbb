"""The consumer of ``log-events``: decodes a batch once for every step of the topic."""
