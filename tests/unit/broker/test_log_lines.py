"""The log: a line an event, and nothing that a peer sends makes another line or field."""

from __future__ import annotations

import json
import re

import pytest

from oncelog.broker.log_lines import OTHER_HOSTS, LineBudget, LogLines


def lines(form: str, level: str = "info") -> tuple[LogLines, list[str]]:
    written: list[str] = []
    return LogLines(level, form, written.append), written


def test_text() -> None:
    log, written = lines("text")
    log.info("connection closed", peer="[::1]:4711", why="a frame of -5 bytes", count=3)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info    "
        r'connection closed peer=\[::1\]:4711 why="a frame of -5 bytes" count=3\n',
        written[0],
    )


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("evil", ["a\nb", "x level=error", 'quote " here', "\x1b[2J", "\u2028", "y" * 5_000])
def test_a_peer_can_not_forge_a_line(form: str, evil: str) -> None:
    log, written = lines(form)
    log.warning("refused", id=evil)
    (line,) = written
    assert len(line.splitlines()) == 1
    assert len(line) < 2_000
    assert "\x1b" not in line
    assert " level=error" not in line.replace('"x level=error"', "")


def test_json_has_numbers_as_numbers() -> None:
    log, written = lines("json")
    log.error("failed", count=3, why=None, where=("a", 1))
    found = json.loads(written[0])
    assert (found["level"], found["event"], found["count"], found["why"]) == ("error", "failed", 3, None)


def test_levels() -> None:
    log, written = lines("text", "warning")
    log.debug("no")
    log.info("no")
    log.warning("yes")
    log.error("yes")
    assert len(written) == 2


def test_nobody_reads_the_log() -> None:
    """A closed stderr stops no broker."""

    def closed(line: str) -> None:
        raise BrokenPipeError

    log = LogLines("info", "text", closed)
    log.info("one")
    log.info("two")


class TestBudget:
    """Law 8: so many lines of each host, and of all together, in a minute; the rest is counted and told once."""

    def test_a_host(self) -> None:
        budget = LineBudget()
        assert [budget.take("a", 5.0) for _ in range(12)] == [True] * 10 + [False] * 2
        assert budget.take("b", 6.0), "another one has its own"
        assert budget.is_anything_left_out and budget.over(64.9) == {}
        assert not budget.take("a", 64.9)
        assert budget.over(65.0) == {"a": 3}
        assert budget.over(65.0) == {} and not budget.is_anything_left_out
        assert budget.take("a", 65.0)

    def test_many_hosts(self) -> None:
        budget = LineBudget()
        hosts = [f"10.0.{number // 256}.{number % 256}" for number in range(1_000)]
        assert [budget.take(host, 1.0) for host in hosts] == [True] * 100 + [False] * 900
        told = budget.over(61.0)
        assert len(told) == 101
        assert told[OTHER_HOSTS] == 800 and sum(told.values()) == 900
