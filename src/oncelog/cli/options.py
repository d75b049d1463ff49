"""The options that several commands share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from cyclopts import Parameter

Bootstrap: TypeAlias = Annotated[
    str,
    Parameter(help="HOST:PORT of any broker of the cluster, several with commas. There is no TLS and no login yet."),
]
AsJson: TypeAlias = Annotated[bool, Parameter(name="--json", negative=(), help="A line of JSON for each row.")]
Pages: TypeAlias = Annotated[
    str | None, Parameter(help="HOST:PORT that `oncelog serve` was given as --metrics: why producers were fenced.")
]

BOOTSTRAP = "127.0.0.1:9092"
#: Of all commands that look at a running cluster.
EXIT_CODES = "Exit codes: 0 done; 2 an option is wrong; 6 no broker answers; 7 the broker refuses."
