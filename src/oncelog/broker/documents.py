"""Writes docs/settings.md, docs/apis.md and docs/metrics.md from the tables: ``python -m oncelog.broker.documents [FOLDER]``.

The pages say what the code does because they are made of it; a test holds the files in the tree against ``pages()``.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from oncelog.broker.apis import HANDLERS, Handler
from oncelog.broker.apis.cluster import FEATURES
from oncelog.broker.exposition import METRICS
from oncelog.broker.meters import SENTENCES
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS, Setting
from oncelog.engine.configs import BROKER_IN_FORCE, TOPIC_IN_FORCE

_MADE = "<!-- Made by `make docs` from the code; changes belong there. -->\n"

_SETTINGS = """# Settings

Kafka's names, types and defaults, where Kafka has the setting. An unknown name or an impossible value is refused with a
sentence that says what would be right.

- **Topic settings** are given when a topic is made, or changed later (`kafka-configs.sh`, any admin client).
- **Broker settings** are given at the start: `oncelog serve --set num.partitions=6`, or a file: `--config FILE`. Those marked
  *dynamic* can be changed while the broker runs.

A topic's value wins over the broker's dynamic one, which wins over the one given at the start, which wins over the default.
Where several broker settings stand for one of a topic (`log.retention.ms`, `.minutes`, `.hours`) the first one counts.
With one node, a value for all brokers and one for this broker are the same.

Settings under *Accepted and shown* change nothing: they are there so that files and tools made for Kafka work unchanged.
"""

_APIS = """# APIs

What the broker answers to ApiVersions, and how each API behaves. An API that is not whole is not here. A request of an API or
version that is not served closes the connection, as in Kafka; ApiVersions itself is answered in version 0 with error 35.
"""

_METRICS = """# Metrics

`oncelog serve --metrics 127.0.0.1:9464` serves these pages to whoever reaches that address; only GET, no login:

- `/metrics`: everything below, as Prometheus reads it. Counters begin at 0 with each start of the broker.
- `/healthz`: 200 and a line of JSON while the broker serves, 503 from the moment at which it begins to stop or has failed.
- `/transactions`: every transactional id with its open transaction, as JSON; open ones first, the oldest first.
- `/fences`: the newest 1,000 producers that were fenced since the start: when, why, and by whom (rule D5).

Worth an alarm: `oncelog_transaction_oldest_seconds` above what your transactions take (read_committed readers wait for it),
`oncelog_fences_total` where nothing was deployed, `oncelog_sync_seconds` when its high buckets fill, and no answer at all.
`oncelog_sync_entries` beside it says how many requests shared one sync.
"""


def pages() -> dict[str, str]:
    """The text of each page by its file's name."""
    return {"settings.md": _settings_page(), "apis.md": _apis_page(), "metrics.md": _metrics_page()}


def _settings_page() -> str:
    parts = [
        _SETTINGS,
        _MADE,
        "## Topic settings in force\n",
        *_setting_rows(TOPIC_SETTINGS.values(), TOPIC_IN_FORCE, is_topic=True),
        "\n## Broker settings in force\n",
        *_setting_rows(BROKER_SETTINGS.values(), BROKER_IN_FORCE, is_topic=False),
        "\n## Topic settings: accepted and shown\n",
        *_setting_rows(TOPIC_SETTINGS.values(), TOPIC_SETTINGS.keys() - TOPIC_IN_FORCE, is_topic=True),
        "\n## Broker settings: accepted and shown\n",
        *_setting_rows(BROKER_SETTINGS.values(), BROKER_SETTINGS.keys() - BROKER_IN_FORCE, is_topic=False),
    ]
    return "\n".join(parts) + "\n"


def _setting_rows(settings: Iterable[Setting], names: Iterable[str], *, is_topic: bool) -> Iterator[str]:
    yield "| setting | type | default | possible | what it does |"
    yield "|---|---|---|---|---|"
    chosen = set(names)
    for setting in settings:
        if setting.name in chosen:
            kind = setting.kind.name.lower() + (" *dynamic*" if setting.is_dynamic else "")
            default = "" if setting.default is None else f"`{setting.default}`" if setting.default else "empty"
            doc = setting.doc
            others = [name for name in setting.synonyms if name != setting.name]
            if is_topic and others:
                doc += " Broker: " + ", ".join(f"`{name}`" for name in others) + "."
            yield f"| `{setting.name}` | {kind} | {default} | {_possible(setting)} | {doc} |"


def _possible(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(setting.choices)
    low, high = setting.low, setting.high
    if low is not None and high is not None:
        return f"{low:.0f} to {high:.0f}" if low != high else f"{low:.0f}"
    return f"≥ {low:.0f}" if low is not None else ""


def _apis_page() -> str:
    parts = [
        _APIS,
        _MADE,
        "| key | API | versions | behaviour and version notes |",
        "|---|---|---|---|",
        *(_api_row(key, handler) for key, handler in sorted(HANDLERS.items())),
        "\n## Features\n",
        "The newest level of each is in force; a client that knows less speaks the older protocol of its requests' versions.\n",
        "| feature | levels |",
        "|---|---|",
        *(f"| `{name}` | {low} to {high} |" for name, low, high in FEATURES),
    ]
    return "\n".join(parts) + "\n"


def _api_row(key: int, handler: Handler) -> str:
    versions = f"{handler.version_min}–{handler.version_max}"
    if handler.version_min == handler.version_max:
        versions = str(handler.version_min)
    if handler.version_min_shown is not None:
        versions += f" (shown from {handler.version_min_shown})"
    return f"| {key} | {handler.name} | {versions} | {_behaviour(handler)} |"


def _behaviour(handler: Handler) -> str:
    """The handler's docstring, without the versions that the table names already."""
    text = " ".join((inspect.getdoc(handler.handle) or "").split())
    for versions in (f"{handler.version_min}-{handler.version_max}", str(handler.version_min)):
        for end in (". ", ": ", "; ", "."):
            if text.startswith(versions + end):
                text = text.removeprefix(versions + end)
                return (text[:1].upper() + text[1:]).replace("|", "\\|")
    return text.replace("|", "\\|")


def _metrics_page() -> str:
    parts = [_METRICS, _MADE, "| metric | kind | labels | what it says |", "|---|---|---|---|"]
    for name, (kind, text, labels) in METRICS.items():
        word = kind.__name__.removesuffix("MetricFamily").lower()
        shown = f"{name}_total" if word == "counter" else name
        parts.append(f"| `{shown}` | {word} | {', '.join(f'`{label}`' for label in labels)} | {text} |")
    parts += ["\n## Reasons of `oncelog_fences_total`\n", "| reason | what happened |", "|---|---|"]
    parts += (f"| `{fence.value}` | {sentence} |" for fence, sentence in SENTENCES.items())
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write the pages."""
    folder = Path(arguments[0]) if arguments else Path("docs")
    for name, text in pages().items():
        folder.joinpath(name).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
