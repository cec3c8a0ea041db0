"""What an encoding can hold. Python holds the bytes of file names that are not UTF-8 as lone surrogates."""

from __future__ import annotations


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text."""
    return can_hold("utf-8", text)


def can_hold(encoding: str, text: str) -> bool:
    """Whether an encoding can hold a text."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True
