"""Fuse rotary position embeddings into onnxruntime's RotaryEmbedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.consteval.symbolic import Symbolic
from modelopt.core.changes import Changes, Effect
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.passes.base import Pass
from modelopt.patterns import rotary
from modelopt.patterns.rewriter import Rewrite, collapse, rewrite_nodes, why_not_private


class FuseRotary(Pass):
    """Fuse rotary position embeddings into RotaryEmbedding (onnxruntime only).

    ``x · cos + turned(x) · sin`` (Su et al. 2021) for ``x`` of shape (batch, heads, length, size), where ``turned``
    makes (-b, a) of each pair (a, b). Pairs are half of the size apart (Slice or Split, Neg, Concat) or neighbours
    (Slices with step 2, Neg, Unsqueeze, Concat, Reshape): ``interleaved`` in onnxruntime's ContribOperators.md. The
    operator takes tables with one number for each pair, so cosines and sines have to be constants that hold each twice:

    - all rows, or as many of the first ones as ``x`` is long: position_ids is [0];
    - rows that Gather picks by int64 positions of shape (batch, length): position_ids are those.

    Positions count from the front, and no input is longer than the table: onnxruntime refuses others when it runs,
    where Gather takes them.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    contrib: ClassVar[bool] = True

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Fuse every one whose inner values nothing else uses."""
        return rewrite_nodes(model, partial(_rule, _Tables(graph.NameSource(model), Symbolic(model))))


@dataclass
class _Tables:
    """Halves of tables, each made once for all layers.

    Attributes:
        names: Names for the values that it makes.
        known: The symbolic dimensions of the model.
    """

    names: graph.NameSource
    known: Symbolic
    _halves: dict[tuple[ir.Value, bool], np.ndarray | None] = field(default_factory=dict)
    _shared: dict[tuple[ir.Value, str], ir.Value] = field(default_factory=dict)

    def half(self, rows: ir.Value, *, interleaved: bool) -> np.ndarray | None:
        key = rows, interleaved
        if key not in self._halves:
            self._halves[key] = rotary.halved(rows, interleaved=interleaved)
        return self._halves[key]

    def store(self, rows: ir.Value, user: ir.Node, array: np.ndarray, suffix: str) -> ir.Value:
        """A constant beside `rows`: shared where that is an initializer, for `user` alone where it is a node."""
        found = self._shared.get((rows, suffix))
        if found is not None and found.graph is not None:
            return found
        made = graph.constant_beside(rows, user, self.names(f"{rows.name}_{suffix}"), array)
        if made.producer() is None:
            self._shared[rows, suffix] = made
        return made


def _rule(tables: _Tables, node: ir.Node, opset: int) -> Rewrite | Mismatch:
    found = rotary.find(node, opset)
    if found is None:
        return match.NOT_HERE
    if reason := why_not_private(found.last, found.inner):
        return Mismatch(reason)
    if found.x.dtype not in FLOAT16_FLOAT32:
        return Mismatch("onnxruntime has the operator for float32 and float16")
    cosines = rotary.table(found.cosine, found.x, tables.known, opset)
    sines = rotary.table(found.sine, found.x, tables.known, opset)
    if isinstance(cosines, Mismatch) or isinstance(sines, Mismatch):
        return cosines if isinstance(cosines, Mismatch) else sines  # type: ignore[return-value]
    if cosines.positions is not sines.positions:
        return Mismatch("its cosines and sines are of different positions")
    halves = [tables.half(one.rows, interleaved=found.interleaved) for one in (cosines, sines)]
    if halves[0] is None or halves[1] is None:
        return Mismatch("the two of a pair do not turn by the same angle")
    size = graph.known_size(found.x, -1)
    if halves[0].shape != halves[1].shape or halves[0].shape[1] * 2 != size:
        return Mismatch("its tables have different sizes")
    return partial(_rewrite, tables, found, cosines, sines)


def _rewrite(tables: _Tables, found: rotary.Rotary, cosines: rotary.Table, sines: rotary.Table) -> None:
    suffix = "pairs" if found.interleaved else "half"
    inputs: list[ir.Value] = [found.x]
    positions = cosines.positions
    if positions is None:
        positions = tables.store(cosines.rows, found.last, np.zeros(1, np.int64), "first_position")
    inputs.append(positions)
    for one in (cosines, sines):
        half = tables.half(one.rows, interleaved=found.interleaved)
        inputs.append(tables.store(one.rows, found.last, np.asarray(half), suffix))
    attributes = [ir.AttrInt64("interleaved", 1)] if found.interleaved else []
    collapse(found.last, "RotaryEmbedding", inputs, attributes, domain=graph.CONTRIB_DOMAIN)
