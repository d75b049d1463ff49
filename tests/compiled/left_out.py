"""The tests that can't be run against a compiled core, with the reason; all others can.

What is Final is part of the compiled code, and a compiled class lets nobody replace its methods: so unit tests that make a
bound smaller for themselves, or put a function of their own in the place of one of ours, are for the pure tree.
"""

from __future__ import annotations

from typing import Final

import pytest

#: Where monkeypatch is used on our own code; elsewhere on the system's functions and on modules that are not compiled.
_FOLDERS: Final = ("tests/unit/", "tests/properties/")

#: Those that put something in a method's place without monkeypatch.
LEFT_OUT: Final = (
    "tests/unit/broker/test_short_requests.py::TestFetches::test_what_a_session_knows_is_not_looked_at_again",
)


def is_unfit(item: pytest.Item) -> bool:
    """Whether a test can't be run against a compiled core."""
    is_patching = item.nodeid.startswith(_FOLDERS) and "monkeypatch" in getattr(item, "fixturenames", ())
    return is_patching or item.nodeid.partition("[")[0] in LEFT_OUT
