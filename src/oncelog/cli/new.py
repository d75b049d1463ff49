"""``oncelog new``: a small running service out of the template in oncelog/template, a copier template.

What lives here: what may be a name, the questions' answers that options give, and the sentences for what goes wrong.
"""

from __future__ import annotations

import json
import keyword
import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.resources import as_file, files
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from oncelog.cli.failures import CommandError, ExitCode

Database = Literal["none", "sqlite", "postgresql"]
Serializer = Literal["json", "msgspec", "pydantic"]
Style = Literal["sync", "async"]

#: The name is the consumer group, a folder, a package of pip and a path in an image.
_NAME: Final = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
NAME_LENGTH_MAX: Final = 30
#: Where the project's Makefile gets oncelog from on this machine; git does not take it along.
SOURCE_FILE: Final = ".oncelog-from"
QUESTIONS: Final = frozenset(("package", "database", "serializer", "style"))
#: Names that the project's own imports, or its tests, would meet.
_USED: Final = frozenset(
    (
        "oncelog",
        "confluent_kafka",
        "copier",
        "given",
        "msgspec",
        "postgres",
        "pydantic",
        "pytest",
        "ruff",
        "setuptools",
        "sqlalchemy",
        "test",
        "tests",
    )
)
RESERVED: Final = frozenset(sys.stdlib_module_names | set(keyword.kwlist) | set(keyword.softkwlist) | _USED)


def new(
    name: str,
    /,
    *,
    defaults: bool = False,
    package: str | None = None,
    database: Database | None = None,
    serializer: Serializer | None = None,
    style: Style | None = None,
) -> None:
    """Make a small service in the folder NAME: it runs, is exactly-once, and has tests that kill it.

    Orders in, invoices out: a transactional producer, a processor with state and dead letters, a read_committed consumer, a
    command that replays dead letters, with a database also an SQL sink and an outbox; tests with a broker of their own and
    without any; Makefile, Dockerfile, CI, settings for each environment. Change it into yours.

    It asks what the options below do not say. Nothing is fetched; `make test` then installs what the project needs.

    Try:

        oncelog new billing                           asks four questions
        oncelog new billing --defaults                asks nothing: SQLite, msgspec, def
        oncelog new billing --database postgresql --style async --defaults
        cd billing && make test

    Needs the package copier: pip install 'oncelog[new]'.

    Exit codes: 0 made; 2 the name can't be one, its folder is not empty, or an answer can't be.

    Parameters
    ----------
    name
        The folder, the project and the consumer group: small letters, digits, - and _, at most 30.
    defaults
        Ask nothing: what no option says is the default.
    package
        The Python package. Default: the name, with _ for -.
    database
        Where invoices are stored and orders may come from. Default: sqlite. none: records only.
    serializer
        What records are in Python: dicts (json), msgspec Structs, pydantic models. Default: msgspec.
    style
        Handlers: def (sync) or async def. Default: sync.
    """
    answers = {"package": package, "database": database, "serializer": serializer, "style": style}
    folder = Path.cwd() / _checked(name)
    make(folder, {key: value for key, value in answers.items() if value is not None}, defaults=defaults)
    if source := _source():
        (folder / SOURCE_FILE).write_text(f"{source}\n", encoding="utf-8")
    print(f"made {name}: cd {name} && make test")


def make(folder: Path, answers: dict[str, str], *, defaults: bool) -> None:
    """The project in ``folder``, which has its name. CommandError if it can't be made; then nothing is left behind."""
    try:
        from copier import run_copy
        from copier.errors import CopierAnswersInterrupt, CopierError
    except ImportError:
        sentence = "`oncelog new` needs the package copier: pip install 'oncelog[new]'"
        raise CommandError(ExitCode.USAGE, sentence) from None
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CommandError(
            ExitCode.USAGE, f"{folder.name} is there already, and not empty; take another name, or remove it"
        )
    if not (defaults or answers.keys() >= QUESTIONS or sys.stdin.isatty()):
        sentence = "there is no terminal to ask questions; add --defaults, and options for what shall be different"
        raise CommandError(ExitCode.USAGE, sentence)
    given = {**answers, "name": folder.name, "reserved": sorted(RESERVED)}
    try:
        with as_file(files("oncelog") / "template") as template:
            run_copy(str(template), folder, data=given, defaults=defaults, quiet=True)
    except CopierAnswersInterrupt as error:
        raise CommandError(ExitCode.USAGE, f"stopped at a question; {folder.name} was not made") from error
    except (CopierError, ValueError, OSError) as error:
        raise CommandError(ExitCode.USAGE, f"{folder.name} can't be made: {' '.join(str(error).split())}") from error


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > NAME_LENGTH_MAX:
        raise CommandError(
            ExitCode.USAGE,
            f"{name!r} can't be a name: small letters, digits, and - or _ between them, beginning with a letter, at most "
            f"{NAME_LENGTH_MAX}; such as order-billing",
        )
    return name


def _source() -> str:
    """The folder or wheel that this oncelog was installed from; empty if it came by its name."""
    try:
        origin = Distribution.from_name("oncelog").read_text("direct_url.json")
    except PackageNotFoundError:
        return ""
    place = urlsplit(json.loads(origin)["url"]) if origin else urlsplit("")
    return unquote(place.path) if place.scheme == "file" else ""
