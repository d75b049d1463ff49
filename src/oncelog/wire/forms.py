"""What a request is read into, and what reading one API and version takes. Apart from requests.py, which can be compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oncelog.model.values import Value
from oncelog.wire.checking import Checker


class Request(Value, frozen=True, gc=False):
    """One request. ``body`` is kio's entity of that version; None for ApiVersions in a version that nobody knows yet."""

    api_key: int
    version: int
    correlation_id: int
    client_id: str | None
    body: Any


class Form(Value, frozen=True, gc=False):
    """How to read one API and version."""

    has_flexible_header: bool
    check: Checker
    read: Callable[[Any, int], tuple[Any, int]]
    #: Bytes that may follow the body and mean nothing.
    bytes_ignored_max: int = 0
