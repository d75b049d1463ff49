"""Requests: one frame becomes a header and kio's entity of the request's own version.

    request = read_request(frame, {0: (3, 13), 18: (0, 4)})

The header is read by hand, the body by kio's native reader after a checker has been over it (checking.py: why). Readers and
checkers are made when an API and version first comes; importing kio's module for it costs some milliseconds, once.

Anything that is no request is a WireError, whatever the bytes: kio's own errors don't leave this module. An API or version that
is not served is an UnservedError; only ApiVersions has a way to say so to the client (KIP-511), and gives a body of None.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final

from kio.serial import entity_reader
from kio.serial.errors import SerialError

from oncelog.model.errors import WireError
from oncelog.model.limits import ARRAY_ELEMENTS_MAX
from oncelog.wire.checking import Cut, check_tagged, make_checker, without
from oncelog.wire.forms import Form, Request
from oncelog.wire.shapes import message_class, shape_of

API_VERSIONS: Final = 18
METADATA: Final = 3
#: librdkafka (up to 2.16 at least) asks for all topics with a null array of four zero bytes, also where one byte is null: the
#: request is read as Kafka reads it, and three bytes are left over.
_METADATA_BYTES_IGNORED: Final = 3
_FLEXIBLE_HEADER: Final = 2

_head = struct.Struct(">hhih")
_HEAD_BYTES: Final = _head.size

#: Everything that kio's reader raises for bytes that are no message.
_NO_MESSAGE: Final = (SerialError, ValueError, OverflowError, KeyError)


class UnservedError(WireError):
    """An API or a version that this broker doesn't serve. As Kafka, the server closes the connection."""


_forms: dict[tuple[int, int], Form] = {}


def read_request(frame: Any, bounds: Mapping[int, tuple[int, int]]) -> Request:
    """Decode a frame (bytes, or a read-only view of them), without its length.

    ``bounds``: for each API key the lowest and highest version served. Raises WireError, UnservedError.
    """
    if len(frame) < _HEAD_BYTES:
        raise WireError(f"a request of {len(frame)} bytes has no header")
    api_key, version, correlation_id, client_bytes = _head.unpack_from(frame)
    form = _forms.get((api_key, version))
    served = bounds.get(api_key)
    if served is None:
        raise UnservedError(f"API {api_key} is not served")
    if not served[0] <= version <= served[1]:
        if api_key == API_VERSIONS:
            return Request(api_key, 0, correlation_id, None, None)
        raise UnservedError(f"version {version} of API {api_key} is not served, only {served[0]} to {served[1]}")
    if form is None:
        form = _make_form(api_key, version)
    try:
        client_id, body = _read(frame, client_bytes, form)
    except IndexError:
        raise WireError("the request ends too early") from None
    except struct.error as error:
        raise WireError(f"the request ends too early: {error}") from None
    except _NO_MESSAGE as error:
        raise WireError(f"not a request of API {api_key}, version {version}: {error}") from None
    return Request(api_key, version, correlation_id, client_id, body)


def prepare_request(api_key: int, version: int) -> None:
    """Make what reads it, before one comes."""
    if (api_key, version) not in _forms:
        _make_form(api_key, version)


def is_flexible(api_key: int, version: int) -> bool:
    """Whether a version that is served has compact lengths and tagged fields."""
    form = _forms.get((api_key, version))
    return (form or _make_form(api_key, version)).has_flexible_header


def _make_form(api_key: int, version: int) -> Form:
    message = message_class(api_key, version, "request")
    has_flexible_header = message.__header_schema__.__version__ == _FLEXIBLE_HEADER
    form = Form(
        has_flexible_header,
        make_checker(shape_of(message)),
        entity_reader(message),
        _METADATA_BYTES_IGNORED if has_flexible_header and api_key == METADATA else 0,
    )
    _forms[api_key, version] = form
    return form


def _read(frame: Any, client_bytes: int, form: Form) -> tuple[str | None, Any]:
    """The client's id and the body. May raise what a reader raises for broken bytes."""
    at = _HEAD_BYTES
    client_id = None
    if client_bytes >= 0:
        at += client_bytes
        client_id = str(frame[_HEAD_BYTES:at], "utf-8")
    elif client_bytes < -1:
        raise WireError("a negative length")
    cuts: list[Cut] = []
    if form.has_flexible_header:
        if frame[at]:
            at = check_tagged(frame, at, ARRAY_ELEMENTS_MAX, [], {})
        else:
            at += 1
    size = len(frame)
    end = form.check(frame, at, min(size, ARRAY_ELEMENTS_MAX), cuts)
    if 0 < size - end <= form.bytes_ignored_max:
        frame, size = frame[:end], end
    if end != size:
        what = f"{size - end} bytes follow" if end < size else "it ends too early"
        raise WireError(f"the request does not fill its frame: {what}")
    if cuts:
        frame = without(frame, cuts)
    body, taken = form.read(frame, at)
    if at + taken != len(frame):
        raise WireError("the request does not fill its frame")
    return client_id, body
