"""After the start: what the first requests of usual clients need is made before they come.

The message module of each API and version is imported, and its checker and encoder made, when it is first needed: 3 to 9 ms
for each API. Before the ready line that would double the time of a start. So it is done after it, one message at a time, in the
order in which clients ask, and only while nobody asks for anything: who comes at once needs the same things made, in the same
order, and must not wait for others.

Only ``oncelog serve`` does it: a broker in a test's process shares its processor with the test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from oncelog.broker.lane import Loop
from oncelog.broker.meters import Meters
from oncelog.wire.replies import prepare_reply
from oncelog.wire.requests import prepare_request

#: (API, versions): librdkafka's and the newest, which the Java client and franz-go take; a transaction's first, then a group's.
USUAL: Final = (
    (18, (3, 4)),
    (3, (12, 13)),
    (22, (4, 5)),
    (10, (2, 6)),
    (24, (0,)),
    (0, (10, 13)),
    (26, (1, 5)),
    (19, (4, 7)),
    (2, (7, 11)),
    (1, (16, 18)),
    (11, (5, 9)),
    (14, (3, 5)),
    (9, (7, 10)),
    (12, (3, 4)),
    (25, (0,)),
    (28, (3, 5)),
    (8, (7, 10)),
    (13, (1, 5)),
)
#: Replies to Produce, Fetch and Metadata need no message module.
_HAND_WRITTEN: Final = (0, 1, 3)
#: Between two messages; and how long nobody may have asked for anything, once somebody has.
_REST_SECONDS: Final = 0.005
_QUIET_SECONDS: Final = 0.25


def warm(loop: Loop, meters: Meters, is_over: Callable[[], bool]) -> None:
    """Begin; ``is_over`` says whether it is no use any more."""
    left = _messages()
    seen = _traffic(meters)

    def step() -> None:
        nonlocal seen
        if is_over():
            return
        before, seen = seen, _traffic(meters)
        if seen != before:
            loop.call_later(_QUIET_SECONDS, step)
            return
        for prepare, api_key, version in left:
            prepare(api_key, version)
            loop.call_later(_REST_SECONDS, step)
            return

    loop.call_later(_REST_SECONDS, step)


def _traffic(meters: Meters) -> int:
    return meters.connections_accepted + sum(cell.count for cell in meters.requests.values())


def _messages() -> Iterator[tuple[Callable[[int, int], None], int, int]]:
    for api_key, versions in USUAL:
        for version in versions:
            yield prepare_request, api_key, version
            if api_key not in _HAND_WRITTEN:
                yield prepare_reply, api_key, version
