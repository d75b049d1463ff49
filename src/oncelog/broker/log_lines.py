"""The log: one line an event, on stderr, as text or as JSON.

A logger has four levels and takes an event and its fields. Whatever a peer sent is quoted, so that it can't forge a line.
What a peer may do as often as it likes has a bounded number of lines (``LineBudget``), and the rest is counted (law 8).
Why not a library: docs/decisions/dependencies.md.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

#: The levels, from the most talkative one.
LEVELS: Final = ("debug", "info", "warning", "error")

#: Characters of one field's value in a line; a peer decides how long an id is.
_VALUE_CHARACTERS_MAX: Final = 300


#: Lines of one host, and of all hosts together, in so many seconds. And hosts whose lines are counted apart.
_HOST_LINES_MAX: Final = 10
_LINES_MAX: Final = 100
_SECONDS: Final = 60.0
_HOSTS_COUNTED_MAX: Final = 100
#: Under this name the others are counted.
OTHER_HOSTS: Final = "others"


class LineBudget:
    """How many lines peers may still cause: so many of each host, and of all together, in a minute.

    A minute begins with the first line after the one before. Times are seconds of any clock that only goes forward.
    """

    seconds: Final = _SECONDS

    def __init__(self) -> None:
        self._began = -_SECONDS
        self._lines = 0
        self._said: dict[str, int] = {}
        self._left_out: dict[str, int] = {}

    def take(self, host: str, now: float) -> bool:
        """Whether one more line about a peer of this host may be written; if not, it is counted. After ``over``."""
        if now - self._began >= _SECONDS:
            self._began, self._lines = now, 0
            self._said.clear()
        said = self._said.get(host, 0)
        if said < _HOST_LINES_MAX and self._lines < _LINES_MAX:
            self._said[host] = said + 1
            self._lines += 1
            return True
        if host not in self._left_out and len(self._left_out) >= _HOSTS_COUNTED_MAX:
            host = OTHER_HOSTS
        self._left_out[host] = self._left_out.get(host, 0) + 1
        return False

    @property
    def is_anything_left_out(self) -> bool:
        """Whether there is something to tell when the minute is over."""
        return bool(self._left_out)

    def over(self, now: float) -> dict[str, int]:
        """The lines that were left out, by host, if the minute is over; each is told once."""
        if not self._left_out or now - self._began < _SECONDS:
            return {}
        told, self._left_out = self._left_out, {}
        return told


class LogLines:
    """Writes events of ``level`` and above with ``write``, which takes a whole line."""

    def __init__(self, level: str = "info", form: str = "text", write: Callable[[str], object] | None = None) -> None:
        self._lowest = LEVELS.index(level)
        self._render = _json_line if form == "json" else _text_line
        self._write = write or sys.stderr.write

    def debug(self, event: str, **fields: Any) -> None:
        """For whoever looks closely."""
        if self._lowest <= 0:
            self._emit("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """Worth a line."""
        if self._lowest <= 1:
            self._emit("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """Worth a look."""
        if self._lowest <= 2:
            self._emit("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """Something failed."""
        self._emit("error", event, fields)

    def _emit(self, level: str, event: str, fields: dict[str, Any]) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        try:
            self._write(self._render(now, level, event, fields))
        except OSError:
            # Whoever read stderr is gone; the broker's work does not depend on it.
            self._write = _nowhere


def _nowhere(line: str) -> None:
    del line


def _text_line(now: str, level: str, event: str, fields: dict[str, Any]) -> str:
    shown = "".join(f" {name}={quoted(value)}" for name, value in fields.items())
    return f"{now} {level:<7} {event}{shown}\n"


def quoted(value: object) -> str:
    """One field's value: as it is if that can't be misread, else as a JSON string."""
    text = _short(str(value))
    if text and text.isprintable() and not any(character in " =\"'" for character in text):
        return text
    # Printable letters stay letters; else even what only some readers take for a line's end or a command is escaped.
    return json.dumps(text, ensure_ascii=not text.isprintable())


def _json_line(now: str, level: str, event: str, fields: dict[str, Any]) -> str:
    plain = {
        name: value if isinstance(value, int | float) or value is None else _short(str(value))
        for name, value in fields.items()
    }
    return json.dumps({"time": now, "level": level, "event": event} | plain) + "\n"


def _short(text: str) -> str:
    return text if len(text) <= _VALUE_CHARACTERS_MAX else text[:_VALUE_CHARACTERS_MAX] + "..."
