"""The commands and their options; what each says under --help is written here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal

from cyclopts import App, CycloptsError, Parameter

import oncelog
from oncelog.cli.failures import CommandError, ExitCode
from oncelog.cli.options import BOOTSTRAP, AsJson, Bootstrap
from oncelog.model.errors import SettingError

_HELP: Final = """Kafka's protocol with complete exactly-once semantics, in one process and one folder.

Try:

    oncelog serve                    a broker on 127.0.0.1:9092, its data in ./oncelog-data
    oncelog topics create orders     in another terminal; then use any Kafka client
    oncelog log orders               what is in a topic: committed, aborted, still open
    oncelog verify                   a minute of clients under faults: did exactly-once hold?
    oncelog new billing              a small service to begin with

Each command explains itself: `oncelog serve --help`.
"""


def _version() -> str:
    return oncelog.__version__ + (" (compiled core)" if oncelog.is_compiled() else "")


app = App(name="oncelog", help=_HELP, version=_version, version_format="plaintext")
#: Imported by all command lines but those of ``serve``: the start of a broker does not wait for them.
_OTHERS: Final = {
    "topics": "oncelog.cli.topics:app",
    "groups": "oncelog.cli.groups:app",
    "transactions": "oncelog.cli.transactions:app",
    "app": "oncelog.cli.applications:app",
    "verify": "oncelog.cli.verify:verify",
    "new": "oncelog.cli.new:new",
}
for command, where in _OTHERS.items():
    app.command(where, name=command)


def run(arguments: Sequence[str] | None = None) -> int:
    """The exit code of a command line."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] != ["serve"]:
        for other in _OTHERS:
            app[other]  # What the help says of it is written there.
    try:
        result = app(words, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        print(f"oncelog: {_sentence(error)} See `{_asked(words)} --help`.", file=sys.stderr)
        return ExitCode.USAGE
    except SettingError as error:
        print(f"oncelog: {error}", file=sys.stderr)
        return ExitCode.USAGE
    except CommandError as error:
        print(f"oncelog: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    return result if isinstance(result, int) else 0


def _sentence(error: CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?", "!")) else text + "."


def _asked(words: Sequence[str]) -> str:
    """The command that was meant, as far as it exists."""
    names, commands, _ = app.parse_commands(list(words))
    return " ".join(("oncelog", *names)) if commands else "oncelog"


@app.command
def serve(
    *,
    data: Path | None = None,
    listen: str | None = None,
    advertise: str | None = None,
    durability: Literal["fsync", "written", "memory"] = "fsync",
    set_: Annotated[list[str] | None, Parameter(name="--set", negative=())] = None,
    config: Path | None = None,
    metrics: str | None = None,
    log_format: Literal["text", "json"] = "text",
    log_level: Literal["debug", "info", "warning", "error"] = "info",
) -> int:
    """Run a broker until SIGTERM or SIGINT.

    When it is ready it prints one line to stdout; the log goes to stderr:

        oncelog ready host=127.0.0.1 port=9092 data=oncelog-data durability=fsync pid=4711 ms=180

    Try:

        oncelog serve
        oncelog serve --data /var/lib/oncelog --metrics 127.0.0.1:9464
        oncelog serve --listen 127.0.0.1:0 --durability memory
        oncelog serve --listen 0.0.0.0:9092 --advertise broker.example.org
        oncelog serve --set num.partitions=6 --set auto.create.topics.enable=false

    Exit codes: 0 stopped by a signal; 1 a bug of ours; 2 an option or setting is wrong; 3 the address can't be listened
    on; 4 the data folder can't be opened (locked, damaged, of a newer release); 5 the storage failed while serving. After
    1 and 5 everything that was acknowledged is safe, see the log; docs/operations.md says what to do. A second signal ends
    at once with 128 + the signal's number.

    Parameters
    ----------
    data
        Folder for all data; made if it is not there. Default: oncelog-data here.
    listen
        HOST:PORT to listen on; port 0 takes any that is free, the ready line names it. Default: 127.0.0.1:9092.
        There is no TLS and no login yet: think before you leave the loopback address.
    advertise
        HOST or HOST:PORT that clients are told to connect to. Default: what is listened on.
    durability
        What an acknowledgement promises. fsync: on disk, survives the loss of power. written: handed to the operating
        system, survives the death of the broker. memory: nothing is kept.
    set_
        A setting under Kafka's name, such as num.partitions=6; may be repeated. All of them: docs/settings.md.
    config
        A file of settings in the form of Kafka's server.properties. Options and --set win over it.
    metrics
        HOST:PORT for /metrics (Prometheus), /healthz, /transactions and /fences. Default: none.
    log_format
        One line an event, as text or JSON.
    log_level
        The least important events that are logged.
    """
    # kio loads Hypothesis where it is installed, for tests of its own kind; here that would double the time of a start.
    sys.modules.setdefault("hypothesis", None)  # type: ignore[arg-type]
    from oncelog.cli.serve import serve_forever

    return serve_forever(
        data=data,
        listen=listen,
        advertise=advertise,
        durability=durability,
        assignments=set_ or [],
        config=config,
        metrics=metrics,
        log_format=log_format,
        log_level=log_level,
    )


@app.command(name="log")
def log_(
    topic: str,
    /,
    *,
    partition: int = 0,
    from_: Annotated[int | None, Parameter(name="--from")] = None,
    count: int = 1_000,
    bootstrap: Bootstrap = BOOTSTRAP,
    json: AsJson = False,
) -> None:
    """Show the batches of a partition as they lie there: offsets, producers, sequences, transactions and their ends.

    FATE says what became of a transactional batch: committed, aborted, or open still; of a control batch what it says. An
    open one hides everything behind it from read_committed readers; `oncelog transactions list` says whose it is.

    Try: oncelog log orders --partition 2 --from 4711 --count 50

    Exit codes: 0 done; 2 an option is wrong; 6 no broker answers; 7 the broker refuses.

    Parameters
    ----------
    topic
        The topic's name.
    partition
        The partition's number.
    from_
        The first offset. Default: the first that is kept.
    count
        So many batches at most; what comes behind is only searched for the ends of their transactions.
    """
    from oncelog.cli.dump import dump

    dump(topic, partition, offset_from=from_, count=count, bootstrap=bootstrap, is_json=json)
