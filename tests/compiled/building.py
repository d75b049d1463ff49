"""oncelog with its core compiled, built as a user builds it: ``ONCELOG_COMPILED=1 pip wheel`` on a clean copy of the sources.

What comes of it is a folder for PYTHONPATH, in the cache, named by what it was made of. It goes before the sources of the tree,
so that ``python -m oncelog`` is the compiled one there, and tests run against it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tomllib
from functools import cache
from pathlib import Path

from tests.support.suites import GET_SECONDS_MAX, kept, run

ROOT = Path(__file__).resolve().parents[2]
#: What a build needs beside src/; and what of it changes what is built.
_FILES = ("pyproject.toml", "setup.py", "README.md", "LICENSE")
_DECISIVE = ("pyproject.toml", "setup.py")
#: Builds of older sources that are kept.
_KEPT_MAX = 3


def modules() -> list[str]:
    """The modules of the core, as pyproject.toml names them."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found: list[str] = tomllib.loads(text)["tool"]["oncelog"]["compiled"]
    return found


def _sources() -> list[Path]:
    found = [ROOT / name for name in _FILES]
    found += (path for path in (ROOT / "src" / "oncelog").rglob("*") if path.is_file() and path.suffix != ".pyc")
    return sorted(found)


@cache
def built() -> Path:
    """The folder with the package. Raises AssertionError if it can't be built."""
    sources = _sources()

    def make(folder: Path) -> None:
        copy = folder / "copy"
        for path in sources:
            to = copy / path.relative_to(ROOT)
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, to)
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        asked = {"ONCELOG_COMPILED": "1"}
        run([*pip, "wheel", "--no-deps", "-w", str(folder), "."], GET_SECONDS_MAX, cwd=copy, variables=asked).checked()
        [wheel] = folder.glob("*.whl")
        run([*pip, "install", "--no-deps", "--target", str(folder / "lib"), str(wheel)], GET_SECONDS_MAX).checked()
        shutil.rmtree(copy)

    made_of = [sys.version]
    made_of += (
        f"{path.relative_to(ROOT)}: {path.read_bytes().hex()}"
        for path in sources
        if path.parent != ROOT or path.name in _DECISIVE
    )
    folder = kept("compiled", made_of, make)
    _forget_older(folder)
    return folder / "lib"


def _forget_older(folder: Path) -> None:
    os.utime(folder)
    others = [one for one in folder.parent.glob("compiled-*") if one != folder and one.name != "compiled-half"]
    for one in sorted(others, key=lambda path: path.stat().st_mtime)[:-_KEPT_MAX]:
        shutil.rmtree(one)


def variables() -> dict[str, str]:
    """What a process needs in its environment to have the compiled core."""
    return {"PYTHONPATH": str(built())}


def check() -> None:
    """Every module of the core is the compiled one, in a process with these variables: Python takes a .py without a word."""
    program = "import sys, importlib\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    done = run([sys.executable, "-c", program, *modules()], 60, variables=variables()).checked()
    wrong = [file for file in done.split() if not file.startswith(str(built())) or file.endswith(".py")]
    assert not wrong, f"not compiled: {wrong}"
