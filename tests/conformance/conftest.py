"""Foreign clients and raw requests against a broker process with real files."""

from tests.support.fixtures import broker, is_alive_afterwards, own_broker, proxy, raw, unique

__all__ = ["broker", "is_alive_afterwards", "own_broker", "proxy", "raw", "unique"]
