"""A synchronous client that says exactly what it is told to: one connection, one request after the other.

    raw = RawClient(port)
    reply = raw.call("end_txn", 3, transactional_id="t", producer_id=7, producer_epoch=0, committed=True)
    assert reply.error_code == 90

Fields are kio's names, plain values, times in ms. ``post`` and ``receive`` leave several requests in flight.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from types import TracebackType
from typing import Any

from tests.support.messages import api_name, build, decode_response, encode_request, message_type


class RawClient:
    """One connection. Every wait is bounded by ``timeout_seconds``; a closed connection is a ConnectionError."""

    def __init__(
        self, port: int, *, host: str = "127.0.0.1", client_id: str | None = "raw", timeout_seconds: float = 15.0
    ) -> None:
        self.client_id = client_id
        self._socket = socket.create_connection((host, port), timeout=timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._waiting: deque[tuple[str, int, int]] = deque()
        self._correlation_id = 0

    def call(self, api: str | int, version: int, /, **tree: Any) -> Any:
        """Send a request built from plain values; its reply's entity."""
        self.post(api, version, **tree)
        return self.receive()

    def send(self, api: str | int, version: int, entity: Any) -> Any:
        """Send a request entity; its reply's entity."""
        self.post_entity(api, version, entity)
        return self.receive()

    def post(self, api: str | int, version: int, /, *, _reply: bool = True, **tree: Any) -> int:
        """Send without waiting; the correlation id. ``_reply=False`` where the broker owes none (rule P9)."""
        entity = build(message_type(api_name(api), version, "request"), tree)
        return self.post_entity(api, version, entity, reply=_reply)

    def post_entity(self, api: str | int, version: int, entity: Any, *, reply: bool = True) -> int:
        self._correlation_id += 1
        if reply:
            self._waiting.append((api_name(api), version, self._correlation_id))
        self._socket.sendall(encode_request(self._correlation_id, self.client_id, entity))
        return self._correlation_id

    def call_bytes(self, api: str | int, version: int, /, **tree: Any) -> bytes:
        """Like ``call``, but the reply's undecoded body: for what ``kio`` can't express."""
        assert not self._waiting, "other replies are due before"
        self.post(api, version, **tree)
        self._waiting.clear()
        return self.receive_body()

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are, a broken frame for instance."""
        self._socket.sendall(data)

    def receive(self) -> Any:
        """The reply to the oldest request that waits. Replies come in the order of the requests."""
        api, version, expected = self._waiting.popleft()
        correlation_id, entity = decode_response(api, version, self.receive_body())
        assert correlation_id == expected, f"the reply to request {correlation_id} came where {expected} was due"
        return entity

    def receive_body(self) -> bytes:
        """The next frame without its length."""
        (length,) = struct.unpack(">i", self._exactly(4))
        return self._exactly(length)

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(count - len(data))
            if not chunk:
                raise ConnectionError(f"closed by the broker after {len(data)} of {count} bytes")
            data += chunk
        return bytes(data)

    def is_closed_by_peer(self, *, within_seconds: float = 20.0) -> bool:
        """Wait until the broker closes the connection."""
        self._socket.settimeout(within_seconds)
        try:
            return self._socket.recv(1) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> RawClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def until_ended(bootstrap: str, transactional_id: str, seconds: float = 30.0) -> None:
    """Waits until no transaction of an id that begins so is open: the broker has ended what took too long."""
    deadline = time.monotonic() + seconds
    with RawClient(int(bootstrap.rpartition(":")[2])) as client:
        while any(
            each.transactional_id.startswith(transactional_id)
            for each in client.call(
                "list_transactions", 0, state_filters=["Ongoing"], producer_id_filters=[]
            ).transaction_states
        ):
            assert time.monotonic() < deadline, f"a transaction of {transactional_id} is still open"
            time.sleep(0.05)
