"""Tables for people and JSON for scripts."""

from __future__ import annotations

import json

import pytest

from oncelog.cli.tables import lasted, moment, show

ROWS = [{"name": "a", "count": 5, "more": 1}, {"name": "a long\nname", "count": None, "more": 2}]


def test_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, ("name", "count"), is_json=False)
    assert capsys.readouterr().out == 'NAME            COUNT\na               5\n"a long\\nname"  -\n'


def test_json_has_everything(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, ("name", "count"), is_json=True)
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    show([], ("name",), is_json=False)
    assert capsys.readouterr().out == "NAME\n"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0 ms"),
        (999, "999 ms"),
        (1_000, "1.0 s"),
        (59_949, "59.9 s"),
        (60_000, "1 min 0 s"),
        (3_725_000, "62 min 5 s"),
    ],
)
def test_durations(ms: int, text: str) -> None:
    assert lasted(ms) == text


def test_moments() -> None:
    assert (moment(0), moment(1_500), moment(-1)) == ("1970-01-01T00:00:00.000Z", "1970-01-01T00:00:01.500Z", "")


def test_a_moment_that_no_calendar_has() -> None:
    """Producers may say any."""
    assert moment(253_402_300_799_000) == "9999-12-31T23:59:59.000Z"
    assert moment(253_402_300_800_000) == "253402300800000"
    assert moment(2**63 - 1) == "9223372036854775807"
