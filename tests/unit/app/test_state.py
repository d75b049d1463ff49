"""What a handler sees of its state, without a broker or a disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest
from confluent_kafka import KafkaError, Message

from oncelog.app import App, ConfigurationError, Context, Driver, Record, state
from oncelog.app.state import Changelog, MemoryTable, PartitionState, Stores


class Incomparable:
    """As an array is: ``==`` gives no truth."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("the truth value of an array is ambiguous")

    __hash__ = None  # type: ignore[assignment]


class BrokenTable(MemoryTable):
    """A disk that can't be read any more."""

    def get(self, key: bytes) -> bytes | None:
        raise ConfigurationError("the state can't be used")

    def keys(self, prefix: bytes) -> Iterable[bytes]:
        raise ConfigurationError("the state can't be used")


def test_a_default_may_be_anything() -> None:
    """It is not even compared."""
    default = Incomparable()
    assert Stores(PartitionState(MemoryTable()))["s"].get("k", default) is default


def reading(stores: Stores) -> object:
    return stores["s"].get("k", 0)


def listing(stores: Stores) -> object:
    return list(stores["s"].items())


@pytest.mark.parametrize("use", [reading, listing])
@pytest.mark.parametrize("goes_on", [True, False])
def test_a_handler_that_swallows_a_failing_disk_ends_the_application(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[Stores], object], goes_on: bool
) -> None:
    """It would go on with a default, or give a good record for a dead letter."""
    monkeypatch.setattr("oncelog.app.driver.MemoryTable", BrokenTable)
    app = App("swallows")

    @app.process("in", retry=1, dead_letter="dead")
    def count(record: Record[str, str], ctx: Context) -> None:
        try:
            use(ctx.state)
        except Exception as error:
            if not goes_on:
                raise ValueError from error
        ctx.state["s"][record.key] = 1

    with pytest.raises(ConfigurationError, match="can't be used"):
        Driver(app).feed("in", "k", "1")


class Telling:
    """A consumer that gets errors of one kind and no records, for as long as it is asked."""

    def __init__(self, code: int) -> None:
        self._error = KafkaError(code)

    def assign(self, places: object) -> None: ...

    def poll(self, seconds: float) -> Message:
        return Message(topic="t", partition=0, error=self._error)

    def consume(self, count: int, seconds: float) -> list[Message]:
        return []

    def get_watermark_offsets(self, place: object, seconds: float, *, cached: bool) -> tuple[int, int]:
        return 0, 10

    def close(self) -> None: ...


def test_a_changelog_that_can_not_be_read_ends_a_restore(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It says why all the while, and does not go on for ever."""
    monkeypatch.setattr(state, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(state, "_ERROR_SECONDS_MAX", 0.1)
    never = threading.Event()
    changelog = Changelog({"bootstrap.servers": "127.0.0.1:1", "log_level": 0}, never, never)
    changelog.close()
    monkeypatch.setattr(changelog, "_committed", Telling(KafkaError.INVALID_MSG))
    monkeypatch.setattr(changelog, "_all", Telling(KafkaError.INVALID_MSG))
    with pytest.raises(ConfigurationError, match=r"changelog t\[0\] can't be read at offset 0: .*INVALID_MSG"):
        changelog.restore(MemoryTable(), "t", 0)
    assert "restoring changelog t[0] offset=0 of=10" in caplog.text
