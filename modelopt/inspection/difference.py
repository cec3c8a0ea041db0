"""What two model files differ in, as versioned data: the document that ``modelopt diff --json`` prints."""

from __future__ import annotations

from enum import Enum

import msgspec

SCHEMA = "modelopt-diff/1"


class ChangeKind(Enum):
    """What became of a part of the first model."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """One difference.

    Attributes:
        what: ``input``, ``output``, ``opset``, ``metadata``, ``function``, ``node``, ``initializer`` or ``header``.
        kind: What became of it.
        name: Its name; of a node its label.
        before: How it was; empty where it was added.
        after: How it is; empty where it was removed.
    """

    what: str
    kind: ChangeKind
    name: str
    before: str = ""
    after: str = ""


class OperatorChange(msgspec.Struct, frozen=True, kw_only=True):
    """How often an operator occurs in both models, where that differs."""

    op: str
    before: int
    after: int


class ModelDiff(msgspec.Struct, frozen=True, kw_only=True):
    """What two models differ in.

    Attributes:
        schema: The version of this structure.
        first: The first file.
        second: The second one.
        size_bytes: Of both.
        nodes: Of both, in all scopes, without Constant nodes, whose tensors count as initializers.
        operators: Operators that do not occur as often in both.
        changes: All differences: interface, opsets, nodes, initializers, metadata.
    """

    schema: str = SCHEMA
    first: str
    second: str
    size_bytes: tuple[int, int]
    nodes: tuple[int, int]
    operators: tuple[OperatorChange, ...]
    changes: tuple[Change, ...]

    @property
    def is_equal(self) -> bool:
        """Whether nothing differs."""
        return not self.changes
