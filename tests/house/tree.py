"""The files of the project, as the house tests read them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_FOLDERS = ("src", "tests", "bench", "docs", "examples", ".ci")
_SUFFIXES = {".py", ".md", ".toml", ".txt", ".sh", ".yml", ".yaml", ".json", ".html", ".css", ".js", ""}
_IGNORED = {"__pycache__", ".hypothesis"}


@cache
def texts() -> dict[str, str]:
    """Every text file of the tree by its path from the root."""
    found = {}
    for path in sorted(_paths()):
        if path.suffix in _SUFFIXES and not _IGNORED & set(path.parts) and ".egg-info" not in str(path):
            found[str(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return found


def _paths() -> Iterator[Path]:
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.name not in {"LICENSE", ".git"})
    for folder in _FOLDERS:
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file())


@cache
def modules(*folders: str) -> dict[str, ast.Module]:
    """The syntax trees of the Python files below some folders."""
    return {
        path: ast.parse(text)
        for path, text in texts().items()
        if path.endswith(".py") and path.split("/", 1)[0] in folders
    }
