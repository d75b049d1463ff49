"""``oncelog serve`` as scripts and people meet it: the ready line, signals, exit codes, one sentence for each mistake."""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from confluent_kafka.admin import ConfigResource
from prometheus_client.parser import text_string_to_metric_families
from tests.support.broker_process import BrokerProcess
from tests.support.commands import COMMAND, page, run, snapshot
from tests.support.confluent import admin, create_topic, producer, read_all, transactional_producer, values_of
from tests.support.raw import RawClient

READY = re.compile(
    r"oncelog ready host=(?P<host>\S+) port=(?P<port>\d+) data=(?P<data>\".*\"|\S+) durability=(?P<durability>\w+) "
    r"pid=(?P<process>\d+) ms=(?P<ms>\d+)(?: metrics=(?P<metrics>\S+))?\n"
)
SECONDS_MAX = 60.0


@contextmanager
def serving(*options: str | Path) -> Iterator[tuple[subprocess.Popen[str], re.Match[str]]]:
    """A broker on a free port, and its ready line; killed if the test has not ended it."""
    command = [*COMMAND, "serve", *map(str, options)]
    if "--listen" not in options and "--config" not in options:
        command += ["--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.fullmatch(process.stdout.readline())
            assert ready is not None
            yield process, ready
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Exit code, the rest of stdout, stderr."""
    out, err = process.communicate(timeout=SECONDS_MAX)
    return process.returncode, out, err


# -- the ready line and the end ---------------------------------------------------------------------------------------


def test_one_line_that_a_script_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "my data"
    with serving("--data", folder, "--metrics", "127.0.0.1:0") as (process, ready):
        assert (ready["host"], ready["durability"], int(ready["process"])) == ("127.0.0.1", "fsync", process.pid)
        assert json.loads(ready["data"]) == str(folder)
        socket.create_connection(("127.0.0.1", int(ready["port"])), timeout=5).close()
        assert page(ready["metrics"], "/healthz")[0] == 200
        process.terminate()
        code, out, err = ended(process)
    assert (code, out) == (0, "")
    assert "stopped" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_what_is_in_flight_and_checkpoints(tmp_path: Path, number: int) -> None:
    slow = ("--set", "group.initial.rebalance.delay.ms=60000")
    with serving("--data", tmp_path / "data", *slow) as (process, ready):
        create_topic(f"127.0.0.1:{ready['port']}", "records")
        with RawClient(int(ready["port"])) as waiting, RawClient(int(ready["port"])) as joining:
            partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 1_000}
            waiting.post(
                "fetch", 4, replica_id=-1, max_wait=60_000, min_bytes=1, max_bytes=1_000,
                topics=[{"topic": "records", "partitions": [partition]}],
            )  # fmt: skip
            joining.post(
                "join_group", 0, group_id="group", session_timeout=60_000, protocol_type="consumer",
                protocols=[{"name": "range", "metadata": b""}],
            )  # fmt: skip
            assert are_read(waiting, joining)
            began = time.monotonic()
            process.send_signal(number)
            assert waiting.receive().responses[0].partitions[0].error_code == 0
            with pytest.raises(ConnectionError):
                joining.receive()
        code, _, err = ended(process)
    assert code == 0, err
    assert time.monotonic() - began < 8, "whoever waits for a group must not hold the stop up"
    assert list((tmp_path / "data").glob("checkpoint*"))


def are_read(*clients: RawClient) -> bool:
    """Whether the broker has read all that was sent, which the kernel tells (Linux)."""
    deadline = time.monotonic() + SECONDS_MAX
    while time.monotonic() < deadline:
        if not any(map(unread, clients)):
            time.sleep(0.1)
            return True
        time.sleep(0.02)
    return False


def unread(client: RawClient) -> int:
    """The bytes on the way to the broker, and in its kernel."""
    ends = [end[1] for end in (client._socket.getpeername(), client._socket.getsockname())]
    rows = (line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:])
    (waiting,) = (row[4] for row in rows if [int(end.rpartition(":")[2], 16) for end in row[1:3]] == ends)
    sent = client._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)[24:28]
    return int(waiting.partition(":")[2], 16) + int.from_bytes(sent, "little")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """The first one waits for a client that takes no replies."""
    with serving("--data", tmp_path / "data") as (process, ready):
        bootstrap = f"127.0.0.1:{ready['port']}"
        create_topic(bootstrap, "records")
        writer = producer(bootstrap)
        for _ in range(20):
            writer.produce("records", os.urandom(900_000), partition=0)
        assert writer.flush(SECONDS_MAX) == 0
        with RawClient(int(ready["port"])) as client:
            for _ in range(4):
                partition = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 2**25}
                client.post(
                    "fetch", 4, replica_id=-1, max_wait=0, min_bytes=0, max_bytes=2**25,
                    topics=[{"topic": "records", "partitions": [partition]}],
                )  # fmt: skip
            client._socket.recv(1)
            process.terminate()
            assert process.stderr is not None
            assert any("stopping" in line for line in iter(process.stderr.readline, ""))
            time.sleep(0.3)
            assert process.poll() is None, "it did not wait for its client"
            process.terminate()
            assert process.wait(SECONDS_MAX) == 128 + signal.SIGTERM
    with serving("--data", tmp_path / "data") as (process, ready):
        assert len(read_all(f"127.0.0.1:{ready['port']}", "records")) == 20


def test_data_outlives_a_stop(tmp_path: Path) -> None:
    """D2: what was acknowledged before SIGTERM is there after the next start, in a folder that is named otherwise too."""
    with serving("--data", tmp_path / "data") as (process, ready):
        bootstrap = f"127.0.0.1:{ready['port']}"
        create_topic(bootstrap, "records")
        writer = producer(bootstrap)
        writer.produce("records", b"kept", partition=0)
        assert writer.flush(SECONDS_MAX) == 0
        process.terminate()
        assert ended(process)[0] == 0
    (tmp_path / "data").rename(tmp_path / "moved")
    with serving("--data", tmp_path / "moved") as (_, ready):
        assert values_of(read_all(f"127.0.0.1:{ready['port']}", "records")) == [b"kept"]


def test_the_storage_fails_while_serving(tmp_path: Path) -> None:
    """Law 7: exit code 5 and a sentence; the next start has what was acknowledged."""
    with serving("--data", tmp_path / "data") as (process, ready):
        bootstrap = f"127.0.0.1:{ready['port']}"
        create_topic(bootstrap, "records")
        before = producer(bootstrap)
        before.produce("records", b"safe", partition=0)
        assert before.flush(SECONDS_MAX) == 0
        writer = producer(bootstrap, message_timeout_ms=2_000)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1, 1))
        writer.produce("records", b"too late", partition=0)
        writer.flush(SECONDS_MAX)
        code, _, err = ended(process)
    assert code == 5
    assert "Traceback" not in err
    assert re.search(r"^oncelog: the storage failed: .*File too large.* start again\.$", err, re.MULTILINE), err
    with serving("--data", tmp_path / "data") as (_, ready):
        assert values_of(read_all(f"127.0.0.1:{ready['port']}", "records")) == [b"safe"]


# -- mistakes: one sentence, an exit code, nothing touched ------------------------------------------------------------


def occupied(folder: Path) -> list[str]:
    (folder / "data").write_text("a file")
    return ["--data", str(folder / "data")]


def newer(folder: Path) -> list[str]:
    (folder / "data").mkdir()
    (folder / "data" / "format").write_text("oncelog 99\n")
    return ["--data", str(folder / "data")]


def foreign(folder: Path) -> list[str]:
    (folder / "data").mkdir()
    (folder / "data" / "format").write_text("something else\n")
    return ["--data", str(folder / "data")]


def of_somebody(folder: Path) -> list[str]:
    (folder / "data").mkdir()
    (folder / "data" / "letters.txt").write_text("private\n")
    return ["--data", str(folder / "data")]


def below_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("a file")
    return ["--data", str(folder / "file" / "data")]


def settings_file(text: str) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        (folder / "server.properties").write_text(text)
        return ["--config", str(folder / "server.properties"), "--data", str(folder / "data")]

    return make


MISTAKES: list[tuple[int, Callable[[Path], list[str]], str]] = [
    (2, lambda _: ["--set", "num.partition=3"], r"num\.partition'.*did you mean num\.partitions"),
    (2, lambda _: ["--set", "num.partitions=many"], r"num\.partitions.*many"),
    (2, lambda _: ["--set", "num.partitions"], r"--set key=value"),
    (2, settings_file("num.partition=3\n"), r"num\.partition'"),
    (2, settings_file("listeners=SSL://:9093\n"), r"only PLAINTEXT"),
    (2, lambda _: ["--config", "nowhere.properties"], r"nowhere\.properties.*No such file"),
    (2, lambda _: ["--listen", "localhost"], r"HOST:PORT"),
    (2, lambda _: ["--listen", "127.0.0.1:99999"], r"65535"),
    (2, lambda _: ["--listen", "127.0.0.1:9099", "--metrics", "127.0.0.1:9099"], r"another port"),
    (2, lambda _: ["--advertise", "0.0.0.0:9092"], r"advertise a name"),
    (2, lambda _: ["--durability", "memory", "--data", "somewhere"], r"memory keeps no files"),
    (2, lambda _: ["--durability", "sometimes"], r"fsync.*written.*memory"),
    (2, lambda _: ["--nonsense"], r"--nonsense.*oncelog serve --help"),
    (3, lambda folder: ["--listen", "no.such.host.invalid:9092", "--data", str(folder / "data")], r"no\.such\.host"),
    (4, occupied, r"is not a folder"),
    (4, newer, r"format 99.*newer release"),
    (4, foreign, r"is not oncelog's"),
    (4, of_somebody, r"letters\.txt.*empty"),
    (4, below_a_file, r"can't be used: Not a directory"),
]


@pytest.mark.parametrize(("code", "options", "said"), MISTAKES, ids=[said for _, _, said in MISTAKES])
def test_a_mistake_is_one_sentence(tmp_path: Path, code: int, options: Callable[[Path], list[str]], said: str) -> None:
    words = options(tmp_path)
    before = snapshot(tmp_path)
    if not {"--listen", "only PLAINTEXT"} & {*words, said}:
        words += ["--listen", "127.0.0.1:0"]
    ran = run("serve", *words, folder=tmp_path)
    assert (ran.returncode, ran.stdout) == (code, ""), ran.stderr
    assert re.fullmatch(rf"oncelog: .*{said}.*[.?]\n", ran.stderr), ran.stderr
    assert snapshot(tmp_path) == before


def test_the_port_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("--listen", "--metrics"):
            options = {"--listen": "127.0.0.1:0", option: f"127.0.0.1:{port}"}
            words = [word for pair in options.items() for word in pair]
            ran = run("serve", "--data", tmp_path / "data", *words)
            assert (ran.returncode, ran.stdout) == (3, "")
            assert re.fullmatch(
                rf"oncelog: can't listen on 127\.0\.0\.1:{port}: .*in use.* or choose another one .*\n", ran.stderr
            )
    assert list(tmp_path.iterdir()) == []


def test_the_folder_is_in_use(tmp_path: Path) -> None:
    """The second one changes nothing, and the first one goes on."""
    with serving("--data", tmp_path / "data") as (process, ready):
        bootstrap = f"127.0.0.1:{ready['port']}"
        create_topic(bootstrap, "records")
        before = snapshot(tmp_path)
        ran = run("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
        assert (ran.returncode, ran.stdout) == (4, "")
        assert re.fullmatch(rf"oncelog: .*in use by process {process.pid}: .*\n", ran.stderr)
        assert snapshot(tmp_path) == before
        assert read_all(bootstrap, "records") == []


def test_damaged_data_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Entries that were safe are damaged: it refuses to start, names file and place, and changes nothing."""
    with serving("--data", tmp_path / "data") as (process, ready):
        bootstrap = f"127.0.0.1:{ready['port']}"
        create_topic(bootstrap, "records")
        writer = producer(bootstrap)
        for number in range(3):
            writer.produce("records", b"%d" % number * 100, partition=0)
            assert writer.flush(SECONDS_MAX) == 0
        process.kill()
        process.wait()
    (journal,) = (tmp_path / "data" / "journal").glob("*.journal")
    content = bytearray(journal.read_bytes())
    content[content.index(b"0" * 100)] ^= 1
    journal.write_bytes(content)
    before = snapshot(tmp_path)
    ran = run("serve", "--data", tmp_path / "data", "--listen", "127.0.0.1:0")
    assert (ran.returncode, ran.stdout) == (4, "")
    assert re.fullmatch(rf"oncelog: .*{journal.name}.*offset \d+.*\n", ran.stderr), ran.stderr
    after = snapshot(tmp_path)
    assert {name: data for name, data in after.items() if not name.endswith("lock")} == {
        name: data for name, data in before.items() if not name.endswith("lock")
    }


# -- options ----------------------------------------------------------------------------------------------------------


def test_the_command_line_wins_over_the_file(tmp_path: Path) -> None:
    config = tmp_path / "server.properties"
    config.write_text(
        f"# as Kafka's\nlisteners=PLAINTEXT://127.0.0.1:0\nlog.dirs={tmp_path}/data\nnum.partitions=3\n"
        "log.retention.hours = 5\n"
    )
    with serving("--config", config, "--set", "num.partitions=7") as (_, ready):
        assert ready["data"] == f"{tmp_path}/data"
        client = admin(f"127.0.0.1:{ready['port']}")
        resource_named = ConfigResource("broker", "1")
        found = client.describe_configs([resource_named])[resource_named].result(SECONDS_MAX)
    assert (found["num.partitions"].value, found["log.retention.hours"].value) == ("7", "5")


def test_clients_are_told_what_is_advertised(tmp_path: Path) -> None:
    with serving("--data", tmp_path / "data", "--advertise", "localhost") as (_, ready):
        told = admin(f"127.0.0.1:{ready['port']}").list_topics(timeout=SECONDS_MAX).brokers[1]
        assert (told.host, told.port) == ("localhost", int(ready["port"]))


def test_a_log_in_json(tmp_path: Path) -> None:
    with serving("--data", tmp_path / "data", "--log-format", "json", "--listen", "0.0.0.0:0") as (process, ready):
        with socket.create_connection(("127.0.0.1", int(ready["port"]))) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            host, port = client.getsockname()
            while client.recv(1_000):
                pass
        process.terminate()
        code, _, err = ended(process)
    assert code == 0
    lines = [json.loads(line) for line in err.splitlines()]
    assert all(set(line) >= {"time", "level", "event"} for line in lines)
    (closed,) = (line for line in lines if line["event"] == "connection closed")
    assert closed["peer"] == f"{host}:{port}"
    assert any(line["level"] == "warning" and "no TLS" in line["event"] for line in lines)


def test_as_many_files_as_may_be_open(tmp_path: Path) -> None:
    """A connection is an open file: the usual soft limit is no limit here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, hard), hard))
    try:
        with serving("--durability", "memory") as (process, _):
            assert resource.prlimit(process.pid, resource.RLIMIT_NOFILE)[0] == hard
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_connections_leave_the_storage_its_files(tmp_path: Path) -> None:
    """Law 8: who connects and does nothing must not keep the broker from opening a file, without which it would stop."""
    command = shlex.join([*COMMAND, "serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"])
    limited = ["sh", "-c", f"ulimit -n 128; exec {command}"]
    with (
        subprocess.Popen(limited, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
        ExitStack() as undo,
    ):
        undo.callback(process.kill)
        assert process.stdout is not None
        ready = READY.fullmatch(process.stdout.readline())
        assert ready is not None
        idle = [socket.create_connection(("127.0.0.1", int(ready["port"])), SECONDS_MAX) for _ in range(200)]
        for one in idle:
            undo.callback(one.close)
        with suppress(ConnectionError):
            assert idle[-1].recv(1) == b""
        assert len(list(Path(f"/proc/{process.pid}/fd").iterdir())) < 128 - 32
        for one in idle[:20]:
            one.close()
        create_topic(f"127.0.0.1:{ready['port']}", "records")
        process.terminate()
        code, _, err = ended(process)
        assert code == 0
        assert "more than 64 connections: see max.connections, and ulimit -n" in err


def test_nothing_is_kept_in_memory_only(tmp_path: Path) -> None:
    with serving("--durability", "memory") as (process, ready):
        assert (ready["data"], ready["durability"]) == ("-", "memory")
        process.terminate()
        assert ended(process)[0] == 0


def test_python_m_oncelog_is_the_same_command() -> None:
    assert run("--version").stdout == run("--version").stdout.strip() + "\n"
    assert "oncelog serve" in run("--help").stdout


# -- pages ------------------------------------------------------------------------------------------------------------


def scraped(address: str) -> dict[str, float]:
    """Every sample by its name and the values of its labels, in the order of the labels' names."""
    status, text = page(address, "/metrics")
    assert status == 200
    return {
        " ".join([sample.name, *map(str, sample.labels.values())]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scraped_until(address: str, name: str, value: float) -> dict[str, float]:
    """The samples when ``name`` has become at least ``value``."""
    deadline = time.monotonic() + SECONDS_MAX
    while (seen := scraped(address)).get(name, 0) < value:
        assert time.monotonic() < deadline, f"{name} is {seen.get(name)}"
        time.sleep(0.02)
    return seen


def test_metrics_follow_a_transaction(tmp_path: Path) -> None:
    """D5, R1: an open transaction shows with its age and what it holds back; so do syncs, fences and timeouts."""
    with serving("--data", tmp_path / "data", "--metrics", "127.0.0.1:0") as (process, ready):
        bootstrap, pages = f"127.0.0.1:{ready['port']}", ready["metrics"]
        create_topic(bootstrap, "records", 2)
        first = transactional_producer(bootstrap, "id", transaction_timeout_ms=60_000)
        first.begin_transaction()
        for _ in range(5):
            first.produce("records", b"x" * 1_000, partition=1)
        assert first.flush(SECONDS_MAX) == 0
        seen = scraped_until(pages, "oncelog_last_stable_offset_lag 1 records", 5)
        assert (seen["oncelog_transactions_open"], seen["oncelog_producers"]) == (1, 1)
        assert 0 < seen["oncelog_transaction_oldest_seconds"] < 60
        assert "oncelog_last_stable_offset_lag 0 records" not in seen
        assert seen["oncelog_request_bytes_total Produce"] > 5_000
        assert seen["oncelog_request_seconds_count Produce"] == seen["oncelog_requests_total Produce 10"] > 0
        assert seen["oncelog_sync_seconds_count"] == seen["oncelog_sync_entries_count"] > 0
        assert seen["oncelog_sync_seconds_sum"] > 0
        assert seen["oncelog_sync_entries_sum"] >= seen["oncelog_sync_entries_count"]
        assert seen["oncelog_connections"] > 0
        assert seen["oncelog_partitions"] == 2

        second = transactional_producer(bootstrap, "id", transaction_timeout_ms=1_000)
        second.begin_transaction()
        second.produce("records", b"y", partition=0)
        assert second.flush(SECONDS_MAX) == 0
        seen = scraped_until(pages, "oncelog_transaction_timeouts_total", 1)
        assert (seen["oncelog_fences_total replaced"], seen["oncelog_fences_total timed_out"]) == (1, 1)
        assert seen["oncelog_transactions_open"] == 0
        fences = json.loads(page(pages, "/fences")[1])
        assert [fence["reason"] for fence in fences] == ["replaced", "timed_out"]
        addresses = re.fullmatch(r"replaced by (127\.0\.0\.1:\d+), was (127\.0\.0\.1:\d+)", fences[0]["why"])
        assert addresses is not None
        assert addresses[2] == fences[0]["client_address"] != addresses[1]
        (shown,) = json.loads(page(pages, "/transactions")[1])
        assert (shown["id"], shown["state"], shown["open_ms"]) == ("id", "CompleteAbort", -1)
        assert shown["fence_reason"] == "timed out after 1000 ms"
        process.terminate()
        code, _, err = ended(process)
    assert code == 0
    assert re.search(r"producer fenced reason=replaced transactional_id=id .*why=.*replaced by", err)
    assert re.search(r"producer fenced reason=timed_out transactional_id=id .*timeout of 1000 ms", err)


def test_pages_that_are_not_there(tmp_path: Path) -> None:
    with serving("--durability", "memory", "--metrics", "127.0.0.1:0") as (_, ready):
        assert page(ready["metrics"], "/nowhere") == (
            404,
            "no such page; there are: /fences, /healthz, /metrics, /transactions\n",
        )
        with socket.create_connection(("127.0.0.1", int(ready["metrics"].rpartition(":")[2]))) as client:
            client.sendall(b"POST /metrics HTTP/1.1\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.1 405 ")
        status, text = page(ready["metrics"], "/healthz")
        assert status == 200
        assert json.loads(text)["is_ready"] is True


def test_health_while_it_stops(own_broker: BrokerProcess, tmp_path: Path) -> None:
    """Whoever asks while it stops gets no 200."""
    del own_broker
    with serving("--durability", "memory", "--metrics", "127.0.0.1:0") as (process, ready):
        process.terminate()
        assert ended(process)[0] == 0
        with pytest.raises(OSError, match=r"refused|reset"):
            page(ready["metrics"], "/healthz")


# -- cost -------------------------------------------------------------------------------------------------------------


def test_a_quick_start_and_a_small_idle_broker(tmp_path: Path) -> None:
    """Bounds that a busy machine keeps too; bench/ has the figures."""
    with serving("--data", tmp_path / "data") as (process, ready):
        assert cpu_ticks(process.pid) / os.sysconf("SC_CLK_TCK") < 1.0, "CPU seconds of a start"
        assert int(ready["ms"]) < 10_000
        deadline = time.monotonic() + SECONDS_MAX
        while ticks_a_second(process.pid) > 0.02 * os.sysconf("SC_CLK_TCK") + 1:
            # What first requests need is made after the start.
            assert time.monotonic() < deadline, "it does not come to rest"
        assert resident_mib(process.pid) < 80


def test_a_start_loads_nothing_that_only_tests_need() -> None:
    """kio would load Hypothesis where it is installed: as much time as all the rest."""
    environment = {**os.environ, "PYTHONPROFILEIMPORTTIME": "1"}
    ran = subprocess.run(
        [*COMMAND, "serve", "--set", "nonsense=1"],
        env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines()}
    assert {"kio", "uvloop"} <= loaded
    assert not {"hypothesis", "pytest", "prometheus_client", "confluent_kafka", "rich"} & loaded


def ticks_a_second(process: int) -> int:
    """What it costs to have it."""
    before = cpu_ticks(process)
    time.sleep(1.0)
    return cpu_ticks(process) - before


def cpu_ticks(process: int) -> int:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def resident_mib(process: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024
