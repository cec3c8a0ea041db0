"""Reads YAML that may be hostile, in time and memory that its limits bound.

PyYAML takes time that is quadratic in the depth of brackets, aliases can stand for gigabytes, and a number may have a
million digits. So the depth, the number of values and the length of numbers are checked while the text is read, in the
one pass that makes its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from modelopt.core.errors import InputError

MAX_BYTES = 256 << 10
"""The longest text that is read: 256 KiB, which PyYAML reads in about two seconds."""

MAX_DEPTH = 32
"""How deep lists and mappings may be nested: a recipe has six levels."""

MAX_VALUES = 20_000
"""The most keys and values of one text."""

_MAX_NUMBER_CHARACTERS = 64
_MERGE = "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _NotSupported(yaml.MarkedYAMLError):
    """YAML, but more than is read here; the fact is `problem`."""

    def __init__(self, problem: str, mark: Any) -> None:  # the stub's marks are of two kinds
        super().__init__(problem=problem, problem_mark=mark)


class _Loader(yaml.SafeLoader):
    """Plain values only: no tags, no aliases, no merge keys, no number that is not finite or longer than 63 bits."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):  # nine lines with aliases can stand for gigabytes
            raise _NotSupported(f"aliases (*{event.anchor}) are not supported", event.start_mark)
        tag = getattr(event, "tag", None)  # of scalars and of the starts of collections
        if tag is not None:
            raise _NotSupported(f"tags ({tag}) are not supported", event.start_mark)
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise _NotSupported(f"nested too deeply: more than {MAX_DEPTH} levels", event.start_mark)
        if self._values > MAX_VALUES:
            raise _NotSupported(f"more than {MAX_VALUES} keys and values", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > 63:
            raise _NotSupported(f"{node.value} is too large: integers have at most 63 bits", node.start_mark)
        return value

    def construct_yaml_float(self, node: yaml.ScalarNode) -> float:
        value: float = super().construct_yaml_float(node)
        if not math.isfinite(value):
            raise _NotSupported(f"{node.value} is not a finite number", node.start_mark)
        return value


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag == _MERGE:
        raise _NotSupported("merge keys (<<) are not supported", node.start_mark)
    if node.tag in _NUMBERS and len(node.value) > _MAX_NUMBER_CHARACTERS:  # its digits would take quadratic time
        raise _NotSupported(f"a number of {len(node.value)} characters", node.start_mark)


def read(text: str, *, source: str) -> tuple[Any, yaml.Node | None]:
    """The plain values of a YAML text, and its tree of nodes, which knows the lines.

    Args:
        text: One document, of at most `MAX_BYTES`.
        source: How errors call it.

    Raises:
        InputError: It is not YAML, or it is longer, deeper or larger than the limits of this module, or it holds tags,
            aliases, merge keys, NaN, an infinite number or an integer of more than 63 bits. The fact names `source`,
            and the line where one is to blame.
    """
    check_size(len(text.encode("utf-8", "surrogatepass")), source)
    with _located(source):
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return (None if node is None else loader.construct_document(node)), node
        finally:
            loader.dispose()


def check_size(size_bytes: int, source: str) -> None:
    """Refuse a text of more than `MAX_BYTES`.

    Raises:
        InputError: As said.
    """
    if size_bytes > MAX_BYTES:
        raise InputError(f"{source} is too long", note=f"YAML is read up to {MAX_BYTES} bytes")


@contextmanager
def _located(source: str) -> Iterator[None]:
    """Turn what PyYAML raises into one error with the line."""
    try:
        yield
    except _NotSupported as error:
        raise InputError(f"{_place(source, error.problem_mark)}: {error.problem}") from None
    except yaml.YAMLError as error:
        where = _place(source, getattr(error, "problem_mark", None))
        raise InputError(f"{where}: not YAML", note=getattr(error, "problem", None)) from None
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:  # e.g. 2026-99-99, a date
        raise InputError(f"{source}: not YAML", note=str(error)) from None


def _place(source: str, mark: Any) -> str:
    return f"{source}:{mark.line + 1}" if mark else source
