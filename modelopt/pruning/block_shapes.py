"""Finds residual blocks where inputs have open sizes: shapes are inferred for sizes that little else in a model has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import cycle

import onnx_ir as ir

from modelopt import graph
from modelopt.consteval.known_shapes import bind, inferred
from modelopt.consteval.refine_shapes import ShapeInference
from modelopt.core.signature import Signature, name_in, symbol_of
from modelopt.pruning.residual_blocks import ResidualBlocks, residual_blocks

_BATCHES = (7, 11, 13, 17, 19, 23)
"""Open first axes: sizes that are not 1, and rare as fixed ones."""

_TRIED = (352, 5792, 32)
"""The size of the first other open axis, tried in turn: some models take only short inputs, some only long ones. Each
next one is larger by `_STEP`, a multiple of 32 as strides ask."""

_STEP = 32


def find(model: ir.Model, inference: ShapeInference) -> ResidualBlocks:
    """The residual blocks of a model whose values have the shapes that the file says; it is not changed.

    That a sum has the shape of what is added to is proven for sizes of the open axes that are not 1, and that differ
    where their names do. Axes without a name are taken for one size where they stand at one place.
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
    batches: dict[str, set[str]] = {}
    others: dict[str, set[str]] = {}
    for spec in signature.inputs:
        for axis, dim in enumerate(spec.shape or ()):
            name = name_in(spec.name, axis, dim)
            if name is not None:
                kind = batches if axis == 0 and len(spec.shape or ()) > 1 else others
                kind.setdefault(symbol_of(dim) or str(axis), set()).add(name)
    fixed = {name: size for names, size in zip(batches.values(), cycle(_BATCHES)) for name in names}
    for first in _TRIED if others else _TRIED[:1]:
        yield {name: first + _STEP * i for i, names in enumerate(others.values()) for name in names} | fixed
