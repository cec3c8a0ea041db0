"""See `StoreWeights`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.graph import node_filters
from modelopt.graph.opset_conversion import upgraded
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.passes.base import Pass, option
from modelopt.quant.weight_only import matmul_nbits, storage
from modelopt.quant.weight_only.storage import WeightUse

_BROADCASTING_OPSET = 7
_COMMON_OPSET = 17


@dataclass(frozen=True, kw_only=True)
class StoreWeights(Pass):
    """Store large weights in 8 bits and compute with them in float: a smaller file, the latency of float.

    Weights of convolutions, matrix products and recurrent operators get a scale for each output, tables a scale for
    each row. The runtime computes the float weights when it loads the model, so memory is that of the float model.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    shrinks: ClassVar[bool] = True

    symmetric: bool = option(default=True, text="int8 around zero; else uint8 with a zero point for each scale")
    min_elements: int = option(1024, "leave weights with fewer elements alone")
    include: tuple[str, ...] = option((), "only weights of these nodes: globs over names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave the weights of these nodes alone: globs, re:EXPRESSION or op:TYPE")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node.
            Refused: The model's opset is below 7 and cannot be converted.
        """
        node_filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        chosen, skipped = self._choose(model)
        if chosen and graph.opset(model) < _BROADCASTING_OPSET:
            graph.replace_contents(model, upgraded(model, _COMMON_OPSET, ctx.runner))
            chosen, skipped = self._choose(model)
        names = graph.NameSource(model)
        before = after = 0
        for done, use in enumerate(chosen, 1):
            array = graph.constant(use.weight)
            if array is None:
                raise ValueError("the weight is not constant")
            floats = np.asarray(array, np.float32)
            params = storage.params_of(floats, use.axes, symmetric=self.symmetric)
            integers = storage.quantize(floats, params)
            storage.write(model, use.weight, integers, params, names)
            before += array.nbytes
            after += integers.nbytes + params.scale.nbytes
            ctx.progress("storing weights", done, len(chosen))
        facts = {"weights_stored": len(chosen), "weights_before_bytes": before, "weights_after_bytes": after}
        return Changes(len(chosen), tuple(skipped), facts if chosen else {})

    def _choose(self, model: ir.Model) -> tuple[list[WeightUse], list[Skip]]:
        """Weights to store, and refusals. The first reader of each weight decides which axes get scales."""
        verdicts: dict[ir.Value, WeightUse | Skip] = {}
        for use, in_function in _uses(model):
            reason = matmul_nbits.IN_FUNCTION if in_function else self._why_not(use)
            if reason is None:
                verdicts.setdefault(use.weight, use)
            else:
                verdicts[use.weight] = Skip(graph.label(use.node), reason)
        chosen = [verdict for verdict in verdicts.values() if isinstance(verdict, WeightUse)]
        skipped = [verdict for verdict in verdicts.values() if isinstance(verdict, Skip)]
        stored = [node for node in graph.all_nodes(model) if any(storage.is_stored(value) for value in node.inputs)]
        return chosen, [*skipped, *(Skip(graph.label(node), storage.STORED) for node in stored)]

    def _why_not(self, use: WeightUse) -> str | None:
        reason = node_filters.why_left_out(use.node, self.include, self.exclude)
        if reason is not None:
            return reason
        tensor = graph.constant_tensor(use.weight)
        if tensor is None or tensor.dtype not in FLOAT16_FLOAT32:
            found = "unknown" if tensor is None else tensor.dtype.name.lower()
            return f"its weight is {found}, not float32 or float16"
        if tensor.size < self.min_elements:
            return f"its weight has {tensor.size} elements, fewer than min-elements"
        if use.weight.is_graph_output():
            return "its weight is also a graph output"
        return storage.why_not(tensor.numpy(), use.axes)


def _uses(model: ir.Model) -> Iterator[tuple[WeightUse, bool]]:
    for scope, _, in_function in graph.scopes(model):
        for node in scope:
            for use in storage.uses(node):
                yield use, in_function
