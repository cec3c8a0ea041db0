"""A count and its noun, for reports, notes and errors."""

from __future__ import annotations


def counted(n: int, noun: str) -> str:
    """``1 node``, ``3 nodes``, ``2 passes``, ``1,200 places``."""
    ending = "" if n == 1 else "es" if noun.endswith("s") else "s"
    return f"{n:,} {noun}{ending}"
