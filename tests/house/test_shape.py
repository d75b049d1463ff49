"""The size and the names of the code: the house rules of docs/contributing.md, kept by a test."""

from __future__ import annotations

import ast
import re

import pytest
from tests.house.tree import modules, texts

FILE_LINES_MAX = 700
FUNCTION_LINES_MAX = 60
CODE = ("src", "tests", "bench")

BANNED_ENDINGS = ("Manager", "Service", "Helper", "Helpers", "Util", "Utils", "Base", "Impl", "Info", "Data")
BANNED_NAMES = {"pid", "tp", "st", "txn"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> list[Function]:
    return [node for node in ast.walk(tree) if isinstance(node, Function)]


def body_lines(function: Function) -> int:
    """Lines from ``def`` to the end, without the docstring."""
    assert function.end_lineno is not None
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        text = function.body[0]
        assert text.end_lineno is not None
        lines -= text.end_lineno - text.lineno + 1
    return lines


def test_files_are_short() -> None:
    long = {path: text.count("\n") for path, text in texts().items() if path.endswith(".py")}
    assert {path: lines for path, lines in long.items() if lines > FILE_LINES_MAX} == {}


def test_functions_are_short() -> None:
    long = [
        f"{path}:{function.lineno} {function.name} has {body_lines(function)} lines"
        for path, tree in modules(*CODE).items()
        for function in functions(tree)
        if body_lines(function) > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_classes_are_named_for_what_they_are() -> None:
    bad = [
        f"{path}:{node.lineno} {node.name}"
        for path, tree in modules(*CODE).items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and node.name.endswith(BANNED_ENDINGS)
    ]
    assert bad == []


def defined_names(tree: ast.Module) -> list[tuple[int, str]]:
    """Every name that the code itself gives: variables, arguments, functions, attributes of self."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            found.append((node.lineno, node.arg))
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.append((node.lineno, node.id if isinstance(node, ast.Name) else node.attr))
        elif isinstance(node, Function):
            found.append((node.lineno, node.name))
    return found


def test_no_abbreviations_of_the_trade() -> None:
    bad = [
        f"{path}:{line} {name}"
        for path, tree in modules("src").items()
        for line, name in defined_names(tree)
        if name.strip("_") in BANNED_NAMES
    ]
    assert bad == []


def test_every_module_says_what_lives_there() -> None:
    silent = [path for path, tree in modules(*CODE).items() if tree.body and ast.get_docstring(tree) is None]
    assert silent == []


OPEN_QUESTIONS = re.compile(r"\b(TO(?:DO)|FIX(?:ME)|X(?:XX))\b")
NOT_RUN = re.compile(r"pytest\.(mark\.)?(sk(?:ip)|skip(?:if)|xf(?:ail)|import(?:orskip))\b|unittest\.sk(?:ip)")


def test_nothing_is_left_for_later() -> None:
    found = [path for path, text in texts().items() if OPEN_QUESTIONS.search(text)]
    assert found == []


def test_no_test_is_left_out() -> None:
    found = [path for path, text in texts().items() if path.startswith("tests/") and NOT_RUN.search(text)]
    assert found == []


BROAD_EXCEPTS_MAX = 2


def is_broad(handler: ast.ExceptHandler) -> bool:
    caught = handler.type
    names = caught.elts if isinstance(caught, ast.Tuple) else [caught]
    return any(
        name is None or (isinstance(name, ast.Name) and name.id in {"Exception", "BaseException"}) for name in names
    )


def test_errors_of_our_own_are_not_swallowed() -> None:
    """Our own bugs stop the broker; only the connection task and the lane's supervisor may catch everything."""
    broad = [
        f"{path}:{node.lineno}"
        for path, tree in modules("src").items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and is_broad(node)
    ]
    assert len(broad) <= BROAD_EXCEPTS_MAX, broad


#: Written back to front, so that this file does not hold what it looks for.
REGISTRY_HOSTS = [
    ".".join(reversed(parts.split(".")))
    for parts in ("org.pypi", "org.pythonhosted", "org.maven.repo1", "org.maven.repo", "org.golang.proxy", "org.npmjs")
]
MACHINE_PATHS = re.compile(r"(?<![\w.<>-])/(wo(?:rk)|ro(?:ot)|ho(?:me)/\w+)/")


@pytest.mark.parametrize("host", REGISTRY_HOSTS)
def test_no_package_registry_is_named(host: str) -> None:
    assert [path for path, text in texts().items() if host in text] == []


def test_no_path_of_some_machine() -> None:
    assert [path for path, text in texts().items() if MACHINE_PATHS.search(text)] == []
