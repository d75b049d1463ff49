"""Who is at the other end of a connection: nobody else may be killed in its place."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oncelog.testing.processes import NoSuchProcess, _opened, process_of

CLIENT = """
import socket, sys
with socket.socket() as client:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.bind(("127.0.0.1", int(sys.argv[1])))
    client.connect(("127.0.0.1", int(sys.argv[2])))
    print(client.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@contextmanager
def client(port: int, server: int) -> Iterator[tuple[int, int]]:
    """A process with a connection to ``server``: its id, and its end's port; 0 takes any."""
    command = [sys.executable, "-c", CLIENT, str(port), str(server)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


def test_two_clients_of_two_servers_may_have_the_same_port() -> None:
    """The system gives a port twice where the servers differ."""
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        servers = [each.getsockname()[1] for each in (one, other)]
        with client(0, servers[0]) as (first, port), client(port, servers[1]) as (second, _):
            assert [process_of(f"127.0.0.1:{port}", server) for server in servers] == [first, second]
            with pytest.raises(NoSuchProcess):
                process_of(f"127.0.0.1:{port}", 1)


def test_what_is_closed_meanwhile_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "fd").mkdir()
    for name in ("0", "2"):
        (tmp_path / "fd" / name).touch()  # no link: it can't be read, as one that is closed
    (tmp_path / "fd" / "1").symlink_to("socket:[7]")
    assert _opened(tmp_path) == {"socket:[7]"}
    assert _opened(tmp_path / "nobody") == set()
