"""Shapes behind computed shapes: fold constants in a copy, in numpy alone, and infer again."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.folding import Folding
from modelopt.core.errors import ModeloptError, Refused
from modelopt.graph import macs

_MAX_TENSOR_BYTES = 2**20  # shapes and what they are computed from are small
_MAX_ROUNDS = 8


class ShapeInference(Protocol):
    """The part of `modelopt.core.runner.Runner` that infers shapes."""

    def infer_shapes(self, model: ir.Model) -> None:
        """Add what shape inference knows, in place; raises ModeloptError when it fails."""
        ...


class _NumpyOnly:
    """A runner that runs nothing: an inspection does not run models, not even parts of them."""

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        raise Refused("an inspection runs nothing")

    def infer_shapes(self, model: ir.Model) -> None:
        raise Refused("an inspection runs nothing")

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        raise Refused("an inspection runs nothing")

    def simplify(self, model: ir.Model) -> ir.Model:
        raise Refused("an inspection runs nothing")


def refine(model: ir.Model, inference: ShapeInference) -> None:
    """Give values without a static shape the one that they have in a folded copy of `model`."""
    folded = model.clone()
    folding = Folding(_MAX_TENSOR_BYTES, max_growth=1.0)
    with contextlib.suppress(ModeloptError):  # shapes inferred until then hold
        for _ in range(_MAX_ROUNDS):  # a shape inferred in one round makes another one constant in the next
            if not folding.apply(folded, _NumpyOnly()).rewrites:
                break
            _infer_anew(folded, inference)
    names = Counter(value.name for value in _made(model))
    known = {value.name: value.shape for value in _made(folded) if names[value.name] == 1}
    for value in _made(model):
        if not macs.is_settled(value):
            value.shape = known.get(value.name) or value.shape


def _infer_anew(model: ir.Model, inference: ShapeInference) -> None:
    for value in _made(model):
        if not macs.is_settled(value):
            value.shape = None
    inference.infer_shapes(model)


def _made(model: ir.Model) -> Iterator[ir.Value]:
    for node in graph.all_nodes(model):
        yield from node.outputs
