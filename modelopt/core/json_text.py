"""JSON that is safe to look at: names in models are not ours, and could drive a terminal or reorder what is read."""

from __future__ import annotations

import msgspec

_LAST_OF_PLANE_0 = 0xFFFF


def json_text(document: msgspec.Struct | dict[str, object]) -> str:
    r"""A document as indented JSON without a final newline.

    Each character that is not printable is written as ``\uXXXX``: controls (C1 too), marks that change the direction
    of text, separators of lines and paragraphs. Parsed again, the document is the same.
    """
    text = msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
    if text.replace("\n", "").isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\n" else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    """As JSON writes it: in units of UTF-16."""
    if ord(char) <= _LAST_OF_PLANE_0:
        return f"\\u{ord(char):04x}"
    units = char.encode("utf-16-be")
    return f"\\u{units[:2].hex()}\\u{units[2:].hex()}"
