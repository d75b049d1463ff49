"""A very small HTTP server for /metrics, /healthz, /transactions and /fences: GET only, one answer a connection.

What it may not know: where the answers come from; ``routes`` maps a path to a function that gives one.
Bounds: ``CONNECTIONS_MAX`` connections, ``REQUEST_BYTES_MAX`` a request, ``REQUEST_SECONDS_MAX`` to send it and to take the
answer. Anything else than a GET of a known path is answered with one line of text and closed.
Why not a library: docs/decisions/dependencies.md.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

CONNECTIONS_MAX: Final = 32
REQUEST_BYTES_MAX: Final = 8_192
REQUEST_SECONDS_MAX: Final = 10.0

_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    503: "Service Unavailable",
}
_TEXT: Final = "text/plain; charset=utf-8"


class Answer(NamedTuple):
    """What a route gives: an HTTP status, a body and its type."""

    status: int
    body: bytes
    content_type: str = _TEXT


Routes = Mapping[str, Callable[[], Answer]]


class AdminServer:
    """Serves from ``listen`` until ``close``."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self.connections: set[_Connection] = set()
        self._servers: list[asyncio.AbstractServer] = []

    async def listen(self, sockets: Iterable[socket.socket]) -> None:
        """Begin to listen on bound sockets. Raises OSError."""
        loop = asyncio.get_running_loop()
        for bound in sockets:
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=bound))

    def close(self) -> None:
        """Stop listening and close what is open."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.abort()


class _Connection(asyncio.Protocol):
    """One request and its answer."""

    def __init__(self, server: AdminServer) -> None:
        self._server = server
        self._received = bytearray()
        self._transport: Any = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # uvloop's is no asyncio.Transport
        connections = self._server.connections
        connections.add(self)
        self._timer = asyncio.get_running_loop().call_later(REQUEST_SECONDS_MAX, self.abort)
        if len(connections) > CONNECTIONS_MAX:
            self._answer(Answer(503, b"too many connections\n"))

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._received += data
        if b"\r\n\r\n" in self._received or b"\n\n" in self._received:
            self._answer(_routed(self._server.routes, self._received))
        elif len(self._received) > REQUEST_BYTES_MAX:
            self._answer(Answer(431, b"the request is too long\n"))

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._server.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()

    def abort(self) -> None:
        """Close without another word."""
        if self._transport is not None:
            self._transport.abort()

    def _answer(self, answer: Answer) -> None:
        head = (
            f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
            f"Content-Type: {answer.content_type}\r\n"
            f"Content-Length: {len(answer.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + answer.body)
        self._transport.close()


def _routed(routes: Routes, request: bytearray) -> Answer:
    """The answer to a request, of which only the first line counts."""
    words = bytes(request).split(b"\n", 1)[0].split()
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return Answer(400, b"this port speaks HTTP/1.1\n")
    if words[0] != b"GET":
        return Answer(405, b"only GET is served here\n")
    path = words[1].split(b"?", 1)[0].decode("latin-1")
    route = routes.get(path)
    if route is None:
        known = ", ".join(sorted(routes))
        return Answer(404, f"no such page; there are: {known}\n".encode())
    return route()
