"""The callback by which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""``progress(what, done, total)``; the total is None where it is not known."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """Report no progress."""
