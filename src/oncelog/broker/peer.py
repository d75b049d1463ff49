"""The connection that a request came by, as handlers see it. Apart from call.py, which can be compiled; tests have theirs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from oncelog.broker.call import Call


class Peer(Protocol):
    """A client's connection. ``number`` grows with each connection that is accepted; ``address`` is "host:port"."""

    number: int
    address: str

    def answered(self, call: Call) -> None:
        """``call.body`` is there; send it when all replies before it are sent."""

    def is_gone(self) -> bool:
        """Whether the client has closed the connection, also if the bytes that say so were not read yet (rule D4)."""

    def close(self, why: str) -> None:
        """Close the connection; ``why`` is for the log."""

    def go_on(self) -> None:
        """A request that went in steps is done: what came after it may be read."""
