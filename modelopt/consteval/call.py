"""One node about to be evaluated: its inputs as arrays, its attributes with their defaults, its opset."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph


class NotEvaluable(Exception):
    """This node cannot be evaluated on these inputs; the text is one clause without a final period."""


class LeftToRuntime(Exception):
    """The operator has a kernel, but not for this case."""


@dataclass(frozen=True)
class Call:
    """A standard node and its constant inputs.

    Attributes:
        inputs: One array for each input; None where an optional input is omitted.
        opset: The version of the standard operator set that the node's graph or function imports.
    """

    node: ir.Node
    inputs: Sequence[np.ndarray | None]
    opset: int

    def array(self, index: int) -> np.ndarray:
        """The input at `index`, which must be there."""
        found = self.optional(index)
        if found is None:
            raise NotEvaluable(f"its input {index} is missing")
        return found

    def optional(self, index: int) -> np.ndarray | None:
        """The input at `index`, or None when it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def arrays(self) -> list[np.ndarray]:
        """All inputs of a variadic operator."""
        return [self.array(index) for index in range(len(self.inputs))]

    def ints(self, index: int) -> tuple[int, ...]:
        """The integers in the input at `index`, which must be there."""
        return tuple(int(number) for number in self.array(index).reshape(-1))

    def attribute_int(self, name: str, default: int) -> int:
        """An integer attribute, or its default."""
        return graph.attribute_int(self.node, name, default)

    def attribute_or_input(self, name: str, index: int, *, since: int) -> tuple[int, ...] | None:
        """Integers that are an attribute before opset `since` and an input from there on; None when omitted."""
        if self.opset < since:
            return graph.attribute_ints(self.node, name)
        return None if self.optional(index) is None else self.ints(index)


Size = Callable[[Call], int]
"""Bytes of all outputs together, from shapes and small inputs alone."""

Run = Callable[[Call], list[np.ndarray]]


@dataclass(frozen=True)
class Kernel:
    """How to evaluate one operator.

    Attributes:
        size: An upper bound on the bytes of the outputs, computed without allocating them.
        run: The outputs. It may raise NotEvaluable, or numpy's ValueError and IndexError on invalid inputs.
    """

    size: Size
    run: Run


def axis_in(axis: int, rank: int) -> int:
    """The non-negative axis for one that may count from the end."""
    if not -rank <= axis < rank:
        raise NotEvaluable(f"axis {axis} is outside rank {rank}")
    return axis % rank
