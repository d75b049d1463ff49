"""docs/app.md and docs/mistakes.md: every block of code is run, every test that is named exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from tests.support.apps import CLIENT, Child, counted, feed, numbers, once, until
from tests.support.broker_process import BrokerProcess
from tests.support.confluent import create_topic, read_all

from oncelog.app import schema
from oncelog.app.settings import Cluster

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))


def test_the_code_of_the_page_runs_as_one_application(
    own_broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks in order, then the application that they make, on a real broker, from the outbox to the sink."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "docs"}
    for block in blocks("app.md"):
        exec(compile(block, "docs/app.md", "exec"), names)
    app, engine = names["app"], schema.engine_of("sqlite:///billing.db")
    schema.create(engine, ["outbox"])
    for topic in app.topology.topics:
        create_topic(own_broker.bootstrap, topic, 2)
    app.cluster = Cluster(own_broker.bootstrap, CLIENT)
    with engine.begin() as db:
        db.execute(sql.text("CREATE TABLE invoices (id TEXT, total INTEGER)"))
        db.execute(sql.text("CREATE TABLE orders (id TEXT)"))
        for number in range(20):
            names["place"](db, names["Order"](f"o{number}", 3))

    def invoices() -> list[tuple[str, int]]:
        with engine.begin() as db:
            return sorted((row.id, row.total) for row in db.execute(sql.text("SELECT id, total FROM invoices")))

    with app.running(workers=2):
        until(lambda: len(invoices()) >= 20, "twenty invoices")
        until(lambda: bool(read_all(own_broker.bootstrap, "statements")), "a statement")
    assert invoices() == sorted((f"o{number}", 3) for number in range(20))
    engine.dispose()


def test_the_low_level_block_copies(own_broker: BrokerProcess, tmp_path: Path) -> None:
    for topic in ("in", "out"):
        create_topic(own_broker.bootstrap, topic, 2)
    feed(own_broker.bootstrap, "in", numbers(50))
    (block,) = [block for block in blocks("app.md") if "Session" in block]
    program = f"import os, sys\nos.chdir(sys.argv[2])\n{block}\ncopy(sys.argv[1])\n"
    with Child(program, own_broker.bootstrap, str(tmp_path)):
        until(lambda: bool(counted(own_broker.bootstrap, "out")), "copies")
    assert counted(own_broker.bootstrap, "out") == once(numbers(50))


def named_in(folder: Path) -> set[str]:
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("test_*.py")]
    nodes = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {node.name for node in nodes if node.name.startswith("test_")}


def test_every_mistake_has_its_tests() -> None:
    page = (ROOT / "docs" / "mistakes.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    assert [int(section.split(".")[0]) for section in sections] == list(range(1, 20))
    written = {name for name in named_in(ROOT / "tests" / "app") if name.startswith("test_mistake_")}
    named = set(re.findall(r"`(test_mistake_\w+)`", page))
    assert named == written
    others = set(re.findall(r"`(test_\w+)` \|$", page, re.MULTILINE))
    assert len(others) >= 15 and others <= named_in(ROOT / "tests" / "app")
    for number, section in enumerate(sections, start=1):
        assert f"`test_mistake_{number:02}_" in section
