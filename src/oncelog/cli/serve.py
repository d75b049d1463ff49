"""``oncelog serve``: options become settings, a broken start becomes one sentence."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from oncelog.broker.log_lines import LogLines
from oncelog.broker.serving import Ended, serve
from oncelog.broker.settings import AddressError, parse_assignments, parse_properties, settings_of
from oncelog.cli.failures import CommandError, ExitCode
from oncelog.model.errors import LostRecords, SettingError, StorageError


def serve_forever(
    *,
    data: Path | None,
    listen: str | None,
    advertise: str | None,
    durability: str,
    assignments: Sequence[str],
    config: Path | None,
    metrics: str | None,
    log_format: str,
    log_level: str,
) -> int:
    """Run until a signal; the exit code. Raises CommandError."""
    log = LogLines(log_level, log_format)
    try:
        settings = settings_of(
            listen=listen,
            advertise=advertise,
            data=data,
            durability=durability,
            metrics=metrics,
            configs_set=parse_assignments(assignments),
            configs_file=_read(config),
        )
    except SettingError as error:
        raise CommandError(ExitCode.USAGE, str(error)) from None
    try:
        serve(settings, log, began_ns=_began_ns())
    except AddressError as error:
        raise CommandError(ExitCode.ADDRESS, str(error)) from None
    except StorageError as error:
        raise CommandError(ExitCode.DATA, str(error)) from None
    except Ended as ended:
        raise _told(ended.cause) from None
    return ExitCode.OK


def _told(cause: BaseException) -> CommandError:
    if isinstance(cause, LostRecords):
        return CommandError(
            ExitCode.DATA,
            f"the storage failed: {cause} The log names topic, partition and offset. "
            "Repair the file before the next start, which would end in the same way.",
        )
    if isinstance(cause, StorageError):
        return CommandError(
            ExitCode.STORAGE_FAILED,
            f"the storage failed: {cause} Everything that was acknowledged is safe. "
            "Make room or repair the disk, then start again.",
        )
    shown = "".join(traceback.format_exception(cause))
    return CommandError(
        ExitCode.BUG,
        f"stopped by a bug of its own rather than go on in doubt:\n{shown}"
        "Everything that was acknowledged is safe; start again, and please report the lines above.",
    )


def _read(config: Path | None) -> dict[str, str]:
    if config is None:
        return {}
    try:
        return parse_properties(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise SettingError(f"can't read the settings file {config}: {why}. Check the path after --config.") from None


def _began_ns() -> int:
    """When this process was started, on the monotonic clock; as good as the system's ticks (10 ms)."""
    now_ns = time.monotonic_ns()
    try:
        fields = Path("/proc/self/stat").read_bytes().rsplit(b")", 1)[1].split()
        uptime_seconds = float(Path("/proc/uptime").read_bytes().split()[0])
    except OSError:
        return now_ns
    started_seconds = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return now_ns - max(0, int((uptime_seconds - started_seconds) * 1e9))
