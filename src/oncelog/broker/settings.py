"""How a broker is to run: where it listens, where it keeps its data, what its acknowledgements promise, Kafka's settings.

What comes from the command line, from a file in the form of Kafka's server.properties, or from a program meets here and is
checked before anything is opened. The command line wins over the file. Kafka's own settings are checked by engine/configs.py.

In a file, ``listeners``, ``advertised.listeners`` and ``log.dirs`` mean what they mean in Kafka.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final, NamedTuple

from oncelog.engine import configs
from oncelog.model.errors import SettingError

DATA_DEFAULT: Final = "oncelog-data"
LISTEN_DEFAULT: Final = "127.0.0.1:9092"

_PORT_MAX: Final = 65_535
_LISTENER: Final = re.compile(r"(?P<protocol>[A-Za-z0-9_]+)://(?P<address>.*)")
_WILDCARDS: Final = frozenset(("", "0.0.0.0", "::"))
_LOOPBACK: Final = re.compile(r"localhost|::1|127(\.\d{1,3}){3}")


class AddressError(Exception):
    """An address that can't be listened on; the sentence says why and what to do."""


class Durability(StrEnum):
    """What an acknowledgement promises (rule D2)."""

    FSYNC = "fsync"
    WRITTEN = "written"
    MEMORY = "memory"


class Address(NamedTuple):
    """Where to listen, or what to tell clients. Port 0: any that is free."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it means all the machine's addresses, which can't be told to clients."""
        return self.host in _WILDCARDS

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return _LOOPBACK.fullmatch(self.host) is not None


class Settings(NamedTuple):
    """All of it. ``advertise`` None: what is listened on; its port 0: the port listened on. ``data`` None: in memory."""

    listen: Address = Address("127.0.0.1", 0)
    advertise: Address | None = None
    data: Path | None = None
    durability: Durability = Durability.MEMORY
    metrics: Address | None = None
    configs: Mapping[str, str] = {}


def parse_address(text: str, *, port_default: int | None = None) -> Address:
    """HOST:PORT, [IPv6]:PORT, or HOST alone if there is a default port. Raises SettingError."""
    match = re.fullmatch(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::(?P<port>\d{1,5}))?", text.strip())
    if match is None or (match["port"] is None and port_default is None):
        raise SettingError(f"{text!r} is not an address; write HOST:PORT, such as 127.0.0.1:9092 or [::1]:9092.")
    port = int(match["port"]) if match["port"] is not None else int(port_default or 0)
    if port > _PORT_MAX:
        raise SettingError(f"{text!r}: a port is a number up to {_PORT_MAX}; 0 takes any that is free.")
    return Address(match["v6"] if match["v6"] is not None else match["host"], port)


def parse_durability(text: str) -> Durability:
    """One of the three words. Raises SettingError."""
    try:
        return Durability(text)
    except ValueError:
        raise SettingError(f"durability {text!r} does not exist; choose fsync, written or memory.") from None


def parse_assignments(assignments: Iterable[str]) -> dict[str, str]:
    """``key=value`` each. Raises SettingError."""
    found: dict[str, str] = {}
    for text in assignments:
        name, separator, value = text.partition("=")
        if not separator or not name.strip():
            raise SettingError(f"--set {text!r} is not an assignment; write --set key=value.")
        found[name.strip()] = value.strip()
    return found


def parse_properties(text: str) -> dict[str, str]:
    """A file in the form of Java's properties: ``key=value``, ``#`` comments, a backslash at a line's end goes on."""
    found: dict[str, str] = {}
    for line in re.sub(r"(?<!\\)\\\r?\n[ \t\f]*", "", text).splitlines():
        stripped = line.strip()
        if not stripped or stripped[0] in "#!":
            continue
        match = re.match(r"((?:\\.|[^=:\s\\])+)\s*[=:\s]\s*(.*)", stripped)
        name, value = (match[1], match[2]) if match else (stripped, "")
        found[_unescaped(name)] = _unescaped(value)
    return found


_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "f": "\f"}


def _unescaped(text: str) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1].startswith("u") and len(match[1]) == 5:
            return chr(int(match[1][1:], 16))
        return _ESCAPES.get(match[1], match[1])

    return re.sub(r"\\(u[0-9A-Fa-f]{4}|.)", one, text)


def settings_of(
    *,
    listen: str | None = None,
    advertise: str | None = None,
    data: str | Path | None = None,
    durability: str | None = None,
    metrics: str | None = None,
    configs_set: Mapping[str, str] | None = None,
    configs_file: Mapping[str, str] | None = None,
) -> Settings:
    """Put everything together and check it. Raises SettingError; touches nothing."""
    named = dict(configs_file or {}) | dict(configs_set or {})
    listeners, advertised = named.pop("listeners", None), named.pop("advertised.listeners", None)
    folders = [named.pop(name) for name in ("log.dirs", "log.dir") if name in named]
    if listen is None and listeners is not None:
        listen = _listener(listeners, "listeners")
    if advertise is None and advertised is not None:
        advertise = _listener(advertised, "advertised.listeners")
    if data is None and folders:
        data = _folder(folders[0])
    configs.check_static(named)
    if listen is not None and listen == metrics and not listen.endswith(":0"):
        raise SettingError(f"listen and metrics are both {listen}: give the metrics another port.")
    level = parse_durability(durability or "fsync")
    if level is Durability.MEMORY and data is not None:
        raise SettingError("durability memory keeps no files: leave the data folder out, or choose fsync or written.")
    return Settings(
        listen=parse_address(listen if listen is not None else LISTEN_DEFAULT),
        advertise=None if advertise is None else _told(advertise),
        data=None if level is Durability.MEMORY else Path(data if data is not None else DATA_DEFAULT),
        durability=level,
        metrics=None if metrics is None else parse_address(metrics),
        configs=named,
    )


def advertised(settings: Settings, bound_port: int, machine_name: str) -> Address:
    """What clients are told, once the port is known; ``machine_name`` if all addresses are listened on."""
    if settings.advertise is not None:
        return settings.advertise._replace(port=settings.advertise.port or bound_port)
    host = machine_name if settings.listen.is_wildcard else settings.listen.host
    return Address(host, bound_port)


def _told(text: str) -> Address:
    address = parse_address(text, port_default=0)
    if address.is_wildcard:
        raise SettingError(f"clients can't connect to {text!r}: advertise a name or an address of this machine.")
    return address


def _listener(text: str, name: str) -> str:
    """The address of Kafka's ``PROTOCOL://HOST:PORT``."""
    match = _LISTENER.fullmatch(text.strip())
    if match is None or "," in text:
        raise SettingError(f"{name}={text}: give one listener, such as PLAINTEXT://127.0.0.1:9092.")
    if match["protocol"].upper() != "PLAINTEXT":
        raise SettingError(f"{name}={text}: only PLAINTEXT is served; there is no TLS and no SASL yet.")
    return match["address"]


def _folder(text: str) -> str:
    if "," in text:
        raise SettingError(f"log.dirs={text}: all data is kept in one folder; give one.")
    return text
