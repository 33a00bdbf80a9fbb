"""From what shippers send to the canonical stream: application-logs and the like -> log-events."""
