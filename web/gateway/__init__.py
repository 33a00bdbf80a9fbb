"""Ingress over HTTP: events in, acknowledged by the broker, or a reason why not."""
