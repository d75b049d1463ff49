"""kafka-python, imported without the warnings of its own making that would fail every test."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import kafka
    import kafka.admin
    import kafka.errors

__all__ = ["kafka"]
