"""The tests that can't be run against a compiled core, with the reason; all others can.

What is Final is part of the compiled code, and a compiled class lets nobody replace its methods: so unit tests that make a
bound smaller for themselves, or put a function of their own in the place of one of ours, are for the pure tree.
So are those that give the storage's modules another ``os``: compiled ones have looked theirs up for good.
"""

from __future__ import annotations

from typing import Final

import pytest

#: Where monkeypatch is used on our own code; elsewhere on the system's functions and on modules that are not compiled.
_FOLDERS: Final = ("tests/unit/", "tests/properties/")

#: The storage on a disk that is simulated.
_SIMULATED: Final = "simulated"

#: Those that put something in a method's place without monkeypatch.
LEFT_OUT: Final = (
    "tests/unit/broker/test_short_requests.py::TestFetches::test_what_a_session_knows_is_not_looked_at_again",
)


def is_unfit(item: pytest.Item) -> bool:
    """Whether a test can't be run against a compiled core."""
    fixtures = getattr(item, "fixturenames", ())
    is_patching = item.nodeid.startswith(_FOLDERS) and "monkeypatch" in fixtures
    return is_patching or _SIMULATED in fixtures or item.nodeid.partition("[")[0] in LEFT_OUT
