"""``App``: an application declared with decorators, run exactly once.

    app = App("billing", bootstrap="localhost:9092")

    @app.process("orders", to="invoices", dead_letter="orders.dead")
    def bill(order: Record[str, Order], ctx: Context) -> Iterator[Out]:
        yield Out(key=order.key, value=Invoice(order.value.id, ctx.state["total"].add(order.key, order.value.amount)))

    app.run(workers=4)

Each worker reads as a member of the group ``billing`` and writes in transactions of its own id. What a handler gives, the
state that it changes and the offset of its record are one transaction. A handler may run more than once for a record; its
result counts once.
"""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from prometheus_client import start_http_server

from oncelog.app import describing
from oncelog.app.errors import AppError, ConfigurationError
from oncelog.app.exchange import Exchange, Name
from oncelog.app.handlers import Handler
from oncelog.app.identity import Identity, checked_name
from oncelog.app.meters import Meters
from oncelog.app.running import Job, Running, handle_signals
from oncelog.app.serializing import Serializer
from oncelog.app.session import STATE_FOLDER
from oncelog.app.settings import (
    BATCH_RECORDS,
    COMMIT_SECONDS,
    TRANSACTION_TIMEOUT_SECONDS,
    Cluster,
    Delivery,
    Limits,
)
from oncelog.app.topics import check_keys_stay, check_topics, partition_counts
from oncelog.app.topology import OutboxRoute, Processor, Retry, Sink, Topology
from oncelog.app.weaker import WeakExchange
from oncelog.app.worker import Worker, changelog_name

if TYPE_CHECKING:
    from oncelog.app.driver import Driver
    from oncelog.app.schema import Outbox

log = logging.getLogger("oncelog.app")

Function = TypeVar("Function", bound=Callable[..., Any])
WORKERS_MAX = 256
#: New objects, less those that went; few enough that what a failing handler's tracebacks hold does not pile up.
_COLLECTION_EVERY = 10_000


class App:
    """Processors, sinks and outboxes under one name, on one cluster.

    ``name``: the consumer group and the beginning of all transactional ids; give two applications two names. ``bootstrap``:
    HOST:PORT. ``instance``: a name that no other living process of this app has and that a restart keeps; else
    ``ONCELOG_INSTANCE``, else one is kept in ``state_folder``. ``commit_interval``, ``transaction_timeout``: seconds.
    ``commit_early``: a batch does not wait for the interval where few records come and commits are cheap.
    ``delivery``: anything but exactly once has to be asked for. ``client``: more settings for librdkafka.
    """

    def __init__(
        self,
        name: str,
        bootstrap: str = "localhost:9092",
        *,
        instance: str | None = None,
        state_folder: str | Path = STATE_FOLDER,
        delivery: Delivery | str = Delivery.EXACTLY_ONCE,
        batch_records: int = BATCH_RECORDS,
        commit_interval: float = COMMIT_SECONDS,
        commit_early: bool = True,
        transaction_timeout: float = TRANSACTION_TIMEOUT_SECONDS,
        client: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = checked_name("the application's name", name)
        self.cluster = Cluster(bootstrap, client or {})
        self.limits = Limits(
            commit_interval=commit_interval,
            commit_early=commit_early,
            batch_records=batch_records,
            transaction_timeout=transaction_timeout,
        )
        self.delivery = Delivery(delivery)
        self.topology = Topology()
        self.meters = Meters()
        self._instance = instance
        self._state_folder = Path(state_folder)

    # -- what it is made of -------------------------------------------------------------------------------------------

    def process(
        self,
        *topics: str,
        to: str | None = None,
        retry: Retry | int = Retry(),  # noqa: B008 - frozen
        dead_letter: str | None = None,
        name: str | None = None,
        key: Serializer | None = None,
        value: Serializer | None = None,
        serializer: Serializer | None = None,
    ) -> Callable[[Function], Function]:
        """The decorated function processes records of ``topics``; what it yields or returns (``Out``) goes ``to`` a topic.

        Its parameters: ``Record[key, value]``, or ``Batch[Record[key, value]]``; and ``ctx`` if it wants state. ``def`` or
        ``async def``. ``retry``: attempts and pauses. ``dead_letter``: the topic for records that fail for good; without
        one the application stops (``PoisonRecord``). ``key``, ``value``: formats of what it reads, beyond the annotations;
        ``serializer``: of what it gives.
        """
        read = _topics(topics)

        def decorate(function: Function) -> Function:
            handler = Handler(function, key, value)
            kept = Retry(retry) if isinstance(retry, int) else retry
            self.topology.add(
                Processor(
                    checked_name("the processor", name or handler.name),
                    read,
                    handler,
                    to,
                    kept,
                    dead_letter,
                    serializer,
                )
            )
            return function

        return decorate

    def sink(
        self,
        *topics: str,
        database: str | None = None,
        retry: Retry | int = Retry(),  # noqa: B008 - frozen
        dead_letter: bool = False,
        name: str | None = None,
        key: Serializer | None = None,
        value: Serializer | None = None,
        delivery: Delivery | str = Delivery.EXACTLY_ONCE,
    ) -> Callable[[Function], Function]:
        """The decorated function writes records into ``database``; their offsets are in the same database transaction.

        Its parameters: a record (or a ``Batch``) and the SQLAlchemy ``Connection`` to write with. The tables of
        ``oncelog app schema`` must be there. ``dead_letter``: records that fail for good go into the table
        ``oncelog_dead_letters``. Without a database, for effects that no transaction holds (mails, calls), ``delivery``
        has to say which way they may go wrong: at-least-once or at-most-once; the function takes the record alone.
        """
        promised = Delivery(delivery)
        if (database is None) == (promised is Delivery.EXACTLY_ONCE):
            raise ConfigurationError(
                "a sink is exactly-once into a database=, or without one has a delivery= of at-least-once or at-most-once"
            )

        read = _topics(topics)

        def decorate(function: Function) -> Function:
            parameters = (1,) if database is None else (2,)
            handler = Handler(function, key, value, parameters=parameters, is_sink=True)
            kept = Retry(retry) if isinstance(retry, int) else retry
            kept_name = checked_name("the sink", name or handler.name)
            self.topology.add(Sink(kept_name, read, handler, database, kept, dead_letter, promised))
            return function

        return decorate

    def outbox(self, topic: str, *, database: str, table: str, serializer: Serializer | None = None) -> Outbox:
        """Rows of ``table`` become records of ``topic``, each once, in the order of their transactions.

        Write rows with the returned object's ``put``, in the transaction of your own changes. ``oncelog app schema`` makes
        the table. One relay works at a time, whichever process has it.
        """
        tables = _tables()
        checked_name("the outbox table", table)
        self.topology.add(OutboxRoute(topic, database, table, serializer))
        made: Outbox = tables.Outbox(table, serializer)
        return made

    def describe(self) -> str:
        """What it is made of, in a few lines."""
        return describing.text(self)

    def describe_svg(self) -> str:
        """The same as a picture."""
        return describing.svg(self)

    def dry_run(self, records: int = 100) -> Driver:
        """What the next records of each partition would become: nothing is written, no offset moves, no group is joined."""
        from oncelog.app.rehearsal import dry_run

        return dry_run(self, records)

    # -- running ------------------------------------------------------------------------------------------------------

    def run(self, workers: int = 1, *, metrics: str | None = None) -> None:
        """Until SIGTERM or SIGINT. Ends the process with a documented code if something is wrong: see ``running``.

        ``workers``: members of the group in this process, each with a thread, a consumer and a producer. ``metrics``:
        HOST:PORT for Prometheus.
        """
        try:
            stop, halt = threading.Event(), threading.Event()
            handle_signals(stop, halt)
            if metrics is not None:
                self._serve_metrics(metrics)
            running = self._start(workers, stop, halt)
            _collect_rarely()
            running.wait()
        except AppError as error:
            log.error("%s: %s", type(error).__name__, error)
            sys.stderr.write(f"{self.name}: {type(error).__name__}: {error}\n")
            raise SystemExit(error.exit_code) from error

    def _serve_metrics(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), host or "127.0.0.1", registry=self.meters.registry)
        except (OSError, OverflowError, ValueError) as error:
            raise ConfigurationError(f"metrics={address!r}: {error}. Give a free HOST:PORT of this machine") from error

    def running(self, workers: int = 1) -> Running:
        """Starts it in threads of this process: ``with app.running(): ...``. Raises ConfigurationError."""
        return self._start(workers, threading.Event(), threading.Event())

    def _start(self, workers: int, stop: threading.Event, halt: threading.Event) -> Running:
        if not 1 <= workers <= WORKERS_MAX:
            raise ConfigurationError(f"workers={workers}: from 1 to {WORKERS_MAX}")
        if not (self.topology.processors or self.topology.sinks or self.topology.outboxes):
            raise ConfigurationError(f"the application {self.name} has no processor, sink or outbox")
        self._check_databases()
        self._check_changelogs(check_topics(self.cluster, self.topology.topics))
        identity = Identity(self.name, self._state_folder, self._instance)
        jobs = self._jobs(identity, workers, stop, halt)
        log.info(
            "started app=%s instance=%s workers=%d delivery=%s", self.name, identity.instance, workers, self.delivery
        )
        return Running(jobs, stop, halt, self.limits.stop_budget, identity.close)

    def _jobs(self, identity: Identity, workers: int, stop: threading.Event, halt: threading.Event) -> list[Job]:
        jobs: list[Job] = []
        for number in range(workers):
            if self.topology.processors:
                name = Name(self.name, identity.instance, number)
                jobs.append(self._worker(name, self.topology, identity, self.delivery, stop, halt))
            jobs += [self._sink(sink, identity, number, stop, halt) for sink in self.topology.sinks]
        for outbox in self.topology.outboxes:
            from oncelog.app.outbox import OutboxJob

            relay = Name(f"{self.name}.outbox.{outbox.table}", identity.instance, 0)
            jobs.append(OutboxJob(relay, outbox, self.cluster, self.limits, self.meters, stop, halt))
        return jobs

    def _sink(self, sink: Sink, identity: Identity, number: int, stop: threading.Event, halt: threading.Event) -> Job:
        """A sink is a group of its own: it goes on at its own pace."""
        name = Name(f"{self.name}.{sink.name}", identity.instance, number)
        if sink.database is None:
            effect = Processor(sink.name, sink.topics, sink.handler, None, sink.retry, None, None)
            return self._worker(name, Topology([effect]), identity, sink.delivery, stop, halt)
        from oncelog.app.sinks import SinkJob

        return SinkJob(name, sink, self.cluster, self.limits, self.meters, stop, halt)

    def _check_changelogs(self, partitions: Mapping[str, int]) -> None:
        """Those that are there have as many partitions as their sources, before anything is read."""
        keepers = [processor for processor in self.topology.processors if processor.keeps_state]
        found = partition_counts(self.cluster) if keepers else {}
        for processor in keepers:
            source, changelog = processor.topics[0], changelog_name(self.name, processor.name)
            if changelog in found:
                check_keys_stay(source, partitions[source], changelog, found[changelog])

    def _check_databases(self) -> None:
        """Their tables are there, before anything is read."""
        wanted: dict[str, list[str]] = {}
        for sink in self.topology.sinks:
            if sink.database is not None:
                wanted.setdefault(sink.database, [])
        for outbox in self.topology.outboxes:
            wanted.setdefault(outbox.database, []).append(outbox.table)
        if not wanted:
            return
        schema = _tables()
        for url, tables in wanted.items():
            engine = schema.engine_of(url)
            try:
                schema.check(engine, tables)
            finally:
                engine.dispose()

    def _worker(
        self,
        name: Name,
        topology: Topology,
        identity: Identity,
        delivery: Delivery,
        stop: threading.Event,
        halt: threading.Event,
    ) -> Worker:
        common = (name, self.cluster, topology.sources, self.limits, self.meters, stop, halt)
        exchange = Exchange(*common) if delivery is Delivery.EXACTLY_ONCE else WeakExchange(*common, delivery)
        folder = identity.folder / f"worker-{name.worker}"
        return Worker(name.app, topology, exchange, self.cluster, self.limits, self.meters, folder, stop, halt)


def _collect_rarely() -> None:
    """Every record counts for Python's garbage collector: it would come after each 700, and find nothing.

    What is there at the start stays, and is looked through no more.
    """
    gc.freeze()
    gc.set_threshold(_COLLECTION_EVERY)


def _topics(topics: Sequence[object]) -> tuple[str, ...]:
    names = [topic for topic in topics if isinstance(topic, str)]
    if not names or len(names) < len(topics):
        raise ConfigurationError('a handler that reads no topic: name at least one, write @app.process("orders")')
    return tuple(dict.fromkeys(names))


def _tables() -> ModuleType:
    """What databases need, imported by those that have one."""
    try:
        from oncelog.app import schema
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"databases need more: pip install 'oncelog[sql]' ({error})") from error
    return schema
