"""A project's Dockerfile and workflow, read and done by hand: there need be no Docker and no runner for that.

Of the Dockerfile each instruction is followed in a folder that stands for the image: what COPY would take in the light of
.dockerignore, the package as pip installs it (not as the source is), and the command at the end, on a broker. Only what would
come from a registry is here already.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from tests.support.apps import until
from tests.support.projects import CHOICES, Choice, equip, made, run_make

from oncelog.testing import Kafka

#: What the image's folders are made from; the last step of RUN would need root.
INSTRUCTIONS = ["FROM", "WORKDIR", "COPY", "COPY", "COPY", "RUN", "USER", "ENV", "VOLUME", "EXPOSE", "CMD"]


def instructions(project: Path) -> list[tuple[str, str]]:
    text = (project / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found = [line.split(maxsplit=1) for line in text.splitlines() if line.strip()]
    return [(name, words.strip()) for name, words in found]


def named(project: Path, instruction: str) -> list[str]:
    return [words for name, words in instructions(project) if name == instruction]


class Image:
    """A folder with what the Dockerfile puts into the image's, and a Python of its own."""

    def __init__(self, project: Path, folder: Path) -> None:
        self.app = folder / "app"
        self.app.mkdir(parents=True)
        ignored, *kept = (project / ".dockerignore").read_text(encoding="utf-8").split()
        assert ignored == "*" and all(each.startswith("!") for each in kept)
        for words in named(project, "COPY"):
            source, target = words.split()
            assert any(fnmatch.fnmatch(source, each[1:]) for each in kept), f".dockerignore hides {source}"
            copy = shutil.copytree if (project / source).is_dir() else shutil.copy
            copy(project / source, self.app / (source if target == "./" else target))
        self._environment = dict(pair.split("=") for words in named(project, "ENV") for pair in words.split())
        self.venv = folder / "venv"
        venv.create(self.venv, symlinks=True)
        (packages,) = (self.venv / "lib").glob("python*/site-packages")
        ours = sysconfig.get_path("purelib")
        (packages / "here.pth").write_text(f"import site; site.addsitedir({ours!r})\n", encoding="utf-8")

    def run(self, command: list[str], **environment: str) -> subprocess.Popen[str]:
        path = os.pathsep.join((str(self.venv / "bin"), os.environ["PATH"]))
        given = {**self._environment, "PATH": path, "HOME": str(self.app.parent), **environment}
        return subprocess.Popen(
            command, cwd=self.app, env=given, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def ran(self, command: list[str], **environment: str) -> str:
        process = self.run(command, **environment)
        shown, _ = process.communicate(timeout=120)
        assert process.returncode == 0, shown
        return shown


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return made(tmp_path, "order-billing", Choice("sqlite", "msgspec", "sync"))


@pytest.fixture
def image(project: Path, tmp_path: Path) -> Iterator[Image]:
    (project / "wheels").mkdir()  # make image fills it
    yield Image(project, tmp_path / "image")


def test_the_image_runs_the_service(project: Path, image: Image, kafka: Kafka, tmp_path: Path) -> None:
    assert [name for name, _ in instructions(project)] == INSTRUCTIONS
    (install, user, folder) = (step.strip() for step in named(project, "RUN")[0].split("&&"))
    assert install == "pip install --no-cache-dir --find-links wheels ."
    image.ran(
        [
            "python",
            "-m",
            *install.split(),
            "--no-index",
            "--no-deps",
            "--no-build-isolation",
            "--disable-pip-version-check",
        ]
    )
    shutil.rmtree(image.app / "src")  # it must not be what runs
    assert (user, folder) == ("useradd --create-home service", "install -d -o service /var/lib/order-billing")
    (volume,) = named(project, "VOLUME")
    surroundings = {
        "KAFKA_BOOTSTRAP": kafka.bootstrap,
        "DATABASE_URL": f"sqlite:///{tmp_path}/billing.db",
        "ONCELOG_INSTANCE": "order-billing-0",
        "METRICS": "127.0.0.1:0",
    }
    (command,) = (json.loads(words) for words in named(project, "CMD"))
    settings = image.ran(
        ["python", "-c", "from order_billing.settings import load; print(load().state_folder)"], **surroundings
    )
    assert settings.strip() == volume, "the state is not in the volume"
    surroundings["STATE_FOLDER"] = str(tmp_path / "state")
    for topic in ("orders", "invoices", "orders.dead"):
        kafka.topic(topic)
    image.ran([*command[:-1], "setup"], **surroundings)
    kafka.produce("orders", ['{"order_id": "o-1", "customer": "ann", "product": "apple", "quantity": 2}'])
    service = image.run(command, **surroundings)
    try:
        until(lambda: bool(kafka.consume("invoices")) or service.poll() is not None, "the invoice")
    finally:
        service.send_signal(signal.SIGTERM)
        shown, _ = service.communicate(timeout=60)
    assert service.returncode == 0, shown
    assert [json.loads(record.value or b"")["total_cents"] for record in kafka.consume("invoices")] == [60]


def test_the_ports_and_users_of_the_image_are_those_of_the_settings(project: Path) -> None:
    settings = (project / "src" / "order_billing" / "settings.toml").read_text(encoding="utf-8")
    (port,) = named(project, "EXPOSE")
    assert f'metrics = "0.0.0.0:{port}"' in settings
    assert named(project, "USER") == ["service"]
    assert instructions(project)[-1][1].startswith("["), "a shell would take the signals"


def test_wheels_have_what_the_image_is_to_have(project: Path) -> None:
    """`make image` up to Docker itself: oncelog out of a folder becomes a wheel that pip finds."""
    library = project.parent / "library"
    (library / "lib").mkdir(parents=True)
    (library / "lib" / "__init__.py").touch()
    (library / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "setuptools.build_meta"\n'
        '[project]\nname = "oncelog"\nversion = "9"\n[tool.setuptools]\npackages = ["lib"]\n',
        encoding="utf-8",
    )
    equip(project)
    shown = run_make(project, "wheels", f"ONCELOG={library} --no-build-isolation")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert [path.name for path in (project / "wheels").iterdir()] == ["oncelog-9-py3-none-any.whl"]


@pytest.mark.parametrize("choice", [CHOICES[0], CHOICES[-1]], ids=str)
def test_the_workflow_does_what_people_do(tmp_path: Path, choice: Choice) -> None:
    project = made(tmp_path, "billing", choice)
    read = yaml.safe_load((project / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8"))
    (job,) = read["jobs"].values()
    assert read[True] == ["push", "pull_request"]  # `on` is a truth in YAML 1.1
    assert job["env"] == {"ONCELOG": "${{ vars.ONCELOG || 'oncelog' }}"}
    assert [step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step] == [
        "actions/checkout",
        "actions/setup-python",
    ]
    commands = [shlex.split(step["run"]) for step in job["steps"] if "run" in step]
    assert commands == [["make", "test"]]  # which test_projects runs
    planned = run_make(project, "--dry-run", "test", "ONCELOG=elsewhere").stdout
    assert "pip install --quiet --disable-pip-version-check elsewhere --editable" in planned
    assert planned.splitlines()[-1].endswith("python -m pytest")
    assert job["steps"][1]["with"]["python-version"] in (project / "Dockerfile").read_text(encoding="utf-8")
