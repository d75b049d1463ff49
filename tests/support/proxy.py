"""The fault proxy in front of a broker of a test, which is known by its port."""

from __future__ import annotations

import oncelog.faults
from oncelog.faults import Trap

__all__ = ["Proxy", "Trap"]


class Proxy(oncelog.faults.Proxy):
    """In front of the broker at ``upstream_port``. What goes wrong in it fails the test when it is closed."""

    def __init__(self, upstream_port: int, *, host: str = "127.0.0.1", doubles: bool = False) -> None:
        super().__init__(f"{host}:{upstream_port}", doubles=doubles)
