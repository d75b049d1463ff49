"""The pytest plugin: installed with oncelog, no conftest needed.

``kafka``: a broker of its own for each test. ``kafka_session``: one for the whole session, for what is dear to set up.
A failed test shows what its topics hold, committed, aborted and open records told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from oncelog.testing.kafka import Kafka

_MARKER: Final = "kafka"
_FIXTURES: Final = ("kafka", "kafka_session")
_TOPICS_SHOWN_MAX: Final = 20


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", f"{_MARKER}(**settings): settings of this test's broker, such as kafka(num_partitions=3)"
    )


def _new(settings: dict[str, Any]) -> Kafka:
    from oncelog.testing.kafka import Kafka

    return Kafka(**settings).start()


@pytest.fixture
def kafka(request: pytest.FixtureRequest) -> Iterator[Kafka]:
    """A broker of this test's own, in memory, on a free port: see oncelog.testing.Kafka."""
    marker = request.node.get_closest_marker(_MARKER)
    broker = _new(dict(marker.kwargs) if marker is not None else {})
    yield broker
    broker.close()


@pytest.fixture(scope="session")
def kafka_session() -> Iterator[Kafka]:
    """One broker for the whole session."""
    broker = _new({})
    yield broker
    broker.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Show the topics of a failed test."""
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    if call.when != "call" or not report.failed:
        return
    for name in _FIXTURES:
        broker: Any = getattr(item, "funcargs", {}).get(name)
        # A fixture of the user's own may have the name.
        if type(broker).__module__ == "oncelog.testing.kafka" and broker.broker.is_running:
            shown = [broker.shown(topic) for topic in broker.topics()[:_TOPICS_SHOWN_MAX]]
            report.sections.append((f"what is in {name}", "\n\n".join(shown) or "no topics"))
