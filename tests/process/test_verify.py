"""``oncelog verify`` as its users run it: against a broker process, with faults, in half a minute."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from tests.support.broker_process import BrokerProcess, free_port
from tests.support.confluent import consumer, create_topic, transactional_producer
from tests.support.fixtures import TEST_OPTIONS

from oncelog.faults import ProxyError
from oncelog.faults.frames import Unreadable, api_name
from oncelog.verify import clients
from oncelog.verify.run import Options, Run

#: Traces in which nothing on the wire tells the late request from a good one; FINDINGS.md has them.
VIOLATED = {("TV1", "offsets with generation -1"), ("TV1", "a batch given up arrives first in the next transaction")}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("verified"), options=TEST_OPTIONS) as process:
        yield process
        process.assert_healthy()


def verify(*options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "oncelog", "verify", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=150, check=False)


@pytest.mark.client("confluent-kafka")
def test_a_short_run(broker: BrokerProcess, tmp_path: Path) -> None:
    """Everything is used once: the proxy, workers that are killed, the observer, the final reading, the report."""
    faults = ("--faults", "late,kill,lose:produce,double:end_txn")
    options = ("--workload", "copy", "--duration", "6s", "--seed", "1", "--partitions", "5", *faults)
    ran = verify("--bootstrap", broker.bootstrap, "--out", str(tmp_path), "--json", "-", *options)
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads(ran.stdout)
    assert verdict["verdict"] == "holds"
    assert verdict["violations"] == []
    assert verdict["counts"]["transactions_committed"] > 0
    assert verdict["counts"]["faults"] > 0
    assert verdict["counts"]["requests_unread"] == 0
    assert verdict["settings"]["brokers"] == 1
    assert "holds: " in ran.stderr
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "://" not in page, "it must open without a network"
    again = verify("--history", str(tmp_path / "history.jsonl"), "--json", "-")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["counts"] == verdict["counts"]


@pytest.mark.client("confluent-kafka")
def test_the_operators_command_is_run(broker: BrokerProcess, tmp_path: Path) -> None:
    """And nothing else strikes."""
    hook = ("--faults", "none", "--on-fault", f"echo struck >> {tmp_path}/struck; exit 3")
    options = (
        "--workload",
        "offsets",
        "--duration",
        "3s",
        "--out",
        str(tmp_path),
        "--json",
        f"{tmp_path}/verdict.json",
    )
    ran = verify("--bootstrap", broker.bootstrap, *options, *hook)
    assert ran.returncode == 0, ran.stderr
    verdict = json.loads((tmp_path / "verdict.json").read_text(encoding="utf-8"))
    strikes = (tmp_path / "struck").read_text(encoding="utf-8").count("struck")
    assert strikes == verdict["counts"]["faults"] > 0
    assert "exit code 3" in (tmp_path / "report.html").read_text(encoding="utf-8")


#: A shell's background jobs ignore SIGINT, and so would all that these tests start from there.
LISTENING = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"


@pytest.mark.client("confluent-kafka")
def test_interrupted(broker: BrokerProcess, tmp_path: Path) -> None:
    """Ctrl-C leaves no worker behind, and what was recorded so far."""
    command = [sys.executable, "-m", "oncelog", "verify", "--bootstrap", broker.bootstrap, "--out", str(tmp_path)]
    with subprocess.Popen([sys.executable, "-c", LISTENING, *command], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("parts/copy-*.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert list(tmp_path.glob("parts/run.jsonl"))
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if str(tmp_path).encode() in read(path)]
    assert left == []


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


@pytest.mark.client("confluent-kafka")
def test_the_known_traces(broker: BrokerProcess) -> None:
    ran = verify("--known", "--bootstrap", broker.bootstrap, "--json", "-")
    played = json.loads(ran.stdout)
    verdicts = {(each["protocol"], each["name"]): each["verdict"] for each in played}
    assert len(verdicts) == len(played) == 19
    assert {trace for trace, verdict in verdicts.items() if verdict != "holds"} == VIOLATED, ran.stderr
    assert all(verdicts[trace] == "violated" for trace in VIOLATED)
    assert ran.returncode == 10


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    nowhere = verify("--bootstrap", f"127.0.0.1:{free_port()}", "--out", str(tmp_path / "run"))
    assert nowhere.returncode == 6
    assert not (tmp_path / "run").exists(), "a folder is left only by a run"
    assert "no Kafka broker answers" in nowhere.stderr
    for options, told in (
        (("--faults", "kil"), "there is no fault 'kil'; there are kill"),
        (("--faults", "hook"), "--on-fault"),
        (("--faults", "late:fetsch"), "late:fetsch: one of"),
        (("--duration", "soon"), "write 90s, 10m or 2h"),
        (("--partitions", "2"), "--partitions 2: from 3 to 1000"),
        (("--set", "x"), "no NAME=VALUE"),
        (("--history", str(tmp_path / "none")), "can't read the history"),
    ):
        ran = verify("--out", str(tmp_path), *options)
        assert ran.returncode == 2, ran.stderr
        assert told in ran.stderr


@pytest.mark.client("confluent-kafka")
def test_a_proxy_that_cannot_read_ends_the_run_at_once(
    broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster newer than kio: the clients would leave the proxy, so it is said, and nothing is waited for."""

    def newer(api_key: int, version: int, body: bytes) -> Any:
        raise Unreadable(f"{api_name(api_key)} version {version} can't be read here")

    monkeypatch.setattr("oncelog.faults.links.decode_reply", newer)
    run = Run(Options(bootstrap=broker.bootstrap, folder=str(tmp_path), duration_seconds=300), lambda _: None)
    began = time.monotonic()
    with pytest.raises(ProxyError, match=r"version .* can't be read here.*Update kio"):
        run.play()
    assert time.monotonic() - began < 100


@pytest.mark.client("confluent-kafka")
def test_offsets_of_an_open_transaction_are_told_as_pending(
    broker: BrokerProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the broker says it (O4), though a consumer that waits for them only says that its time was over."""
    monkeypatch.setattr(clients, "OFFSETS_SECONDS", 1.0)
    topic, group = create_topic(broker.bootstrap, "pending"), "pending-group"
    member, copier = consumer(broker.bootstrap, group), transactional_producer(broker.bootstrap, "pending-id")
    member.subscribe([topic])
    while not member.assignment():
        member.poll(0.1)
    cluster = clients.Cluster(broker.bootstrap, {})
    copier.begin_transaction()
    copier.send_offsets_to_transaction([TopicPartition(topic, 0, 5)], member.consumer_group_metadata())
    assert cluster.offsets(group, topic, 1) == {0: -1}
    with pytest.raises(KafkaException) as failure:
        cluster.offsets(group, topic, 1, stable=True)
    assert clients.error_of(failure.value).code() == KafkaError.UNSTABLE_OFFSET_COMMIT
    copier.commit_transaction()
    assert cluster.offsets(group, topic, 1, stable=True) == {0: 5}
    member.close()
