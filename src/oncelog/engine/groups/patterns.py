r"""Regular expressions of subscriptions (KIP-848, version 1): the common part of RE2's language, in time that is bounded.

A client's pattern runs on the broker's one loop, so nothing here backtracks: the pattern becomes a program whose steps are
all followed at once (as RE2 does it), and a match costs at most steps × characters. Topics match as a whole.

Known: literals, ``.``, classes with ranges and ``\d \w \s``, groups (also ``(?:``), ``|``, ``* + ? {m,n}`` (also lazy),
``^`` and ``$``. All else is refused with INVALID_REGULAR_EXPRESSION.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from oncelog.model.errors import ErrorCode, Refusal
from oncelog.model.limits import PATTERN_CHARACTERS_MAX, PATTERN_STEPS_MAX

Test: TypeAlias = Callable[[str], bool]


class _Step(NamedTuple):
    """One step of a program: a character test, or a fork to two steps, or an anchor, or the end."""

    test: Test | None
    next: tuple[int, ...]
    anchor: str = ""


_CLASSES: Final[dict[str, Test]] = {
    "d": lambda one: "0" <= one <= "9",
    "w": lambda one: one == "_" or (one.isascii() and one.isalnum()),
    "s": lambda one: one in " \t\n\r\f\v",
}


def _refused(why: str) -> Refusal:
    return Refusal(ErrorCode.INVALID_REGULAR_EXPRESSION, why)


class Pattern:
    """A compiled pattern."""

    def __init__(self, steps: list[_Step], start: int) -> None:
        self._steps, self._start = steps, start

    def matches(self, text: str) -> bool:
        """Whether the pattern matches the whole text."""
        current = self._reach({self._start}, is_first=True, is_last=not text)
        for at, one in enumerate(text):
            stepped = {step.next[0] for step in map(self._steps.__getitem__, current) if step.test and step.test(one)}
            if not stepped:
                return False
            current = self._reach(stepped, is_first=False, is_last=at == len(text) - 1)
        return any(not step.next for step in map(self._steps.__getitem__, current))

    def _reach(self, starts: set[int], *, is_first: bool, is_last: bool) -> set[int]:
        """All steps that can be come to without a character."""
        reached, todo = set(starts), list(starts)
        while todo:
            step = self._steps[todo.pop()]
            if step.test is not None or (step.anchor == "^" and not is_first) or (step.anchor == "$" and not is_last):
                continue
            for after in step.next:
                if after not in reached:
                    reached.add(after)
                    todo.append(after)
        return reached


@lru_cache(maxsize=256)
def compile_pattern(text: str) -> Pattern:
    """The pattern. Raises Refusal if it is none, or one of another kind than the module says."""
    if len(text) > PATTERN_CHARACTERS_MAX:
        raise _refused(f"a pattern has at most {PATTERN_CHARACTERS_MAX} characters")
    tree = _Parser(text).parse()
    steps: list[_Step] = [_Step(None, ())]
    return Pattern(steps, _emit(tree, steps, 0))


class _One(NamedTuple):
    """A character of a kind."""

    test: Test


class _Anchor(NamedTuple):
    """``^`` or ``$``."""

    sign: str


class _Both(NamedTuple):
    """Parts that follow each other."""

    parts: list[_Tree]


class _Either(NamedTuple):
    """Parts of which one is there."""

    parts: list[_Tree]


class _Repeat(NamedTuple):
    """A part from ``low`` to ``high`` times, -1 for any number."""

    part: _Tree
    low: int
    high: int


_Tree: TypeAlias = _One | _Anchor | _Both | _Either | _Repeat

_DEPTH_MAX: Final = 50
_REPEAT_MAX: Final = 1_000


def _emit(tree: _Tree, steps: list[_Step], after: int) -> int:
    """Append the steps of a part that goes on at ``after``; the number of its first one."""
    if isinstance(tree, _One):
        return _add(steps, _Step(tree.test, (after,)))
    if isinstance(tree, _Anchor):
        return _add(steps, _Step(None, (after,), tree.sign))
    if isinstance(tree, _Both):
        for part in reversed(tree.parts):
            after = _emit(part, steps, after)
        return after
    if isinstance(tree, _Either):
        return _add(steps, _Step(None, tuple(_emit(part, steps, after) for part in tree.parts)))
    return _emit_repeat(tree, steps, after)


def _emit_repeat(tree: _Repeat, steps: list[_Step], after: int) -> int:
    if tree.high < 0:
        fork = _add(steps, _Step(None, (after,)))
        steps[fork] = _Step(None, (_emit(tree.part, steps, fork), after))
        after = fork
    else:
        end = after
        for _ in range(tree.high - tree.low):
            after = _add(steps, _Step(None, (_emit(tree.part, steps, after), end)))
    for _ in range(tree.low):
        after = _emit(tree.part, steps, after)
    return after


def _add(steps: list[_Step], step: _Step) -> int:
    if len(steps) >= PATTERN_STEPS_MAX:
        raise _refused("the pattern repeats too much")
    steps.append(step)
    return len(steps) - 1


class _Parser:
    """Reads a pattern from left to right; everything it does not know it refuses."""

    def __init__(self, text: str) -> None:
        self._text, self._at, self._depth = text, 0, 0

    def parse(self) -> _Tree:
        """The whole pattern."""
        tree = self._either()
        if self._at < len(self._text):
            raise _refused(f"unexpected {self._text[self._at]!r} at {self._at}")
        return tree

    def _peek(self) -> str:
        return self._text[self._at] if self._at < len(self._text) else ""

    def _take(self) -> str:
        one = self._peek()
        if not one:
            raise _refused("the pattern ends too early")
        self._at += 1
        return one

    def _either(self) -> _Tree:
        self._depth += 1
        if self._depth > _DEPTH_MAX:
            raise _refused("the pattern nests too deeply")
        parts = [self._both()]
        while self._peek() == "|":
            self._at += 1
            parts.append(self._both())
        self._depth -= 1
        return parts[0] if len(parts) == 1 else _Either(parts)

    def _both(self) -> _Tree:
        parts: list[_Tree] = []
        while self._peek() not in ("", "|", ")"):
            parts.append(self._repeated(self._one()))
        return _Both(parts)

    def _repeated(self, part: _Tree) -> _Tree:
        sign = self._peek()
        if sign == "{" and not self._is_count():
            return part
        if sign not in ("*", "+", "?", "{") or not sign:
            return part
        if isinstance(part, _Anchor):
            raise _refused("an anchor can't be repeated")
        self._at += 1
        low, high = {"*": (0, -1), "+": (1, -1), "?": (0, 1)}.get(sign) or self._counts()
        if self._peek() == "?":
            self._at += 1  # lazy: the whole name matches or it does not, so it is the same
        if self._peek() in ("*", "+", "?") and self._peek():
            raise _refused("a repetition of a repetition")
        return _Repeat(part, low, high)

    def _is_count(self) -> bool:
        end = self._text.find("}", self._at)
        inside = self._text[self._at + 1 : end] if end > 0 else ""
        low, _, high = inside.partition(",")
        return low.isdecimal() and (not high or high.isdecimal())

    def _counts(self) -> tuple[int, int]:
        end = self._text.index("}", self._at)
        low_text, comma, high_text = self._text[self._at : end].partition(",")
        self._at = end + 1
        if max(len(low_text), len(high_text)) > len(str(_REPEAT_MAX)):
            raise _refused("too many repetitions")
        low = int(low_text)
        high = low if not comma else int(high_text) if high_text else -1
        if max(low, high) > _REPEAT_MAX or 0 <= high < low:
            raise _refused(f"repetitions {low} to {high}")
        return low, high

    def _one(self) -> _Tree:
        sign = self._take()
        if sign == "(":
            return self._group()
        if sign == "[":
            return _One(self._class())
        if sign in ("^", "$"):
            return _Anchor(sign)
        if sign == ".":
            return _One(lambda one: one != "\n")
        if sign == "\\":
            return _One(self._escape())
        if sign in ("*", "+", "?", ")"):
            raise _refused(f"nothing before {sign!r} to repeat")
        return _One(lambda one: one == sign)

    def _group(self) -> _Tree:
        if self._peek() == "?":
            if not self._text.startswith("?:", self._at):
                raise _refused("only (?:...) among the groups that begin with (?")
            self._at += 2
        tree = self._either()
        if self._take() != ")":
            raise _refused("a group is not closed")
        return tree

    def _escape(self) -> Test:
        sign = self._take()
        known = _CLASSES.get(sign.lower())
        if known is not None:
            return known if sign.islower() else lambda one: not known(one)
        if sign.isalnum():
            raise _refused(f"unknown escape \\{sign}")
        return lambda one: one == sign

    def _class(self) -> Test:
        is_negated = self._peek() == "^"
        self._at += is_negated
        tests: list[Test] = []
        is_first = True
        while self._peek() != "]" or is_first:
            is_first = False
            tests.append(self._class_part())
        self._at += 1
        if is_negated:
            return lambda one: not any(test(one) for test in tests)
        return lambda one: any(test(one) for test in tests)

    def _class_part(self) -> Test:
        first = self._take()
        if first == "[" and self._peek() == ":":
            raise _refused("named classes are not known")
        if first == "\\":
            if self._peek().lower() in _CLASSES:
                return self._escape()
            first = self._take()
            if first.isalnum():
                raise _refused(f"unknown escape \\{first}")
        if self._peek() != "-" or self._text[self._at + 1 : self._at + 2] in ("]", ""):
            return lambda one: one == first
        self._at += 1
        last = self._take()
        if last == "\\":
            last = self._take()
        if last < first:
            raise _refused(f"the range {first}-{last} is empty")
        return lambda one: first <= one <= last
