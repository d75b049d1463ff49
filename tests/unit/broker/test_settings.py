"""Options, files and Kafka's listeners become settings, or one sentence that says what would be right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oncelog.broker.settings import (
    Address,
    Durability,
    Settings,
    advertised,
    parse_address,
    parse_assignments,
    parse_properties,
    settings_of,
)
from oncelog.model.errors import SettingError


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9092", ("127.0.0.1", 9092)),
        (" localhost:0 ", ("localhost", 0)),
        ("[::1]:9092", ("::1", 9092)),
        (":9092", ("", 9092)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "localhost", "::1:9092", "host:port", "host:-1", "host:65536", "a:1:2", "[::1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(SettingError, match=r"HOST:PORT|65535"):
        parse_address(text)


def test_addresses_are_written_as_they_are_read() -> None:
    for text in ("127.0.0.1:9092", "[::1]:9092"):
        assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("", False),
        ("10.0.0.1", False),
    ],
)
def test_only_this_machine_or_not(host: str, is_loopback: bool) -> None:
    assert Address(host, 1).is_loopback is is_loopback


def test_a_file_in_the_form_of_java_properties() -> None:
    text = "# a comment\n! another\n\na=1\nb : two words \nc three\nd=x\\\n   y\ne\\:f=\\u0041\\t=\r\ng\nh==\n"
    assert parse_properties(text) == {
        "a": "1", "b": "two words", "c": "three", "d": "xy", "e:f": "A\t=", "g": "", "h": "=",
    }  # fmt: skip


def test_assignments() -> None:
    assert parse_assignments(["a=1", "b = x=y ", "a=2"]) == {"a": "2", "b": "x=y"}
    for text in ("a", "=1"):
        with pytest.raises(SettingError, match=r"--set key=value"):
            parse_assignments([text])


def test_what_wins_over_what() -> None:
    file = {"listeners": "PLAINTEXT://:1", "log.dirs": "there", "num.partitions": "2", "num.io.threads": "3"}
    found = settings_of(configs_file=file)
    assert (found.listen, found.data, found.configs["num.partitions"]) == (("", 1), Path("there"), "2")
    found = settings_of(configs_file=file, configs_set={"num.partitions": "5"}, listen="[::1]:7", data="here")
    assert (found.listen, found.data, found.configs["num.partitions"]) == (("::1", 7), Path("here"), "5")
    assert settings_of() == Settings(Address("127.0.0.1", 9092), None, Path("oncelog-data"), Durability.FSYNC, None, {})


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"configs_set": {"nonsense": "1"}}, r"nonsense"),
        ({"configs_file": {"listeners": "SASL_SSL://:1"}}, r"only PLAINTEXT"),
        ({"configs_file": {"listeners": "PLAINTEXT://:1,PLAINTEXT://:2"}}, r"one listener"),
        ({"configs_file": {"log.dirs": "a,b"}}, r"one folder"),
        ({"advertise": "[::]:1"}, r"advertise a name"),
        ({"durability": "never"}, r"fsync, written or memory"),
        ({"durability": "memory", "data": "x"}, r"leave the data folder out"),
        ({"listen": "a:1", "metrics": "a:1"}, r"another port"),
    ],
)
def test_mistakes(given: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingError, match=why):
        settings_of(**given)


@pytest.mark.parametrize(
    ("listen", "advertise", "told"),
    [
        ("127.0.0.1:0", None, "127.0.0.1:7"),
        ("0.0.0.0:0", None, "machine:7"),
        ("0.0.0.0:0", "name", "name:7"),
        ("0.0.0.0:0", "name:9", "name:9"),
    ],
)
def test_what_clients_are_told(listen: str, advertise: str | None, told: str) -> None:
    settings = settings_of(listen=listen, advertise=advertise)
    assert str(advertised(settings, bound_port=7, machine_name="machine")) == told
