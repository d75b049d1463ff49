"""A request on its way through the broker, and the connection it came by, as the handlers see them.

A handler is called with a Call inside the turn of the loop in which its bytes arrived, and must see to it that ``reply`` is
called once, now or later. Replies leave in the order of the requests whatever the order of the ``reply`` calls; that is
the connection's care (broker/server.py).
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias
from uuid import UUID

from oncelog.broker.peer import Peer
from oncelog.wire.replies import encode_reply, encode_reply_in_steps

#: The encoded body of a reply: one buffer, or several that are sent one after the other.
Body: TypeAlias = bytes | Sequence[bytes | memoryview]


class Call:
    """One request. ``request`` is the decoded body of its own version: fields of newer versions may be absent."""

    __slots__ = (
        "api_key",
        "body",
        "bytes_received",
        "client_id",
        "correlation_id",
        "is_expecting_reply",
        "is_in_steps",
        "peer",
        "received_ns",
        "request",
        "version",
    )

    def __init__(
        self,
        peer: Peer,
        api_key: int,
        version: int,
        correlation_id: int,
        client_id: str | None,
        request: Any,
        received_ns: int = 0,
        bytes_received: int = 0,
    ) -> None:
        self.peer = peer
        self.api_key, self.version, self.correlation_id = api_key, version, correlation_id
        self.client_id = client_id
        self.request = request
        self.body: Body | None = None
        #: False for Produce with acks=0 (rule P9): the handler sets it before it returns.
        self.is_expecting_reply = True
        #: Whether it is under way in steps (broker/stepping.py): nothing more is read from its connection then.
        self.is_in_steps = False
        #: Set by the server for the meters: monotonic ns when the request was read, and its bytes.
        self.received_ns, self.bytes_received = received_ns, bytes_received

    def is_abandoned(self) -> bool:
        """Whether its client has closed the connection meanwhile: it has moved on, and the request must not act (rule D4)."""
        if not self.peer.is_gone():
            return False
        self.peer.close("its client closed it while a transactional request was under way (D4)")
        return True

    def encode(self, tree: Mapping[str, Any]) -> bytes:
        """The body of a reply in this call's version: ``tree`` has kio's field names, for all versions; times in ms."""
        return encode_reply(self.api_key, self.version, tree)

    def encode_in_steps(self, tree: Mapping[str, Any]) -> Generator[None, None, Body]:
        """The same in steps, for what may be long."""
        return (yield from encode_reply_in_steps(self.api_key, self.version, tree))

    def reply(self, body: Body) -> None:
        """Answer with an encoded body. Once."""
        assert self.body is None, "answered twice"
        self.body = body
        self.peer.answered(self)


def milliseconds(value: timedelta) -> int:
    """Kio's form of a time span in a request, as ms."""
    return value.days * 86_400_000 + value.seconds * 1_000 + value.microseconds // 1_000


def given_id(value: UUID | None) -> UUID | None:
    """A topic id of a request; the zero id stands for "not given"."""
    return value if value is not None and value.int else None
