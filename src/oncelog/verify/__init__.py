"""Proof for any Kafka cluster: drive it, disturb it, record everything, and judge what was recorded.

What lives here: the history and its checks (pure functions), the workers that make a history and the faults that disturb
them, the published traces, the report. All of it meets the cluster as a client does, oncelog's own broker too.
"""
