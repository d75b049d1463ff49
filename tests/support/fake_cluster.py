"""Several brokers that are none: each says what a test wants it to say, on a port of its own.

For what has to follow a whole cluster (the fault proxy) and for versions that nobody here knows. A reply is a tree for an API
and version that kio knows, or the bytes of a body.
"""

from __future__ import annotations

import socketserver
import struct
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from tests.support.messages import API_KEYS, build, encode_response, message_type

#: What a node answers: its own id goes in.
Answer = Callable[[int], Mapping[str, Any] | bytes]
NAMES = {key: name for name, key in API_KEYS.items()}


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True
    block_on_close = False


class FakeCluster:
    """``answers``: by API and version. A request that has no answer there ends its connection."""

    def __init__(self, nodes: int) -> None:
        self.answers: dict[tuple[str, int], Answer] = {}
        self.nodes: dict[int, _Server] = {}
        for node in range(1, nodes + 1):
            self.start(node)

    def start(self, node: int, port: int = 0) -> None:
        """Begin to listen, on a new port if none is given."""
        cluster = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while len(prefix := self.rfile.read(4)) == 4:
                    (length,) = struct.unpack(">i", prefix)
                    answer = cluster.answer(node, self.rfile.read(length))
                    if answer is None:
                        return
                    self.wfile.write(answer)

        self.nodes[node] = server = _Server(("127.0.0.1", port), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self, node: int) -> int:
        """It listens no more; the port that it had."""
        server = self.nodes.pop(node)
        port = int(server.server_address[1])
        server.shutdown()
        server.server_close()
        return port

    def port(self, node: int) -> int:
        return int(self.nodes[node].server_address[1])

    @property
    def ports(self) -> set[int]:
        return {self.port(node) for node in self.nodes}

    def addresses(self, *names: str) -> list[dict[str, Any]]:
        """A list of all nodes, for a reply that calls their ids ``names``."""
        return [
            {"host": "127.0.0.1", "port": self.port(node), **dict.fromkeys(names, node)} for node in sorted(self.nodes)
        ]

    def answer(self, node: int, body: bytes) -> bytes | None:
        """The frame of the reply."""
        api_key, version, correlation_id = struct.unpack_from(">hhi", body)
        name = NAMES.get(api_key, str(api_key))
        made = self.answers.get((name, version))
        if made is None:
            return None
        tree = made(node)
        if isinstance(tree, bytes):
            return struct.pack(">ii", len(tree) + 4, correlation_id) + tree
        return encode_response(correlation_id, build(message_type(name, version, "response"), tree))

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in list(self.nodes):
            self.stop(node)
