"""Builds oncelog; with ``ONCELOG_COMPILED=1 pip install .`` its core is compiled (docs/decisions/compiled-core.md).

Everything else is in pyproject.toml, the modules of the core too. Without the variable this file does nothing of its own.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

from setuptools import setup

VARIABLE = "ONCELOG_COMPILED"
#: The compiler of Python, pinned: what it makes of the core is tested with this release.
MYPY = "mypy==2.4.1"
PROJECT: dict[str, Any] = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))


def is_asked() -> bool:
    """Whether a compiled core is wanted."""
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"{VARIABLE} is {value!r}: set it to 1 for a compiled core, or leave it away.")
    return value == "1"


def needs() -> list[str]:
    """What only this build needs: the compiler, and the libraries whose types the core is made of."""
    return [MYPY, *(one for one in PROJECT["project"]["dependencies"] if one.startswith(("kio", "msgspec")))]


def extensions() -> list[Any]:
    """The core as C, ready to be compiled."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    without = f"or leave {VARIABLE} away: oncelog is the same without, only slower."
    if shutil.which(compiler) is None:
        raise SystemExit(f"{VARIABLE}=1 needs a C compiler, and {compiler!r} is not there: install one, {without}")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        raise SystemExit(f"{VARIABLE}=1 needs the headers of Python (Debian: python3-dev): install them, {without}")
    try:
        from mypyc.build import mypycify
    except ImportError:
        raise SystemExit(f"{VARIABLE}=1 needs {MYPY}: build without --no-build-isolation, {without}") from None
    modules = PROJECT["tool"]["oncelog"]["compiled"]
    paths = [f"src/{name.replace('.', '/')}.py" for name in modules]
    # -O1: what is saved is saved by not interpreting, and a build takes a minute.
    return list(mypycify(paths, group_name="oncelog", opt_level="1"))


if not is_asked():
    setup()
elif "editable_wheel" in sys.argv:
    raise SystemExit(f"{VARIABLE}=1 does not go with an editable install: changed sources would not be what runs.")
elif "bdist_wheel" in sys.argv:
    setup(ext_modules=extensions())
else:
    # The build tool asks what it must have ready (PEP 517), or for the metadata.
    setup(setup_requires=needs() if "egg_info" in sys.argv else [])
