"""The base of the values that the hot paths make: frozen, compared by their fields, made in a tenth of a microsecond.

A NamedTuple costs five times as much to make and four times as much to read; a request makes a dozen. Values hold no
cycles, so the garbage collector need not look at them.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec
from msgspec.structs import replace


class Value(msgspec.Struct, frozen=True, gc=False):
    """See the module."""

    def _replace(self, **changes: Any) -> Self:
        """The same with other fields; named as NamedTuple's."""
        return replace(self, **changes)
