"""Fixtures for tests with a broker process; a conftest.py imports those that it needs."""

from __future__ import annotations

import gc
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.broker_process import BOOTSTRAP_VARIABLE, BrokerProcess, ForeignBroker
from tests.support.proxy import Proxy
from tests.support.raw import RawClient

#: Groups form at once, and members of new groups (KIP-848) report often. Nothing expires in the middle of a test, as records
#: with a time of long ago would.
_SETTINGS = (
    "group.initial.rebalance.delay.ms=0",
    "group.consumer.min.heartbeat.interval.ms=100",
    "group.consumer.heartbeat.interval.ms=300",
    "log.retention.check.interval.ms=86400000",
)
TEST_OPTIONS = (*(word for setting in _SETTINGS for word in ("--set", setting)), "--log-level", "warning")

#: Clients that forget sockets whose connection failed. Their tests ignore the warnings about it.
LEAVES_SOCKETS = ("aiokafka", "kafka-python")
ignores_forgotten_sockets = pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")

_numbers = itertools.count(1)

Broker = BrokerProcess | ForeignBroker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """One broker for all ordinary tests of a test process, with real files; tests use names of their own."""
    foreign = os.environ.get(BOOTSTRAP_VARIABLE)
    if foreign is not None:
        yield ForeignBroker(foreign)
        return
    with BrokerProcess(tmp_path_factory.mktemp("broker"), options=TEST_OPTIONS) as process:
        yield process
        process.assert_healthy()
        process.stop()


@pytest.fixture(autouse=True)
def is_alive_afterwards(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The shared broker has survived the test; sockets that a Python client has left open are closed here."""
    yield
    client = request.node.get_closest_marker("client")
    if client is not None and client.args[0] in LEAVES_SOCKETS:
        caplog.get_records("call").clear()  # they hold sockets; a failure has its text already
        gc.collect()  # or a later test would be told of them
    if "broker" in request.fixturenames:
        request.getfixturevalue("broker").assert_healthy()


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker for one test, to be killed and started again."""
    with BrokerProcess(tmp_path / "broker", options=TEST_OPTIONS) as process:
        yield process
        process.assert_healthy()
        process.stop()


@pytest.fixture
def proxy(broker: Broker) -> Iterator[Proxy]:
    """A proxy in front of the shared broker."""
    with Proxy(broker.port) as running:
        yield running


@pytest.fixture
def raw(broker: Broker) -> Iterator[RawClient]:
    """A raw connection to the shared broker."""
    with RawClient(broker.port) as client:
        yield client


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """Names that no other test uses: ``unique("orders")``."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    number, process = next(_numbers), os.getpid()
    return lambda name: f"{name}-{worker}-{process}-{number}"
