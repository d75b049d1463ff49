"""One file per family of requests; ``table.py`` maps each API and its versions to its handler."""
