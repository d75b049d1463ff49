"""Which faults come, and after how many orders: a pure function of the number of orders and the seed.

Progress decides, never the clock; so the three runs meet the same faults in the same places, on a slow machine too.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

#: Below this number of orders each kind comes once (a quick look, tests).
RECORDS_FOR_ALL: Final = 2_000
#: Faults come between these parts of the way.
FIRST_AT: Final = 0.04
LAST_AT: Final = 0.88
#: How far a fault may move from its even place, in parts of the distance between two.
JITTER: Final = 0.3


class Target(StrEnum):
    """Which request a fault on the connection waits for."""

    PRODUCE = "Produce"
    COMMIT = "commit"


class Moment(Enum):
    """When a trap on the connection springs."""

    REQUEST = "the request has just reached the broker"
    REPLY = "the broker has answered, the client has not heard it"


class Kind(Enum):
    """What goes wrong. The value is the sentence for the screen."""

    WORKER_KILLED = "worker killed (-9) in mid-batch"
    ZOMBIE = "worker frozen in mid-batch; another takes its place, then it wakes up"
    BROKER_KILLED = "broker killed (-9) at the next"
    REPLY_CUT = "connection cut, the reply is lost, at the next"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault: due once `at` orders are done, in the middle of the next batch."""

    at: int
    kind: Kind
    target: Target = Target.PRODUCE
    moment: Moment = Moment.REPLY

    def sentence(self) -> str:
        """What the screen says."""
        on_wire = self.kind in (Kind.BROKER_KILLED, Kind.REPLY_CUT)
        return f"{self.kind.value} {self.target.value}" if on_wire else self.kind.value


Draft = tuple[Kind, Target, Moment]
_KILL: Final[Draft] = (Kind.WORKER_KILLED, Target.PRODUCE, Moment.REPLY)
_ZOMBIE: Final[Draft] = (Kind.ZOMBIE, Target.PRODUCE, Moment.REPLY)
_CUTS: Final[list[Draft]] = [(Kind.REPLY_CUT, target, Moment.REPLY) for target in (Target.PRODUCE, Target.COMMIT)]
_CRASHES: Final[list[Draft]] = [
    (Kind.BROKER_KILLED, Target.PRODUCE, Moment.REQUEST),
    (Kind.BROKER_KILLED, Target.COMMIT, Moment.REPLY),
    (Kind.BROKER_KILLED, Target.COMMIT, Moment.REQUEST),
]


def plan_faults(records: int, seed: int) -> list[Fault]:
    """The faults of one run, in order: 15 of them, or 5 if there are few orders."""
    chance = random.Random(seed)
    if records >= RECORDS_FOR_ALL:
        drafts = [_KILL] * 4 + [_ZOMBIE] * 2 + _CUTS * 3 + _CRASHES
    else:
        drafts = [_KILL, _ZOMBIE, *_CUTS, chance.choice(_CRASHES)]
    chance.shuffle(drafts)
    distance = (LAST_AT - FIRST_AT) / len(drafts)
    return [
        Fault(int(records * (FIRST_AT + distance * (place + 0.5 + chance.uniform(-JITTER, JITTER)))), *draft)
        for place, draft in enumerate(drafts)
    ]
