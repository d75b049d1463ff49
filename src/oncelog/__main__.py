"""``python -m oncelog``: the same as the ``oncelog`` command."""

from oncelog.cli import main

main()
