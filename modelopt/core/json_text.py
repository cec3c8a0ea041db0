"""Documents as JSON, also where a file name in them is not UTF-8."""

from __future__ import annotations

from typing import Any

import msgspec


def json_text(document: msgspec.Struct | dict[str, object], encoding: str = "utf-8") -> str:
    r"""A document as indented JSON.

    Args:
        document: The document. A byte of a file name that is not UTF-8 becomes the four characters ``\xNN``.
        encoding: Of where it is written to; what that lacks is written as JSON's ``\uNNNN``.
    """
    try:
        encoded = msgspec.json.encode(document)
    except UnicodeEncodeError:
        encoded = msgspec.json.encode(_encodable(msgspec.to_builtins(document)))
    text = msgspec.json.format(encoded, indent=2).decode()
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return "".join(character if character.isascii() else _escaped(character) for character in text)
    return text


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {_encodable(key): _encodable(each) for key, each in value.items()}
    return [_encodable(each) for each in value] if isinstance(value, list | tuple) else value
