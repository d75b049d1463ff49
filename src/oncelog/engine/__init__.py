"""The semantics, and nothing else: pure decisions over a state (laws 1, 5, 6)."""
