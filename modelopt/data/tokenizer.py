"""From text to token numbers, as a ``tokenizer.json`` says."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelopt.core.errors import EnvironmentLacks, InputError
from modelopt.data import user_files

if TYPE_CHECKING:
    from kitoken import Kitoken

MAX_TOKENIZER_BYTES = 128 << 20
"""The largest ``tokenizer.json`` that is read: 128 MiB."""

DEFAULT_LENGTH = 512
"""Tokens of a text at most, where neither the model nor the tokenizer says it."""

_OWN_PARTS = {"padding": None, "post_processor": None, "truncation": None}
"""The parts of the file that are read here, so that the library need not know every kind of them."""

_PADDING_NAMES = ("[PAD]", "<pad>")
_NOTHING_ADDED = ("ByteLevel", None)

_Json = Mapping[str, object]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer, and what it puts around each text.

    Attributes:
        encoder: Gives the tokens of a text alone.
        before: Tokens before each text, such as ``[CLS]``.
        after: Tokens after it, such as ``[SEP]``.
        padding: The token that fills up shorter texts.
        most: Tokens of a text at most, those around it counted; None where the file does not say it.
    """

    encoder: Kitoken
    before: tuple[int, ...]
    after: tuple[int, ...]
    padding: int
    most: int | None

    def encode(self, text: str, most: int) -> tuple[list[int], bool]:
        """The tokens of a text with those around it, at most `most`, and whether the text was cut for that.

        Raises:
            InputError: The tokenizer has no token for a part of the text.
        """
        try:
            found = list(self.encoder.encode(text, encode_specials=True))
        except Exception as error:  # noqa: BLE001  # what the library raises has no class of its own
            raise InputError(f"the tokenizer cannot read the text {text[:40]!r}", note=str(error)) from None
        room = max(0, most - len(self.before) - len(self.after))
        return [*self.before, *found[:room], *self.after][:most], len(found) > room


def open_tokenizer(path: Path) -> Tokenizer:
    """Read a ``tokenizer.json``, as the package `tokenizers` writes it.

    Raises:
        EnvironmentLacks: The package kitoken is not installed.
        InputError: The file cannot be read, or is of a kind that is not supported.
    """
    content = user_files.read_bytes(path, MAX_TOKENIZER_BYTES)
    try:
        from kitoken import Kitoken
    except ImportError:
        hint = "pip install 'modelopt-onnx[text]'"
        raise EnvironmentLacks("text needs the package kitoken, which is not installed", hint=hint) from None
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no tokenizer.json", note=f"{type(error).__name__}: {error}"[:200]) from None
    if not isinstance(said, dict) or not isinstance(said.get("model"), dict):
        raise InputError(f"{path} is no tokenizer.json", note="it has no part 'model'")
    try:
        encoder = Kitoken.from_tokenizers(json.dumps({**said, **_OWN_PARTS}).encode())
    except BaseException as error:  # a panic of the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        raise InputError(f"{path} is of a kind that is not supported", note=str(error)[:200]) from None
    try:
        before, after = _around(said.get("post_processor"))
        return Tokenizer(encoder, before, after, _padding(said), _most(said))
    except (KeyError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(f"{path} is malformed", note=f"{type(error).__name__}: {error}"[:200]) from None
    except _UnknownStep as step:
        raise InputError(f"{path} is of a kind that is not supported", note=f"post_processor '{step}'") from None


class _UnknownStep(Exception):
    """A post-processor that is not known."""


def _around(step: object) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The tokens before and after a text."""
    if step is None:
        return (), ()
    said = _mapping(step)
    kind = said["type"]
    if kind in ("BertProcessing", "RobertaProcessing"):
        return (_number(said["cls"]),), (_number(said["sep"]),)
    if kind == "TemplateProcessing":
        return _template(said)
    if kind == "Sequence":
        before: tuple[int, ...] = ()
        after: tuple[int, ...] = ()
        for each in _items(said["processors"]):
            ahead, behind = _around(each)
            before, after = (*ahead, *before), (*after, *behind)
        return before, after
    if kind in _NOTHING_ADDED:
        return (), ()
    raise _UnknownStep(str(kind))


def _template(said: _Json) -> tuple[tuple[int, ...], tuple[int, ...]]:
    parts: tuple[list[int], list[int]] = ([], [])
    tokens = _mapping(said["special_tokens"])
    place = 0
    for piece in _items(said["single"]):
        if "Sequence" in _mapping(piece):
            place = 1
            continue
        name = str(_mapping(_mapping(piece)["SpecialToken"])["id"])
        parts[place].extend(int(str(each)) for each in _items(_mapping(tokens[name])["ids"]))
    return tuple(parts[0]), tuple(parts[1])


def _padding(said: _Json) -> int:
    padding = said.get("padding")
    if padding is not None:
        return int(str(_mapping(padding)["pad_id"]))
    named = {str(token["content"]): int(str(token["id"])) for token in map(_mapping, _items(said.get("added_tokens")))}
    return next((named[name] for name in _PADDING_NAMES if name in named), 0)


def _most(said: _Json) -> int | None:
    truncation = said.get("truncation")
    return None if truncation is None else max(1, int(str(_mapping(truncation)["max_length"])))


def _number(pair: object) -> int:
    """The number of ``[token, number]``."""
    _, number = _items(pair)
    return int(str(number))


def _mapping(value: object) -> _Json:
    if not isinstance(value, dict):
        raise TypeError(f"a {type(value).__name__} stands where an object should")
    return value


def _items(value: object) -> Iterator[object]:
    if not isinstance(value, list):
        raise TypeError(f"a {type(value).__name__} stands where a list should")
    return iter(value)
