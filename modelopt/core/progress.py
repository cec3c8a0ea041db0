"""The callback by which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""``progress(what, done, total)``: a stage of the work. Without a total it begins a part of the work, as a trial is."""

SECONDS = {"timing": 1e-9}
"""Stages that count time, and the seconds of one count; the total is the most that they take."""


def silent(_what: str, _done: int, _total: int | None) -> None:
    """Report no progress."""
