"""Small models as ONNX text, with random weights and what the analysis is to find in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.io import serialize

RNG = np.random.default_rng(0)

HEADER = '<ir_version: 10, opset_import: ["" : 23, "com.microsoft" : 1]>\n'


@dataclass(frozen=True)
class Layer:
    """A model, and what is to be found in it.

    Attributes:
        text: Inputs, outputs and nodes as ONNX text; weights are drawn.
        weights: Their shapes.
        widths: The widths of the groups, in order.
        reason: What a refusal says, where there is one.
    """

    text: str
    weights: dict[str, tuple[int, ...]]
    widths: tuple[int, ...]
    reason: str = ""

    def model(self) -> ir.Model:
        """The model, with random weights."""
        model = ir.from_onnx_text(HEADER + self.text)
        for name, shape in self.weights.items():
            graph.set_constant(model.graph.initializers[name], RNG.normal(size=shape).astype(np.float32))
        return serialize.from_bytes(serialize.to_bytes(model))


def layer(
    body: str,
    widths: tuple[int, ...],
    reason: str = "",
    *,
    x: str = "N, 4, 4, 4",
    more: str = "",
    **weights: tuple[int, ...],
) -> Layer:
    """A model of an input x and an output y; `more` holds constants."""
    stored = [f"float{list(shape)} {name} = {{{', '.join('0' * math.prod(shape))}}}" for name, shape in weights.items()]
    head = f"g (float[{x}] x) => (float[] y) <{', '.join([*stored, *([more] if more else [])])}>"
    return Layer(f"{head} {{ {body} }}", weights, widths, reason)


SEQUENCE = "N, T, 4"
"""The shape of an input: a batch, steps, and what a step holds."""
