"""docs/settings.md and docs/apis.md are what the code says; ``make docs`` writes them."""

from __future__ import annotations

import pytest
from tests.house.tree import ROOT

from oncelog.broker.apis import HANDLERS
from oncelog.broker.documents import pages
from oncelog.engine.config_tables import BROKER_SETTINGS, TOPIC_SETTINGS


@pytest.mark.parametrize("name", sorted(pages()))
def test_made_pages_are_up_to_date(name: str) -> None:
    page = ROOT / "docs" / name
    assert page.read_text(encoding="utf-8") == pages()[name], f"docs/{name} is old: run make docs"


def test_every_setting_and_api_has_a_row() -> None:
    made = pages()
    for name in (*TOPIC_SETTINGS, *BROKER_SETTINGS):
        assert f"| `{name}` |" in made["settings.md"]
    rows = {line.split(" | ")[1]: line.split(" | ")[3] for line in made["apis.md"].splitlines() if line[2:3].isdigit()}
    assert set(rows) == {handler.name for handler in HANDLERS.values()}
    assert [name for name, words in rows.items() if not words.strip(" |")] == [], "an API without a word about it"
