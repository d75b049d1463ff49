"""A client of a running cluster, for the commands that look at one: any Kafka cluster without TLS or login, ours too.

Synchronous, one request at a time. Requests are plain trees in kio's names (times in ms), sent in the newest version that
both sides know up to the one that the command was written for; replies are kio's entities. Requests that belong to one
node (a partition's leader, a coordinator) are sent there. What can't be reached or is refused is a CommandError.
"""

from __future__ import annotations

import io
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from types import NoneType, TracebackType
from typing import Any, Final, Self, TypeAlias, get_args, get_origin

from kio.serial import entity_reader, entity_writer
from kio.serial.errors import SerialError

from oncelog.broker.settings import Address, parse_address
from oncelog.cli.failures import CommandError, ExitCode
from oncelog.model.errors import ErrorCode
from oncelog.wire.shapes import message_class

TIMEOUT_SECONDS: Final = 15.0

_METADATA: Final = 3
_FIND_COORDINATOR: Final = 10
_API_VERSIONS: Final = 18
#: No reply that a command asks for is longer; more is a sign that no Kafka broker is there.
_REPLY_BYTES_MAX: Final = 256 * 1024 * 1024
_ZERO: Final[dict[str, Any]] = {"string": "", "bytes": b"", "records": b"", "bool": False, "float64": 0.0, "uuid": None}
#: Reads a reply's body from its place on; for what kio can't read.
Read: TypeAlias = Callable[[bytes, int], Any]
_ERRORS: Final = {int(code): code for code in ErrorCode}


def refused(what: str, code: int, why: str | None = None) -> CommandError:
    """``what`` could not be done; the broker's own words, or what its code means."""
    known = _ERRORS.get(code)
    name = known.name if known is not None else f"error {code}"
    reason = why or (known.sentence if known is not None else "See Kafka's list of error codes.")
    return CommandError(ExitCode.REFUSED, f"{what}: {name}. {reason}")


class Connection:
    """To one node. Raises OSError, and EOFError if it is closed."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._socket = socket.create_connection(address, timeout=TIMEOUT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._correlation_id = 0
        with ExitStack() as undo:
            undo.callback(self._socket.close)
            versions = self._exchange(message_class(_API_VERSIONS, 0, "request")(), _API_VERSIONS, 0)
            undo.pop_all()
        self._versions = {row.api_key: (row.min_version, row.max_version) for row in versions.api_keys}

    def ask(self, api_key: int, version_max: int, tree: Mapping[str, Any], read: Read | None = None) -> Any:
        """The reply's entity, or what ``read`` makes of its bytes after the header."""
        low, high = self._versions.get(api_key, (0, -1))
        version = min(version_max, high)
        if version < low:
            raise CommandError(
                ExitCode.REFUSED, f"the broker at {self.address} does not serve API {api_key} as needed."
            )
        return self._exchange(_entity(message_class(api_key, version, "request"), tree), api_key, version, read)

    def close(self) -> None:
        """Close."""
        self._socket.close()

    def _exchange(self, request: Any, api_key: int, version: int, read: Read | None = None) -> Any:
        self._correlation_id += 1
        head_type = request.__header_schema__
        head = {"request_api_key": api_key, "request_api_version": version, "correlation_id": self._correlation_id}
        buffer = io.BytesIO()
        entity_writer(head_type)(buffer, head_type(**head, client_id="oncelog"))
        entity_writer(type(request))(buffer, request)
        body = buffer.getvalue()
        self._socket.sendall(struct.pack(">i", len(body)) + body)
        (size,) = struct.unpack(">i", self._exactly(4))
        if not 4 <= size <= _REPLY_BYTES_MAX:
            raise EOFError("what answers there does not speak Kafka's protocol")
        reply = self._exactly(size)
        message = message_class(api_key, version, "response")
        _, at = entity_reader(message.__header_schema__)(reply, 0)
        return read(reply, at) if read is not None else entity_reader(message)(reply, at)[0]

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            chunk = self._socket.recv(min(count - len(data), 1 << 20))
            if not chunk:
                raise EOFError("the connection was closed before an answer came")
            data += chunk
        return bytes(data)


class Cluster:
    """The nodes behind ``bootstrap`` (HOST:PORT, several with commas); connections are made when they are needed."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._connections: dict[Address, Connection] = {}
        self.nodes: dict[int, Address] = {}
        self._first = self._reach()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for connection in self._connections.values():
            connection.close()

    def _reach(self) -> Address:
        why = "no address was given"
        for text in self.bootstrap.split(","):
            address = parse_address(text, port_default=9092)
            try:
                self._connections[address] = Connection(address)
            except (OSError, EOFError, SerialError) as error:
                why = f"{getattr(error, 'strerror', None) or error}"
                continue
            return address
        raise CommandError(
            ExitCode.NO_BROKER,
            f"no broker answers at {self.bootstrap}: {why}. "
            "Start one with `oncelog serve`, or say where it is with --bootstrap HOST:PORT.",
        )

    def ask(
        self,
        api_key: int,
        version_max: int,
        tree: Mapping[str, Any],
        *,
        node: int | None = None,
        read: Read | None = None,
    ) -> Any:
        """The reply of a node, or of any one."""
        address = self._first if node is None else self.nodes[node]
        try:
            connection = self._connections.get(address)
            if connection is None:
                connection = self._connections[address] = Connection(address)
            return connection.ask(api_key, version_max, tree, read)
        except SerialError as error:
            raise CommandError(
                ExitCode.REFUSED, f"the answer of the broker at {address} can't be read: {error}."
            ) from None
        except (OSError, EOFError) as error:
            why = getattr(error, "strerror", None) or error
            raise CommandError(ExitCode.NO_BROKER, f"the broker at {address} does not answer: {why}.") from None

    def topics(self, *names: str) -> list[Any]:
        """Metadata of topics, of all without names; the nodes are known afterwards."""
        wanted = [{"name": name} for name in names] if names else None
        reply = self.ask(_METADATA, 9, {"topics": wanted, "allow_auto_topic_creation": False})
        self.nodes = {node.node_id: Address(node.host, node.port) for node in reply.brokers}
        return list(reply.topics)

    def topic(self, name: str) -> Any:
        """One that must be there."""
        (found,) = self.topics(name)
        if found.error_code:
            raise refused(f"topic {name!r}", int(found.error_code), "`oncelog topics list` shows what there is.")
        return found

    def coordinator(self, key: str, *, is_transaction: bool) -> int:
        """The node that coordinates a transactional id or a group."""
        if not self.nodes:
            self.topics()
        reply = self.ask(_FIND_COORDINATOR, 3, {"key": key, "key_type": int(is_transaction)})
        if reply.error_code:
            raise refused(f"the coordinator of {key!r}", int(reply.error_code), reply.error_message)
        self.nodes[reply.node_id] = Address(reply.host, reply.port)
        node: int = reply.node_id
        return node


# -- requests from plain values ---------------------------------------------------------------------------------------


def _entity(kind: Any, tree: Mapping[str, Any]) -> Any:
    """What this version does not know of the tree is left out; what the tree does not say is empty."""
    return kind(**{field.name: _value(field, tree[field.name]) for field in fields(kind) if field.name in tree} | {
        field.name: _empty(field) for field in fields(kind) if field.name not in tree and field.default is MISSING
    })  # fmt: skip


def _kind(field: Field[Any]) -> tuple[Any, bool]:
    kind = next((arm for arm in get_args(field.type) if arm is not NoneType), field.type)
    kind = field.type if get_origin(field.type) is tuple else kind
    if get_origin(kind) is tuple:
        return get_args(kind)[0], True
    return kind, False


def _value(field: Field[Any], value: Any) -> Any:
    kind, is_array = _kind(field)
    if value is None:
        return None
    return tuple(_one(field, kind, item) for item in value) if is_array else _one(field, kind, value)


def _one(field: Field[Any], kind: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return _entity(kind, value)
    word = field.metadata.get("kafka_type", "")
    if word.startswith("timedelta"):
        return timedelta(milliseconds=value)
    if word.startswith("datetime"):
        return datetime.fromtimestamp(value / 1000, UTC)
    return value


def _empty(field: Field[Any]) -> Any:
    kind, is_array = _kind(field)
    if is_array:
        return ()
    if is_dataclass(kind):
        return _entity(kind, {})
    return _one(field, kind, _ZERO.get(field.metadata["kafka_type"], 0))
