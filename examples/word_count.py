"""Word count with state: lines in, counts out; the count of a word is right after any crash.

Make the topics lines, words and counts first; run: python examples/word_count.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from oncelog.app import App, Context, Out, Record

app = App("word-count", os.environ.get("BOOTSTRAP", "localhost:9092"), state_folder=os.environ.get("STATE", ".oncelog"))


@app.process("lines", to="words")
def split(line: Record[str, str]) -> Iterator[Out]:
    """One record a word, keyed by it, so that one partition has all of a word."""
    for word in line.value.lower().split():
        yield Out(key=word, value=word)


@app.process("words", to="counts")
def count(word: Record[str, str], ctx: Context) -> Out:
    """How often it was seen so far."""
    return Out(key=word.key, value=ctx.state["counts"].add(word.key, 1))


if __name__ == "__main__":
    app.run(workers=2)
