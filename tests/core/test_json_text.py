"""JSON that holds names from models: nothing in it drives a terminal, and it means the same."""

from __future__ import annotations

import json

import pytest

from modelopt.core.json_text import json_text

_UNSAFE = [
    *range(0x20),
    *range(0x7F, 0xA0),
    0x61C,
    0x200E,
    0x200F,
    *range(0x2028, 0x202F),
    *range(0x2066, 0x206A),
    0xE0001,
]


@pytest.mark.parametrize("number", _UNSAFE, ids=hex)
def test_what_is_not_printable_is_escaped(number: int) -> None:
    document: dict[str, object] = {f"a{chr(number)}b": [chr(number)]}
    text = json_text(document)
    assert text.replace("\n", "").isprintable()
    assert json.loads(text) == document


def test_other_text_stays_readable() -> None:
    assert json_text({"é": "中😀"}) == '{\n  "é": "中😀"\n}'
