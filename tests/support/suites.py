"""Suites that other people wrote: their toolchains, pinned versions, built things in a cache, verdicts by allow-list.

Nothing that is downloaded or built lies in the tree: all of it is below ``$XDG_CACHE_HOME/oncelog-suites``, in folders named by
what they were made of, so that a new version makes a new folder. A toolchain that is missing fails in CI; elsewhere the
tests that need it are deselected, and the run says so (tests/conftest.py).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

SUITES = Path(__file__).resolve().parents[1] / "conformance" / "suites"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "oncelog-suites"
VERSIONS = tomllib.loads((SUITES / "versions.toml").read_text(encoding="utf-8"))

#: What must be on PATH for a marker ``needs("java")``.
TOOLCHAINS = {"c": ("cc",), "java": ("java", "javac", "mvn"), "node": ("node", "npm", "make", "c++"), "go": ("go",)}

#: ``make suites`` runs everything at full length; ``make test`` a version that fits into minutes.
IS_LONG = os.environ.get("ONCELOG_SUITES") == "long"

GET_SECONDS_MAX = 900


def missing(toolchain: str) -> list[str]:
    """The programs of a toolchain that are not on PATH."""
    return [program for program in TOOLCHAINS[toolchain] if shutil.which(program) is None]


class Ran:
    """A foreign program that has ended: exit code and all that it said."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __str__(self) -> str:
        return f"exit code {self.code}\n{self.out[-6000:]}\n{self.err[-6000:]}"

    def checked(self) -> str:
        """What it printed, if it succeeded."""
        assert self.code == 0, str(self)
        return self.out


def started(
    command: list[str], *, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    """A program in a process group of its own; `ended` waits for it."""
    return subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, **(variables or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str], seconds_max: float) -> Ran:
    """Waits; what runs for longer is killed with all its children, and the test fails."""
    try:
        out, err = process.communicate(timeout=seconds_max)
    except subprocess.TimeoutExpired:
        killed(process)
        out, err = process.communicate()
        raise AssertionError(f"not over after {seconds_max} s: {process.args}\n{out[-3000:]}\n{err[-6000:]}") from None
    return Ran(process.returncode, out, err)


def killed(process: subprocess.Popen[Any]) -> None:
    """SIGKILL for the whole group; it was started by `started` and is not yet waited for."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)


def run(
    command: list[str], seconds_max: float, *, cwd: Path | None = None, variables: Mapping[str, str] | None = None
) -> Ran:
    return ended(started(command, cwd=cwd, variables=variables), seconds_max)


def kept(name: str, made_of: object, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; made once, by one process, and whole: it gets its name when it is complete."""
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]
    folder = CACHE / f"{name}-{digest}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            half = CACHE / f"{name}-half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


POM = """<project>
  <modelVersion>4.0.0</modelVersion>
  <groupId>suites</groupId><artifactId>suites</artifactId><version>1</version><packaging>pom</packaging>
  <dependencies>{dependencies}</dependencies>
</project>
"""
DEPENDENCY = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>"


@cache
def jars() -> str:
    """The class path of Kafka's clients, tools and Streams."""

    def make(folder: Path) -> None:
        wanted = [DEPENDENCY.format(*name.split(":"), version) for name, version in VERSIONS["maven"].items()]
        pom = folder / "pom.xml"
        pom.write_text(POM.format(dependencies="\n".join(wanted)), encoding="utf-8")
        [(plugin, version)] = VERSIONS["maven-plugin"].items()
        goal = f"{plugin}:{version}:copy-dependencies"
        options = ["-DincludeScope=runtime", f"-DoutputDirectory={folder}"]
        run(["mvn", "-q", "-B", "-f", str(pom), goal, *options], GET_SECONDS_MAX).checked()

    return f"{kept('jars', [VERSIONS['maven'], VERSIONS['maven-plugin']], make)}/*"


@cache
def classes() -> str:
    """The class path of our own programs in java/, compiled, and of what they use."""
    sources = sorted((SUITES / "java").glob("*.java"))

    def make(folder: Path) -> None:
        options = ["-Xlint:all", "-Werror", "-d", str(folder), "-cp", jars()]
        run(["javac", *options, *map(str, sources)], GET_SECONDS_MAX).checked()

    made_of = [VERSIONS["maven"], *(source.read_text(encoding="utf-8") for source in sources)]
    return f"{kept('classes', made_of, make)}:{jars()}"


def java(class_path: str, main: str, *arguments: str) -> list[str]:
    """The command of a small JVM: quick to start, and not greedy beside others."""
    log = f"-Dlog4j2.configurationFile={SUITES / 'java' / 'log4j2.properties'}"
    return ["java", "-Xmx384M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", log, "-cp", class_path, main, *arguments]


def tool(main: str, *arguments: str) -> list[str]:
    """The command of one of Kafka's own tools."""
    return java(jars(), f"org.apache.kafka.tools.{main}", *arguments)


@cache
def node_modules(package: str) -> Path:
    """The folder that holds node_modules with this npm package of the pinned version."""
    version = VERSIONS["npm"][package]

    def make(folder: Path) -> None:
        (folder / "package.json").write_text('{"private": true}', encoding="utf-8")
        quiet = ["--no-package-lock", "--no-audit", "--no-fund"]
        words = ["npm", "install", *quiet, f"{package}@{version}"]
        run(words, GET_SECONDS_MAX, cwd=folder, variables=_addon_variables()).checked()

    return kept(f"npm-{package.strip('@').replace('/', '-')}", [package, version], make)


def _addon_variables() -> dict[str, str]:
    """For packages that are compiled when they are installed: nothing but what the registry has is downloaded.

    Node's headers are those beside it, and kafka-javascript takes only such libraries for its librdkafka as are there. To
    compile it takes half the time without optimising.
    """
    prefix = Path(shutil.which("node") or "").resolve().parents[1]
    headers = {"npm_config_nodedir": str(prefix)} if (prefix / "include" / "node" / "node.h").exists() else {}
    return {"CKJS_LINKING": "dynamic", "CFLAGS": "-O0", "CXXFLAGS": "-O0", **headers}


@cache
def go_test(module: str, package: str) -> Path:
    """The test program of one package of a Go module, built inside a copy of the module's own folder."""
    version = VERSIONS["go"][module]

    def make(folder: Path) -> None:
        asked = run(["go", "mod", "download", "-json", f"{module}@{version}"], GET_SECONDS_MAX, cwd=folder)
        copy = folder / "module"
        shutil.copytree(json.loads(asked.checked())["Dir"], copy, copy_function=shutil.copyfile)
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        built = ["go", "test", "-c", "-o", str(folder / "tests"), "."]
        run(built, GET_SECONDS_MAX, cwd=copy / package, variables={"GOFLAGS": "-buildvcs=false"}).checked()

    return kept(f"go-{module.rsplit('/', 1)[1]}-{package.replace('/', '-')}", [module, version, package], make)


@cache
def go_program(name: str, module: str) -> Path:
    """Our own program go/NAME.go, built with the pinned version of the one module that it uses."""
    source, version = (SUITES / "go" / f"{name}.go").read_text(encoding="utf-8"), VERSIONS["go"][module]

    def make(folder: Path) -> None:
        (folder / "main.go").write_text(source, encoding="utf-8")
        for words in (["mod", "init", name], ["get", f"{module}@{version}"], ["build", "-o", name, "."]):
            run(["go", *words], GET_SECONDS_MAX, cwd=folder, variables={"GOFLAGS": "-buildvcs=false"}).checked()

    return kept(f"go-{name}", [source, module, version], make) / name


def tell(line: str) -> None:
    """One line for whoever watches ``make suites``."""
    sys.stdout.write(line + "\n")


_VERDICT = re.compile(r"^(PASS|FAIL) (\w+)(?:: (.*))?$", re.MULTILINE)


def verdicts(out: str) -> tuple[list[str], dict[str, str]]:
    """What our own scenario programs print: those that passed, and those that failed with the reason."""
    found = _VERDICT.findall(out)
    passed = [name for verdict, name, _ in found if verdict == "PASS"]
    return passed, {name: why for verdict, name, why in found if verdict == "FAIL"}


def must_pass(suite: str) -> set[str]:
    """The allow-list of a suite: what has passed once must pass for ever. It only grows."""
    lines = (SUITES / "must-pass" / f"{suite}.txt").read_text(encoding="utf-8").splitlines()
    return {line for line in map(str.strip, lines) if line and not line.startswith("#")}


def judge(suite: str, passed: Iterable[str], failed: Mapping[str, str]) -> None:
    """Hold a run of a suite against its allow-list, and print its line.

    What is on the list must have passed. What fails and is not on the list must have a word in FINDINGS.md. What passes and is
    not on the list belongs there: a short run says so, a long one fails until the list has grown.
    """
    passed, wanted = set(passed), must_pass(suite)
    findings = (SUITES.parents[2] / "FINDINGS.md").read_text(encoding="utf-8")
    tell(f"{suite}: {len(passed)} passed, {len(failed)} failed, {len(wanted)} must pass")
    broken = {name: failed.get(name, "it did not run") for name in sorted(wanted - passed)}
    assert not broken, f"{suite}: " + "\n".join(f"{name}: {why}" for name, why in broken.items())
    grown = f"{suite}: passes now, add to must-pass/{suite}.txt: {sorted(passed - wanted)}"
    if passed - wanted:
        assert not IS_LONG, grown
        tell(grown)
    untold = {name: why for name, why in failed.items() if name not in findings}
    assert not untold, f"{suite}: fails, and FINDINGS.md has no word about it: {untold}"
