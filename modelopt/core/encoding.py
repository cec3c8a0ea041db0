"""File names that are not UTF-8: Python holds their bytes as lone surrogates."""

from __future__ import annotations


def is_utf8(text: str) -> bool:
    """Whether UTF-8 can hold a text."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
