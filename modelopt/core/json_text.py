"""JSON that is safe to look at: names in models are not ours, and could drive a terminal or reorder what is read."""

from __future__ import annotations

from typing import Any

import msgspec

from modelopt.core.encoding import can_hold


def json_text(document: msgspec.Struct | dict[str, object], encoding: str = "utf-8") -> str:
    r"""A document as indented JSON without a final newline.

    Each character that is not printable is written as JSON's ``\uNNNN``: controls (C1 too), marks that change the
    direction of text, separators of lines and paragraphs. Parsed again, the document is the same.

    Args:
        document: The document. A byte of a file name that is not UTF-8 becomes the four characters ``\xNN``.
        encoding: Of where it is written to; what that lacks is written as ``\uNNNN`` too.
    """
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(document)))
    text = msgspec.json.format(encoded, indent=2).decode()
    all_encodable = can_hold(encoding, text)
    if all_encodable and text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char == "\n" or (char.isprintable() and (char.isascii() or all_encodable)) else _escaped(char)
        for char in text
    )


def _escaped(character: str) -> str:
    """As JSON writes it: in units of UTF-16."""
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list | tuple) else value
