"""The limits of a contract as recipes write them, in the words of the flags: ``max-drop: 1%``, ``max-size: 5MB``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelopt.core import quantities

_SIZE = "max-size"
_FIELDS: dict[str, tuple[str, Callable[[str], float], Callable[[Any], str], str]] = {
    "max-drop": ("max-drop", quantities.share, quantities.share_text, "a fraction such as 1% or 0.01"),
    "max-latency": ("max-latency-ns", quantities.nanoseconds, quantities.time_text, "a time such as 2ms"),
    "max-load": ("max-load-ns", quantities.nanoseconds, quantities.time_text, "a time such as 100ms"),
    "max-memory": ("max-memory-bytes", quantities.n_bytes, quantities.bytes_text, "a size such as 200MB"),
}
"""By its key the field of `Gates`, how its text is read and written, and what it may be."""

_RATIO, _BYTES = "max-size-ratio", "max-size-bytes"


def read(plain: Mapping[Any, Any]) -> dict[Any, Any]:
    """The section ``gates`` of a recipe, with texts such as ``5MB`` as the fields of `Gates` hold them.

    Raises:
        BadQuantity: A text is no quantity of the kind; its `args` are the message and the key.
    """
    found: dict[Any, Any] = {}
    for key, value in plain.items():
        try:
            if key == _SIZE and value is not None:
                size = quantities.size(str(value))
                found[_BYTES if isinstance(size, int) else _RATIO] = size
            elif key in _FIELDS and value is not None:
                field, parse, _, _ = _FIELDS[key]
                found[field] = parse(str(value))
            else:
                found[key] = value
        except quantities.BadQuantity as error:
            raise quantities.BadQuantity(str(error), key) from None
    return found


def written(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Gates` that a recipe writes, in its own words; `read` reads them again."""
    by_field = {field: (key, text) for key, (field, _, text, _) in _FIELDS.items()}
    by_field[_BYTES] = (_SIZE, quantities.bytes_text)
    by_field[_RATIO] = (_SIZE, quantities.share_text)
    found = {}
    for field, value in plain.items():
        key, text = by_field.get(field, (field, None))
        found[key] = value if text is None else text(value)
    return found


def described(schema: dict[str, Any]) -> dict[str, Any]:
    """The JSON schema of `Gates` with the words of a recipe in place of the fields."""
    fields = {field for field, *_ in _FIELDS.values()} | {_RATIO, _BYTES}
    properties = {key: value for key, value in schema["properties"].items() if key not in fields}
    number_or_text = {"anyOf": [{"type": "string"}, {"type": "number"}, {"type": "null"}], "default": None}
    for key, (_, _, _, kind) in _FIELDS.items():
        properties[key] = {**number_or_text, "description": kind}
    properties[_SIZE] = {**number_or_text, "description": "a size such as 3MB, or 50% of the input's"}
    return {**schema, "properties": properties}
