"""Applications against a broker process; results are counted by an independent read_committed reader."""

from tests.support.fixtures import broker, is_alive_afterwards, own_broker, proxy, unique

__all__ = ["broker", "is_alive_afterwards", "own_broker", "proxy", "unique"]
