"""Finds residual blocks where inputs have open sizes: shapes are inferred for sizes that nothing else in a model has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.consteval.refine_shapes import ShapeInference
from modelopt.core.signature import Signature, name_in
from modelopt.pruning.residual_blocks import ResidualBlocks, residual_blocks

_BATCH = 7
"""An open first axis: a size that is not 1, and rare as a fixed one."""

_TRIED = ((352, 32), (352, 0), (5792, 0), (32, 0))
"""For other open axes the size of the first and how much larger each next one is, tried in turn: some models take only
short inputs, some only long ones, and some the same size for two inputs. Multiples of 32, as strides ask."""


def find(model: ir.Model, inference: ShapeInference) -> ResidualBlocks:
    """The residual blocks of a model whose values have the shapes that the file says; it is not changed.

    That a sum has the shape of what is added to is proven for sizes of the open axes that are not 1 and differ.
    """
    found: ResidualBlocks | None = None
    signature = graph.signature(model)
    for sizes in _sizes(signature):
        with inferred(model, bind(signature, sizes), inference) as failure:
            now = residual_blocks(model)
        if found is None or len(now.blocks) > len(found.blocks):
            found = now
        if failure is None and not now.of_unknown_shape:
            break
    return found or ResidualBlocks((), {})


def _sizes(signature: Signature) -> Iterator[Mapping[str, int]]:
    """What open axes may be, by name: see `known_shapes.bind`."""
    batch: dict[str, int] = {}
    others: dict[str, None] = {}
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape or ()):
            name = name_in(spec.name, axis, dim)
            if name is not None and axis == 0 and len(spec.shape or ()) > 1:
                batch[name] = _BATCH
            elif name is not None:
                others[name] = None
    for first, more in _TRIED if others else _TRIED[:1]:
        yield {name: first + more * place for place, name in enumerate(others)} | batch
