"""Projects made by ``oncelog new``, and a venv for them that needs no network: it sees what these tests see."""

from __future__ import annotations

import itertools
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from oncelog.cli.new import make


class Choice(NamedTuple):
    """The answers to the questions of which every combination must work."""

    database: str
    serializer: str
    style: str

    def __str__(self) -> str:
        return "-".join(self)


CHOICES = [
    Choice(*each)
    for each in itertools.product(("none", "sqlite", "postgresql"), ("json", "msgspec", "pydantic"), ("sync", "async"))
]


def made(folder: Path, name: str, choice: Choice, **answers: str) -> Path:
    """A project named ``name`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    make(folder / name, {**choice._asdict(), **answers}, defaults=True)
    return folder / name


def made_by_all(folder: Path, names: Iterator[str]) -> dict[Choice, Path]:
    """One of each combination."""
    return {choice: made(folder / str(choice), name, choice) for choice, name in zip(CHOICES, names, strict=False)}


def equip(project: Path) -> None:
    """What ``make venv`` would do, without a network: its .venv has the packages of this environment, and the project."""
    venv.create(project / ".venv", symlinks=True)
    (packages,) = (project / ".venv" / "lib").glob("python*/site-packages")
    ours = sysconfig.get_path("purelib")
    (packages / "here.pth").write_text(f"import site; site.addsitedir({ours!r})\n{project / 'src'}\n", encoding="utf-8")
    (project / ".venv" / "installed").touch()


def run_make(project: Path, *targets: str, seconds: float = 300) -> subprocess.CompletedProcess[str]:
    """The project's own Makefile."""
    return subprocess.run(
        ["make", "--no-print-directory", *targets],
        cwd=project,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
