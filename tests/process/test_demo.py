"""The demo as a user runs it, with few orders: the verdict, the figures, and that nothing stays behind."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

SECONDS_MAX = 100


def command(*options):
    return [sys.executable, "-m", "oncelog.demo", "--records", "400", *options]


def run_demo(tmp_path, *options):
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "120"}
    return subprocess.run(command(*options), env=environment, capture_output=True, text=True, timeout=SECONDS_MAX)


def row(output, semantics):
    """The figures of one line of the table: sent, delivered, lost, duplicated, then the rest."""
    lines = [line for line in output.splitlines() if line.strip().startswith(semantics.replace("-", " "))]
    return [float(word.replace(",", "")) for word in re.findall(r"[\d.,]+", lines[-1])]


def processes_using(folder):
    found = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout.splitlines()
    return [line for line in found if str(folder) in line]


def assert_nothing_is_left(folder):
    assert list(folder.iterdir()) == []
    assert processes_using(folder) == []


@pytest.mark.client("confluent-kafka")
@pytest.mark.parametrize("seed", ["1", "2"])
def test_exactly_once_holds_under_all_faults(tmp_path, seed):
    """Rules D1, D2, P1, P2, T2, O1, R1: killed workers and brokers, a zombie, lost replies; a foreign client counts."""
    ended = run_demo(tmp_path, "--semantics", "exactly-once", "--seed", seed)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    sent, delivered, lost, duplicated, _, workers, brokers, fenced, zombies, cuts = row(ended.stdout, "exactly-once")
    assert (sent, delivered, lost, duplicated) == (400, 400, 0, 0)
    assert (fenced, zombies, cuts) == (1, 1, 2)
    assert workers >= 2
    assert brokers == 2
    assert_nothing_is_left(tmp_path)


@pytest.mark.client("confluent-kafka")
def test_the_weaker_semantics_show_what_they_lose_and_repeat(tmp_path):
    """The same faults: acks=0 with offsets first loses; acks=all without idempotence repeats."""
    ended = run_demo(tmp_path, "--semantics", "at-most-once", "--semantics", "at-least-once")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    _, _, lost, duplicated, *_ = row(ended.stdout, "at-most-once")
    assert (lost > 0, duplicated) == (True, 0)
    _, _, lost, duplicated, *_ = row(ended.stdout, "at-least-once")
    assert (lost, duplicated > 0) == (0, True)
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_demo_takes_everything_away(tmp_path, number):
    """In the middle of a run, with a broker and a worker at work."""
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    options = command("--semantics", "exactly-once", "--records", "20000")
    with subprocess.Popen(options, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        try:
            until = time.monotonic() + SECONDS_MAX
            while "(-9)" not in demo.stdout.readline():
                assert demo.poll() is None and time.monotonic() < until
            demo.send_signal(number)
            assert demo.wait(SECONDS_MAX) == 130
        finally:
            demo.kill()
    assert_nothing_is_left(tmp_path)


def test_a_broker_that_does_not_start_is_told_in_one_sentence(tmp_path):
    """Exit code 2: the demo could not be played."""
    ended = run_demo(tmp_path, "--broker", f"{sys.executable} -c 'raise SystemExit(\"no room\")'")
    assert ended.returncode == 2
    assert "the broker did not start: no room" in ended.stdout
    assert_nothing_is_left(tmp_path)


def test_help_teaches():
    """-h says what each semantics is, and what the exit code means."""
    ended = subprocess.run(command("-h"), capture_output=True, text=True, timeout=SECONDS_MAX)
    assert ended.returncode == 0
    for words in ("at-most-once", "at-least-once", "exactly-once", "zombie", "Exit code", "worker.py", "--seed"):
        assert words in ended.stdout
