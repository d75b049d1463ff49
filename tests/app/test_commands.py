"""``oncelog app``: schema, describe, dry-run and run, on the application of a module."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from tests.support.apps import counted, feed, numbers, once, until_done
from tests.support.confluent import committed, create_topic
from tests.support.fixtures import Broker

Unique = Callable[[str], str]

MODULE = """
from oncelog.app import App, Out, Record
app = App({name!r}, {bootstrap!r}, state_folder="state")
@app.process({source!r}, to={target!r})
def copy(record: Record[str, str]) -> Out:
    return Out(key=record.key, value=record.value.upper())
@app.sink({target!r}, database="sqlite:///here.db")
def store(record: Record[str, str], db) -> None: ...
app.outbox({source!r}, database="sqlite:///here.db", table="outbox")
bare = App("bare")
"""


def oncelog(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "oncelog", "app", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_an_application_from_its_schema_to_its_end(broker: Broker, unique: Unique, tmp_path: Path) -> None:
    source, target = (create_topic(broker.bootstrap, unique(name), 1) for name in ("in", "out"))
    names = {"name": unique("app"), "bootstrap": broker.bootstrap, "source": source, "target": target}
    (tmp_path / "shop.py").write_text(MODULE.format(**names), encoding="utf-8")
    feed(broker.bootstrap, source, numbers(3))

    shown = oncelog(tmp_path, "schema", "shop:app", "--print")
    assert "CREATE TABLE oncelog_offsets" in shown.stdout
    assert not (tmp_path / "here.db").exists()
    made = oncelog(tmp_path, "schema", "shop:app")
    assert (made.returncode, made.stdout) == (0, "ready: sqlite:///here.db\n"), made.stderr
    with closing(sqlite3.connect(tmp_path / "here.db")) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"oncelog_offsets", "oncelog_dead_letters", "outbox"} <= tables

    drawn = oncelog(tmp_path, "describe", "shop:app", "--svg", "shop.svg")
    assert source in drawn.stdout
    assert "<svg" in (tmp_path / "shop.svg").read_text(encoding="utf-8")

    rehearsed = oncelog(tmp_path, "dry-run", "shop:app", "--records", "2")
    assert rehearsed.stdout == f"{target}: 2\n  'n0': 'N0'\n  'n1': 'N1'\n", rehearsed.stderr
    assert counted(broker.bootstrap, target) == {}
    assert committed(broker.bootstrap, names["name"], source, [0]) == {0: -1001}

    command = [sys.executable, "-m", "oncelog", "app", "run", "shop:app"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        until_done(broker.bootstrap, names["name"], source)
        running.send_signal(signal.SIGTERM)
        _, log = running.communicate(timeout=60)
    assert running.returncode == 0, log
    assert "transaction outcome=committed" in log
    assert counted(broker.bootstrap, target) == once(["N0", "N1", "N2"])


def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from oncelog.app import App\napp = App('a')\nother = 1\n", encoding="utf-8")
    for target, sentence in (
        ("shop", "is not MODULE:APP"),
        ("nowhere:app", "can't be loaded"),
        ("shop:other", "is a int"),
        ("shop:app", "there is nothing to make"),
    ):
        ran = oncelog(tmp_path, "schema", target)
        assert ran.returncode == 2
        assert sentence in ran.stderr
        assert "Traceback" not in ran.stderr
