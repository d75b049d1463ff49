"""What a handler sees of its state, without a broker or a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from oncelog.app import App, ConfigurationError, Context, Driver, Record
from oncelog.app.state import MemoryTable, PartitionState, Stores


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
