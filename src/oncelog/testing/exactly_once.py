"""Did every input have its result exactly once? Read by a foreign client, as any application would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oncelog.testing.kafka import Kafka, Record

_NAMED_MAX = 10


class NotExactlyOnce(AssertionError):
    """Some input has no result, or more than one; the message names them."""


def assert_exactly_once(
    kafka: Kafka,
    *,
    source: str,
    result: str,
    by: Callable[[Record], Hashable] | str = "key",
    group: str | None = None,
) -> None:
    """Every record of ``source`` has exactly one in ``result``, as a read_committed reader sees both.

    ``by`` says which belong together: "key", "value", or a function of a record of either topic. With ``group`` its committed
    offsets must have reached the end of ``source`` too: results and offsets move in one step. Raises NotExactlyOnce.
    """
    identify = _identify(by)
    wanted = Counter(map(identify, kafka.consume(source)))
    found = Counter(map(identify, kafka.consume(result)))
    problems = [
        _problem("lost, without a result", wanted - found),
        _problem(
            "repeated, with more results than inputs",
            Counter({one: n for one, n in (found - wanted).items() if one in wanted}),
        ),
        _problem("results that no input asked for", Counter({one: n for one, n in found.items() if one not in wanted})),
        *(_behind(kafka, source, group) if group is not None else ()),
    ]
    told = [problem for problem in problems if problem]
    if told:
        raise NotExactlyOnce(
            f"{source} -> {result}: {wanted.total()} inputs, {found.total()} results\n"
            + "\n".join(told)
            + "\n\n"
            + kafka.shown(result)
        )


def _identify(by: Callable[[Record], Hashable] | str) -> Callable[[Record], Hashable]:
    if callable(by):
        return by
    if by == "key":
        return lambda record: record.key
    if by == "value":
        return lambda record: record.value
    raise ValueError(f"by={by!r}: say 'key', 'value', or give a function of a record")


def _problem(what: str, counted: Counter[Hashable]) -> str:
    if not counted:
        return ""
    named = ", ".join(repr(one) for one in list(counted)[:_NAMED_MAX])
    more = f" and {len(counted) - _NAMED_MAX} more" if len(counted) > _NAMED_MAX else ""
    return f"  {counted.total()} {what}: {named}{more}"


def _behind(kafka: Kafka, source: str, group: str) -> Iterable[str]:
    if not kafka.is_read(group, [source]):
        at = {
            partition: offset for (topic, partition), offset in kafka.groups().get(group, {}).items() if topic == source
        }
        yield f"  group {group} is at {at} of {source}, which ends at {kafka.ends(source)}: offsets and results are apart"
