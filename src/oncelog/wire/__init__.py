"""Kafka's protocol as bytes: frames, requests, replies. Sans-I/O; message shapes come from ``kio``."""
