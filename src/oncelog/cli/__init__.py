"""The command line: ``oncelog serve`` and the commands that look at a running broker.

What lives here: reading arguments, printing, exit codes. Nothing of the broker's work. Commands import what they need when
they run, so that ``--help`` and the start of a broker stay quick.
"""

from __future__ import annotations

from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends with SystemExit."""
    from oncelog.cli.app import run

    raise SystemExit(run(arguments))
