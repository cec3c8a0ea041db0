"""A node and what is known of its inputs before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.call import NotEvaluable
from modelopt.consteval.sizes import Shape


@dataclass(frozen=True)
class KnownInputs:
    """A node and what is known of its inputs.

    Attributes:
        shapes: Of each input; None where it is not known.
        numbers: In each input; None where they are not known or many.
        opset: The version of the standard operator set.
    """

    node: ir.Node
    shapes: Sequence[Shape | None]
    numbers: Sequence[np.ndarray | None]
    opset: int

    def shape(self, index: int) -> Shape:
        """Of the input at `index`, which must be known."""
        found = self.shapes[index] if index < len(self.shapes) else None
        if found is None:
            raise NotEvaluable("the shape of an input is not known")
        return found

    def floats(self, index: int) -> list[float] | None:
        """The numbers in the input at `index`, None where they are not known."""
        found = self.numbers[index] if index < len(self.numbers) else None
        return None if found is None or found.dtype.kind not in "iufb" else [float(n) for n in found.reshape(-1)]

    def ints(self, index: int, attribute: str = "") -> list[int] | None:
        """Whole numbers in the input at `index`, else in the attribute of older opsets; None where there are none."""
        found = self.floats(index)
        if found is not None:
            return [int(number) for number in found]
        given = graph.attribute_ints(self.node, attribute)
        return None if given is None else list(given)

    def known_ints(self, index: int, attribute: str = "") -> list[int]:
        """As `ints`, which must be known."""
        found = self.ints(index, attribute)
        if found is None:
            raise NotEvaluable("the numbers in an input are not known")
        return found

    def int(self, name: str, default: int) -> int:
        """An integer attribute, or its default."""
        return graph.attribute_int(self.node, name, default)
