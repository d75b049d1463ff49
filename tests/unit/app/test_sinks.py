"""Which failures of a database pass by themselves."""

from __future__ import annotations

import pytest
import sqlalchemy.exc

from oncelog.app.sinks import is_passing


class FromServer(Exception):
    """As psycopg's errors are: the server's code where it gave one."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__()
        self.sqlstate = sqlstate


@pytest.mark.parametrize("state", ["08006", "57P01", "57P03", "40001", "40P01", "55P03", None])
def test_what_passes_is_waited_for(state: str | None) -> None:
    """None: the connection was never made, or broke."""
    assert is_passing(sqlalchemy.exc.OperationalError("SELECT", {}, FromServer(state)))


@pytest.mark.parametrize("state", ["57014", "53100", "54000"])
def test_what_a_record_brings_about_is_its_own(state: str) -> None:
    """Its statement always takes too long (57014): waiting would be for ever."""
    assert not is_passing(sqlalchemy.exc.OperationalError("SELECT", {}, FromServer(state)))
