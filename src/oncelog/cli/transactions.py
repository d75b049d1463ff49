"""``oncelog transactions``: what is open and for how long, who holds it up, why a producer was fenced (rules D5, T11)."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from cyclopts import App

from oncelog.cli.failures import CommandError, ExitCode
from oncelog.cli.options import BOOTSTRAP, EXIT_CODES, AsJson, Bootstrap, Pages

if TYPE_CHECKING:
    from oncelog.cli.cluster import Cluster

_INIT_PRODUCER_ID: Final = 22
_DESCRIBE_TRANSACTIONS: Final = 65
_LIST_TRANSACTIONS: Final = 66
_ONGOING: Final = "Ongoing"
_PAGE_SECONDS: Final = 15.0
#: In DescribeTransactions' reply: throttle time and the count of one; then the code; after two texts, the numbers.
_BEFORE_CODE_BYTES: Final = 5
_CODE: Final = struct.Struct(">h")
_NUMBERS: Final = struct.Struct(">iqqh")

_ABORT_SECONDS: Final = 30.0
_ABORT_PAUSE_SECONDS: Final = 0.05

app = App(
    name="transactions",
    help=f"List, describe and abort transactions of a running cluster; why producers were fenced.\n\n{EXIT_CODES}",
)


@app.command(name="list")
def list_transactions(*, open_only: bool = False, bootstrap: Bootstrap = BOOTSTRAP, json: AsJson = False) -> None:
    """List all transactional ids: open transactions first, the oldest of them first.

    An open transaction keeps read_committed readers of its partitions waiting. If its producer is gone, it ends by itself
    after its timeout; `oncelog transactions abort ID` ends it now.

    Parameters
    ----------
    open_only
        Only those with an open transaction.
    """
    from oncelog.cli.cluster import Cluster
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        rows = [_row(cluster, one.transactional_id) for one in _listed(cluster, open_only)]
    rows.sort(key=lambda row: (row["state"] != _ONGOING, -row["open_ms"], row["id"]))
    show(rows, ("id", "state", "producer", "epoch", "open_for", "timeout", "partitions"), is_json=json)


def _listed(cluster: Cluster, open_only: bool) -> Iterator[Any]:
    from oncelog.cli.cluster import refused

    cluster.topics()
    for node in cluster.nodes:
        tree = {"state_filters": (_ONGOING,) if open_only else (), "producer_id_filters": (), "duration_filter": -1}
        reply = cluster.ask(_LIST_TRANSACTIONS, 1, tree, node=node)
        if reply.error_code:
            raise refused("the list of transactions", int(reply.error_code))
        yield from reply.transaction_states


class _Described(NamedTuple):
    """One transactional id as its coordinator describes it. ``partitions`` as "topic-3"; ``started_ms`` -1: none is open."""

    error_code: int
    state: str
    timeout_ms: int
    started_ms: int
    producer_id: int
    epoch: int
    partitions: tuple[str, ...]


def _read_described(data: bytes, at: int) -> _Described:
    """DescribeTransactions' reply, version 0, of one id. By hand: kio refuses the -1 that stands for "not begun"."""
    from oncelog.wire.checking import varint

    def text() -> str:
        nonlocal at
        size, start = varint(data, at)
        at = start + size - 1
        return data[start:at].decode()

    code, at = _CODE.unpack_from(data, at + _BEFORE_CODE_BYTES)[0], at + _BEFORE_CODE_BYTES + _CODE.size
    text()
    state = text()
    timeout_ms, started_ms, producer_id, epoch = _NUMBERS.unpack_from(data, at)
    count, at = varint(data, at + _NUMBERS.size)
    partitions: list[str] = []
    for _ in range(count - 1):
        topic = text()
        size, at = varint(data, at)
        partitions += (f"{topic}-{index}" for index in struct.unpack_from(f">{size - 1}i", data, at))
        at += 4 * (size - 1) + 1
    return _Described(code, state, timeout_ms, started_ms, producer_id, epoch, tuple(partitions))


def _described(cluster: Cluster, transactional_id: str) -> _Described:
    from oncelog.cli.cluster import refused

    node = cluster.coordinator(transactional_id, is_transaction=True)
    tree = {"transactional_ids": (transactional_id,)}
    found: _Described = cluster.ask(_DESCRIBE_TRANSACTIONS, 0, tree, node=node, read=_read_described)
    if found.error_code:
        hint = "`oncelog transactions list` shows what there is."
        raise refused(f"transactional id {transactional_id!r}", int(found.error_code), hint)
    return found


def _row(cluster: Cluster, transactional_id: str) -> dict[str, Any]:
    from oncelog.cli.tables import lasted

    found = _described(cluster, transactional_id)
    is_open = found.state == _ONGOING
    open_ms = max(0, time.time_ns() // 1_000_000 - found.started_ms) if is_open else -1
    return {
        "id": transactional_id,
        "state": found.state,
        "producer": found.producer_id,
        "epoch": found.epoch,
        "open_ms": open_ms,
        "open_for": lasted(open_ms) if is_open else None,
        "timeout": lasted(found.timeout_ms),
        "partitions": ", ".join(found.partitions),
    }


@app.command
def describe(
    transactional_id: str, /, *, bootstrap: Bootstrap = BOOTSTRAP, metrics: Pages = None, json: AsJson = False
) -> None:
    """Show one transactional id: its producer, its open transaction, and with --metrics who was fenced and why.

    Parameters
    ----------
    transactional_id
        The transactional.id of the producer.
    """
    from oncelog.cli.cluster import Cluster
    from oncelog.cli.tables import show

    with Cluster(bootstrap) as cluster:
        row = _row(cluster, transactional_id)
    show([row], ("id", "state", "producer", "epoch", "open_for", "timeout", "partitions"), is_json=json)
    if metrics is not None:
        if not json:
            print()
        _show_fences(metrics, transactional_id, is_json=json)


@app.command
def fences(*, metrics: str = "127.0.0.1:9464", json: AsJson = False) -> None:
    """List the producers that an oncelog broker has fenced since its start, the newest last: when, why, and by whom.

    A producer that meets PRODUCER_FENCED or INVALID_PRODUCER_EPOCH was either replaced by another instance with the same
    transactional.id (both addresses are shown), or its transaction timed out.

    Parameters
    ----------
    metrics
        HOST:PORT that `oncelog serve` was given as --metrics.
    """
    _show_fences(metrics, None, is_json=json)


def _show_fences(address: str, transactional_id: str | None, *, is_json: bool) -> None:
    from oncelog.cli.tables import moment, show

    rows = [
        row | {"time": moment(row["time_ms"]), "id": row["transactional_id"], "producer": row["producer_id"]}
        for row in _page(address, "/fences")
        if transactional_id in (None, row["transactional_id"])
    ]
    show(rows, ("time", "id", "producer", "epoch", "reason", "why"), is_json=is_json)


def _page(address: str, path: str) -> Any:
    """A page of the broker's own, as JSON."""
    import http.client
    import json

    from oncelog.broker.settings import parse_address

    where = parse_address(address)
    connection = http.client.HTTPConnection(where.host, where.port, timeout=_PAGE_SECONDS)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        why = getattr(error, "strerror", None) or error
        raise CommandError(
            ExitCode.NO_BROKER,
            f"no pages at {where}: {why}. Start the broker with `oncelog serve --metrics {where}`, or name its address.",
        ) from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise CommandError(ExitCode.REFUSED, f"{where}{path} answers {answer.status}: {text[:200]!r}.")
    return json.loads(text)


@app.command
def abort(transactional_id: str, /, *, bootstrap: Bootstrap = BOOTSTRAP) -> None:
    """Abort the open transaction of a transactional id, in all its partitions, and fence its producer.

    It asks for the id as a new instance of the producer would (InitProducerId), so it works on any cluster. A producer that
    still runs meets PRODUCER_FENCED with its next step and must start anew: its application reads again what the transaction
    had covered.

    Parameters
    ----------
    transactional_id
        The transactional.id of the producer.
    """
    from oncelog.cli.cluster import Cluster, refused

    with Cluster(bootstrap) as cluster:
        before = _described(cluster, transactional_id)
        if before.state != _ONGOING:
            raise refused(f"transactional id {transactional_id!r}", 48, f"No transaction is open: {before.state}.")
        node = cluster.coordinator(transactional_id, is_transaction=True)
        tree = {"transactional_id": transactional_id, "transaction_timeout": before.timeout_ms}
        code = _until_settled(lambda: int(cluster.ask(_INIT_PRODUCER_ID, 2, tree, node=node).error_code))
        if code:
            raise refused(f"the transaction of {transactional_id!r} was not aborted", code)
    where = ", ".join(before.partitions) or "no partition"
    print(f"aborted {transactional_id} (producer {before.producer_id}, epoch {before.epoch}) in {where}")


def _until_settled(ask: Callable[[], int]) -> int:
    """The error code in the end: Apache Kafka begins to abort, and says CONCURRENT_TRANSACTIONS until it is done."""
    from oncelog.model.errors import ErrorCode

    deadline = time.monotonic() + _ABORT_SECONDS
    while (code := ask()) == ErrorCode.CONCURRENT_TRANSACTIONS and time.monotonic() < deadline:
        time.sleep(_ABORT_PAUSE_SECONDS)
    return code
