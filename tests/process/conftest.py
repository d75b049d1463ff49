"""The commands as a user runs them: real processes, real signals, exit codes."""

from tests.support.fixtures import is_alive_afterwards, own_broker, unique

__all__ = ["is_alive_afterwards", "own_broker", "unique"]
