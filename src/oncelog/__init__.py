"""Exactly-once delivery on the Kafka protocol, in one Python process."""
