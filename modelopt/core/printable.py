"""Text that is safe to print: names in models and files are not ours, and could drive a terminal or begin a line."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text with newlines, terminal escapes and all else that is not printable as Python writes them."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
