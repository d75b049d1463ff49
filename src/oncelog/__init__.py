"""Exactly-once delivery on the Kafka protocol, in one Python process.

``Broker`` is a whole broker inside this process, for tests and small programs::

    import oncelog

    with oncelog.Broker() as broker:
        print(broker.bootstrap)

It is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oncelog.broker.embedded import Broker as Broker

__version__ = "0.1.0"
__all__ = ["Broker", "__version__", "is_compiled"]


def is_compiled() -> bool:
    """Whether the core of this installation is compiled (setup.py); what it does is the same."""
    from importlib.util import find_spec

    found = find_spec("oncelog.engine.state")
    return found is not None and not (found.origin or ".py").endswith(".py")


def __getattr__(name: str) -> Any:
    if name == "Broker":
        from oncelog.broker.embedded import Broker

        return Broker
    raise AttributeError(f"module 'oncelog' has no attribute {name!r}")
