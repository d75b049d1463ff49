"""``oncelog app``: runs, draws and rehearses an application, and makes the tables of its databases."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App, Parameter

from oncelog.cli.failures import CommandError, ExitCode

if TYPE_CHECKING:
    import oncelog.app

app = App(name="app", help="Run, draw and rehearse an application; make the tables of its databases.")

Target = Annotated[str, Parameter(name="MODULE:APP")]
_SHOWN_MAX: Final = 100


@app.command
def schema(target: Target, /, *, print_: Annotated[bool, Parameter(name="--print", negative=())] = False) -> None:
    """Make the tables that the application's sinks and outboxes need; those that are there are left as they are.

    Parameters
    ----------
    target
        Where the application is: a module and the name of its App, such as billing.main:app.
    print_
        Show the statements instead of running them.
    """
    from oncelog.app import schema as tables

    topology = _loaded(target).topology
    wanted: dict[str, list[str]] = {sink.database: [] for sink in topology.sinks if sink.database is not None}
    for outbox in topology.outboxes:
        wanted.setdefault(outbox.database, []).append(outbox.table)
    if not wanted:
        raise CommandError(
            ExitCode.USAGE, f"{target} has no sink and no outbox with a database; there is nothing to make"
        )
    with _in_words():
        for url, outboxes in wanted.items():
            engine = tables.engine_of(url)
            if print_:
                print(tables.statements(engine, outboxes))
            else:
                tables.create(engine, outboxes)
                print(f"ready: {engine.url.render_as_string(hide_password=True)}")
            engine.dispose()


@app.command
def describe(target: Target, /, *, svg: Annotated[Path | None, Parameter(name="--svg")] = None) -> None:
    """Say what an application is made of: topics, handlers, what happens to records that fail.

    Parameters
    ----------
    target
        Where the application is, such as billing.main:app.
    svg
        A file to draw it into.
    """
    loaded = _loaded(target)
    if svg is not None:
        svg.write_text(loaded.describe_svg(), encoding="utf-8")
    print(loaded.describe(), end="")


@app.command(name="dry-run")
def dry_run(target: Target, /, *, records: int = 10) -> None:
    """Show what the next records would become. Nothing is written, no offset moves, no group is joined.

    Parameters
    ----------
    target
        Where the application is, such as billing.main:app.
    records
        How many records of each partition, at most.
    """
    with _in_words():
        driver = _loaded(target).dry_run(records)
    for topic in driver.topics:
        outs = driver.outputs(topic)
        print(f"{topic}: {len(outs)}")
        for out in outs[:_SHOWN_MAX]:
            print(f"  {out.key!r}: {out.value!r}")


@app.command
def run(target: Target, /, *, workers: int = 1, metrics: str | None = None) -> None:
    """Run an application until SIGTERM or SIGINT.

    Try: oncelog app run billing.main:app --workers 4 --metrics 127.0.0.1:9465

    Exit codes: 0 stopped by a signal; 1 a bug; 2 something is set up wrong; 3 a poison record; 4 another process has this
    one's name.

    Parameters
    ----------
    target
        Where the application is, such as billing.main:app.
    workers
        Members of the group in this process.
    metrics
        HOST:PORT for Prometheus.
    """
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    _loaded(target).run(workers, metrics=metrics)


@contextlib.contextmanager
def _in_words() -> Iterator[None]:
    """What is wrong with the application or its surroundings ends the command with a sentence."""
    from oncelog.app import ConfigurationError

    try:
        yield
    except ConfigurationError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from error


def _loaded(target: str) -> oncelog.app.App:
    """The App that MODULE:APP names; modules of the current folder are found too."""
    from oncelog.app import App as Application

    module, colon, name = target.partition(":")
    if not (module and colon and name):
        raise CommandError(ExitCode.USAGE, f"{target!r} is not MODULE:APP, such as billing.main:app")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with _in_words():
            found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise CommandError(ExitCode.USAGE, f"{target} can't be loaded: {error}") from error
    if not isinstance(found, Application):
        raise CommandError(ExitCode.USAGE, f"{target} is a {type(found).__name__}, not an oncelog.app.App")
    return found
