"""The embedded Kafka and topic administration."""
