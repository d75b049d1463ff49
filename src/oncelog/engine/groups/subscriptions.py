"""What members of the consumer protocol subscribe to: topics by name, or by a regular expression (KIP-848, version 1).

Patterns are RE2's, as KIP-848 says, and match a topic's whole name. They come from clients and run on the broker's one loop:
RE2 never backtracks, so a match takes time in proportion to the name, and memory is bounded by ``PATTERN_BYTES_MAX``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import re2

from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.limits import PATTERN_BYTES_MAX, PATTERN_CHARACTERS_MAX, PATTERNS_PER_GROUP_MAX

_options: Final = re2.Options()
_options.max_mem = PATTERN_BYTES_MAX
_options.never_capture = True
_options.log_errors = False


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Any:
    """The compiled pattern. Raises Refusal if it is none of RE2's, or too large."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise Refusal(
            ErrorCode.INVALID_REGULAR_EXPRESSION, f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters"
        )
    try:
        return re2.compile(text, _options)
    except re2.error as error:
        raise Refusal(ErrorCode.INVALID_REGULAR_EXPRESSION, f"{_sentence(error)} (the syntax is RE2's)") from None


def _sentence(error: Exception) -> str:
    """What RE2 says; it says it in bytes."""
    why = error.args[0] if error.args else "not a pattern"
    return why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)


def check_patterns(patterns: Iterable[str]) -> None:
    """Raises Refusal if members of one group have too many different patterns."""
    if len(set(patterns)) > PATTERNS_PER_GROUP_MAX:
        raise Refusal(
            ErrorCode.INVALID_REGULAR_EXPRESSION,
            f"the members of a group have at most {PATTERNS_PER_GROUP_MAX} different patterns",
        )


def matches_of(patterns: Iterable[str], topics: Mapping[str, object]) -> dict[str, frozenset[str]]:
    """For each pattern the topics that it matches as a whole; the empty pattern matches none."""
    found: dict[str, frozenset[str]] = {}
    for text in sorted(set(patterns) - {""}):
        matches = compile_pattern(text).fullmatch
        found[text] = frozenset(name for name in topics if matches(name) is not None)
    return found
