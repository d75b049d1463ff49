"""The command line: ``oncelog serve`` and the commands that look at a running broker.

What lives here: reading arguments, printing, exit codes. Nothing of the broker's work. Commands import what they need when
they run, so that ``--help`` and the start of a broker stay quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

#: As a shell says it of a process that SIGINT ended: 128 + 2.
_INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends with SystemExit."""
    try:
        from oncelog.cli.app import run

        code = run(arguments)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    raise SystemExit(code)
