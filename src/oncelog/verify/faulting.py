"""The faults of a run: what there is, what comes next (by the seed), and how each strikes.

None of them touches the cluster: they act on the network between (the proxy) and on the run's own workers; what shall
happen to the cluster itself is the operator's command.
"""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from oncelog.faults import Proxy, ProxyError, Trap
from oncelog.verify.crew import Crew
from oncelog.verify.history import Struck, now

HOOK_SECONDS_MAX: Final = 120.0
#: How long a fault waits for the request that it is meant for.
_CATCH_SECONDS: Final = 3.0

_OF_TRANSACTIONS: Final = ("produce", "add_partitions_to_txn", "end_txn", "end_txn", "init_producer_id", "fetch")
_OF_OFFSETS: Final = ("add_offsets_to_txn", "txn_offset_commit")
APIS: Final[dict[str, tuple[str, ...]]] = {
    "append": _OF_TRANSACTIONS,
    "bank": _OF_TRANSACTIONS,
    "copy": (*_OF_TRANSACTIONS, *_OF_OFFSETS, "offset_fetch", "join_group", "heartbeat"),
    "offsets": (*_OF_TRANSACTIONS, *_OF_OFFSETS),
}
#: The roles with a transactional id.
WRITERS: Final = ("append", "source", "copy", "bank", "offsets")
#: Errors that a client must get over by trying again.
RETRIABLE: Final[dict[str, tuple[int, ...]]] = {
    "produce": (6, 7, 19),
    "add_partitions_to_txn": (14, 16, 51),
    "end_txn": (14, 16, 51),
    "init_producer_id": (14, 16, 51),
    "add_offsets_to_txn": (14, 16, 51),
    "txn_offset_commit": (14, 16),
}


@dataclass(frozen=True, slots=True)
class Field:
    """What faults act on."""

    proxy: Proxy
    crew: Crew
    apis: Sequence[str]
    on_fault: str | None
    transaction_timeout_seconds: float


def _kill(field: Field, chance: random.Random) -> str:
    name = chance.choice(field.crew.names())
    field.crew.kill(name)
    return f"{name} killed"


def _zombie(field: Field, chance: random.Random) -> str:
    name = chance.choice(field.crew.names(*WRITERS))
    field.crew.replace(name, chance.uniform(1.0, 3.0))
    return f"{name} frozen, replaced, and woken"


def _pause(field: Field, chance: random.Random) -> str:
    name = chance.choice(field.crew.names())
    seconds = chance.choice((1.0, 3.0, field.transaction_timeout_seconds + 1.0))
    field.crew.pause(name, seconds)
    return f"{name} frozen for {seconds:.0f} s"


def _cut(field: Field, chance: random.Random) -> str:  # noqa: ARG001 - all faults have one form
    return f"{field.proxy.cut_all()} connections cut"


def _off(field: Field, chance: random.Random) -> str:
    seconds = chance.uniform(0.5, 3.0)
    field.proxy.refuse()
    field.proxy.cut_all()
    time.sleep(seconds)
    field.proxy.refuse(False)
    return f"no connection for {seconds:.1f} s"


def _caught(field: Field, chance: random.Random, api: str, make: Callable[[int], Trap], what: str) -> tuple[str, bool]:
    """Sets a trap and waits until it has sprung. (What happened, whether it did.)"""
    if api == "init_producer_id":  # only a new instance sends it
        trap = make(0)
        field.crew.kill(chance.choice(field.crew.names(*WRITERS)))
    else:
        trap = make(chance.randrange(4))
    try:
        trap.wait(_CATCH_SECONDS)
    except ProxyError:
        return f"{what}: none came", False
    return what, True


def _cut_at(field: Field, chance: random.Random) -> str:
    api = chance.choice(field.apis)
    cut = partial(_trap, field.proxy.cut_at_next, api)
    return _caught(field, chance, api, cut, f"connection cut before {api} arrived")[0]


def _lose(field: Field, chance: random.Random) -> str:
    api = chance.choice(field.apis)
    lose = partial(_trap, field.proxy.lose_reply_of_next, api)
    return _caught(field, chance, api, lose, f"connection cut instead of a reply to {api}")[0]


def _drop(field: Field, chance: random.Random) -> str:
    api = chance.choice(field.apis)
    return _caught(
        field, chance, api, partial(_trap, field.proxy.drop_reply_of_next, api), f"reply to {api} swallowed"
    )[0]


def _delay(field: Field, chance: random.Random) -> str:
    api, seconds = chance.choice(field.apis), chance.uniform(0.1, 2.0)
    delay = partial(_trap, field.proxy.delay_next, api, seconds)
    return _caught(field, chance, api, delay, f"{api} delayed by {seconds:.1f} s")[0]


def _refuse(field: Field, chance: random.Random) -> str:
    api = chance.choice([api for api in field.apis if api in RETRIABLE])
    code = chance.choice(RETRIABLE[api])
    refuse = partial(_trap, field.proxy.refuse_next, api, code)
    return _caught(field, chance, api, refuse, f"{api} refused with {code}")[0]


def _double(field: Field, chance: random.Random) -> str:
    api = chance.choice([api for api in field.apis if api in RETRIABLE])
    return _caught(field, chance, api, partial(_trap, field.proxy.double_next, api), f"{api} sent twice")[0]


def _late(field: Field, chance: random.Random) -> str:
    api, seconds = chance.choice([api for api in field.apis if api in RETRIABLE]), chance.uniform(0.05, 1.5)
    held: list[Trap] = []

    def hold(skip: int) -> Trap:
        held.append(field.proxy.hold_next(api, skip=skip))
        return held[0]

    what = f"{api} held, its client cut, arrived {seconds:.2f} s late by the old connection"
    told, is_held = _caught(field, chance, api, hold, what)
    if is_held:
        held[0].cut()
        time.sleep(seconds)
        held[0].release()
    return told


def _trap(make: Callable[..., Trap], *given: Any) -> Trap:
    *arguments, skip = given
    return make(*arguments, skip=skip)


def _hook(field: Field, chance: random.Random) -> str:  # noqa: ARG001 - all faults have one form
    assert field.on_fault is not None
    try:
        ran = subprocess.run(field.on_fault, shell=True, check=False, timeout=HOOK_SECONDS_MAX, capture_output=True)
    except subprocess.TimeoutExpired:
        return f"{field.on_fault}: still running after {HOOK_SECONDS_MAX:.0f} s, and killed"
    return f"{field.on_fault}: exit code {ran.returncode}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault, and what it stands for."""

    sentence: str
    strike: Callable[[Field, random.Random], str]


FAULTS: Final[dict[str, Fault]] = {
    "kill": Fault("kill -9 of a worker; its next instance begins at once", _kill),
    "zombie": Fault("a worker is frozen, replaced, and wakes up again", _zombie),
    "pause": Fault("a worker is frozen for up to longer than its transaction may last", _pause),
    "cut": Fault("every connection is cut", _cut),
    "off": Fault("no connection for up to 3 s", _off),
    "cut-at": Fault("the connection is cut before one request arrives", _cut_at),
    "lose": Fault("one request is done, its connection cut instead of the reply", _lose),
    "drop": Fault("one reply is swallowed; the client waits for its timeout", _drop),
    "delay": Fault("one request arrives up to 2 s later", _delay),
    "late": Fault(
        "one request is held, its client reconnects and repeats it, then the old one arrives (KAFKA-17754)", _late
    ),
    "refuse": Fault("one request is answered with a retriable error in the broker's place", _refuse),
    "double": Fault(
        "one request arrives twice, by two connections (no TCP network does that; not in the default)", _double
    ),
    "hook": Fault("the command given with --on-fault", _hook),
}
#: Faults of single requests: they may be told which, as late:end_txn.
SINGLE: Final = frozenset(("cut-at", "lose", "drop", "delay", "late", "refuse", "double"))
DEFAULT: Final = tuple(name for name in FAULTS if name not in ("double", "hook"))


class Storm(threading.Thread):
    """Strikes one fault after the other, until `end`. Every fault is over when `end` returns."""

    def __init__(self, field: Field, names: Sequence[str], seed: int, record: Callable[[Struck], None]) -> None:
        super().__init__(name="oncelog faults", daemon=True)
        self._field, self._names, self._record = field, names, record
        self._chance = random.Random(seed)
        self._ended = threading.Event()
        self.count = 0
        self.last = ""

    def run(self) -> None:
        """In its own thread."""
        while self._names and not self._ended.wait(self._chance.uniform(0.1, 0.8)):
            name, _, api = self._chance.choice(self._names).partition(":")
            field = replace(self._field, apis=(api,)) if api else self._field
            at = now()
            detail = FAULTS[name].strike(field, self._chance)
            self._field.proxy.clear()
            self.count, self.last = self.count + 1, detail
            self._record(Struck(at=at, fault=name, detail=detail, until=now()))

    def end(self) -> None:
        """No more faults."""
        self._ended.set()
        self.join()
        self._field.proxy.clear()
        self._field.proxy.refuse(False)
