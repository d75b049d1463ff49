"""Stories: scenarios in plain text whose whole output is compared. ``pytest tests/stories --rewrite-stories`` writes them anew.

A story is blocks of commands (tests/stories/commands.py), each block followed by ``----`` and what they said, one line or more
for each command that says anything. Lines with ``#`` before a block explain it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.stories.commands import Commands

STORIES = sorted(Path(__file__).parent.glob("*.txt"))
_LINE = "----"


def play(text: str) -> str:
    """The story as it goes now."""
    stage = Commands()
    return "\n\n".join(_play_block(stage, block) for block in text.strip().split("\n\n")) + "\n"


def _play_block(stage: Commands, block: str) -> str:
    lines = block.splitlines()
    if _LINE in lines:
        lines = lines[: lines.index(_LINE)]
    commands = [line for line in lines if not line.startswith("#")]
    if not commands:
        return "\n".join(lines)
    said = [one for command in commands if (one := stage.do(command))]
    return "\n".join([*lines, _LINE, *said])


@pytest.mark.parametrize("path", STORIES, ids=[path.stem for path in STORIES])
def test_story(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text(encoding="utf-8")
    played = play(text)
    if request.config.getoption("rewrite_stories"):
        path.write_text(played, encoding="utf-8")
        return
    assert played.splitlines() == text.splitlines()


def test_there_are_stories() -> None:
    assert len(STORIES) >= 10


def test_a_story_that_went_otherwise_is_seen() -> None:
    text = "topic t\n----\n36 TOPIC_ALREADY_EXISTS\n"
    assert play(text) == "topic t\n----\nok\n"
