"""The documents tell what the code does: every rule has its tests, links lead somewhere."""

from __future__ import annotations

import ast
import re

import pytest
from tests.house.tree import ROOT, modules, texts

RULES = [
    f"{letter}{number}"
    for letter, count in {"D": 8, "P": 10, "T": 11, "O": 6, "R": 6}.items()
    for number in range(1, count + 1)
]

ROW = re.compile(r"^\|\s*\**([DPTOR]\d+)\**\b[^|]*\|(.*)\|(.*)\|\s*$", re.MULTILINE)
CITED = re.compile(r"(tests/[\w/.-]+\.\w+)(?:::([\w:]+))?")
LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)[^)]*\)")


def cited_tests() -> dict[str, list[tuple[str, str]]]:
    """The tests that docs/guarantees.md names for each rule."""
    text = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
    found: dict[str, list[tuple[str, str]]] = {}
    for rule, _, tests in ROW.findall(text):
        found.setdefault(rule, []).extend(CITED.findall(tests))
    return found


def names_in(path: str) -> set[str]:
    """All functions and ``Class::method`` of a test file."""
    names: set[str] = set()
    for node in ast.walk(modules("tests")[path]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.ClassDef):
            names |= {f"{node.name}::{item.name}" for item in node.body if isinstance(item, ast.FunctionDef)}
            names.add(node.name)
    return names


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_tests_that_exist(rule: str) -> None:
    cited = cited_tests().get(rule, [])
    assert cited, f"docs/guarantees.md names no test for {rule}"
    for path, name in cited:
        assert (ROOT / path).is_file(), f"{rule}: {path} does not exist"
        if name:
            assert name in names_in(path), f"{rule}: {path} has no {name}"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_stands_in_full(rule: str) -> None:
    """docs/semantics.md says what the numbers mean that the code cites, each once."""
    text = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")
    assert len(re.findall(rf"^(?:### |- \*\*){rule}\b", text, re.MULTILINE)) == 1


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for path, text in texts().items():
        if path.endswith(".md"):
            for target in LINK.findall(text):
                if "://" not in target and not (ROOT / path).parent.joinpath(target).exists():
                    broken.append(f"{path}: {target}")
    assert broken == []


def test_the_architecture_fits_on_some_pages() -> None:
    assert texts()["docs/architecture.md"].count("\n") <= 200


def test_every_folder_of_the_code_is_on_the_map() -> None:
    """docs/architecture.md names every package and every module of the source."""
    text = texts()["docs/architecture.md"]
    missing = [
        path
        for path in modules("src")
        if not path.endswith(("__init__.py", "__main__.py")) and path.rsplit("/", 1)[1].removesuffix(".py") not in text
    ]
    assert missing == []


#: A file that a text names, from the root or from src/oncelog. Braces, stars and ellipses stand for several.
NAMED = re.compile(r"(?<![\w/.<{}-])((?:docs|src|tests|bench|examples|ROOMS)/[\w/.-]+\.(?:py|md|txt|toml))(?![\w{}*])")
ROOMS = sorted(path.name for path in (ROOT / "src" / "oncelog").iterdir() if path.is_dir() and path.name != "template")
#: Written into projects of `oncelog new`, and names that tests make up.
ELSEWHERE = {"tests/test_crash.py", "tests/test_pure.py", "tests/postgres.py"}


def test_files_that_are_named_are_there() -> None:
    """In pages, docstrings and comments: whoever follows a name must find something."""
    pattern = re.compile(NAMED.pattern.replace("ROOMS", "|".join(ROOMS)))
    lost = {
        f"{path}: {name}"
        for path, text in texts().items()
        if path.endswith((".py", ".md", "Makefile", ".toml"))
        for name in pattern.findall(text)
        if name not in ELSEWHERE and not (ROOT / name).is_file() and not (ROOT / "src" / "oncelog" / name).is_file()
    }
    assert sorted(lost) == []


HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
ANCHOR = re.compile(r"\[[^\]]*\]\(([^)\s]*)#([^)\s]+)\)")


def anchors_of(text: str) -> set[str]:
    """What headings are called in links: small letters, hyphens for spaces, no signs."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in HEADING.findall(text)}


def test_links_into_documents_meet_a_heading() -> None:
    pages = {path: text for path, text in texts().items() if path.endswith(".md")}
    broken = []
    for path, text in pages.items():
        for target, anchor in ANCHOR.findall(text):
            if "://" not in target:
                page = (ROOT / path).parent.joinpath(target) if target else ROOT / path
                if page.is_file() and anchor not in anchors_of(page.read_text(encoding="utf-8")):
                    broken.append(f"{path}: {target}#{anchor}")
    assert broken == []
