"""The real process under kill -9, with load from foreign clients."""

from tests.support.fixtures import is_alive_afterwards, own_broker, unique

__all__ = ["is_alive_afterwards", "own_broker", "unique"]
