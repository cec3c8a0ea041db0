"""How much the rounding of a model's own arithmetic moves its outputs: what an exact rewrite may move them by.

A rewrite that is exact rounds weights anew and sums in another order. So does running the original without
onnxruntime's fusions, or with feeds or weights that are one rounding away. What that does to an output depends on
the model: most keep seven digits, one that takes logarithms of spectra keeps four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph, serial
from modelopt.measure.closeness import FLOOR, NOISIEST, Tolerance, distance

FACTOR = 8.0
"""How many times the noise that was seen still counts as rounding: few feeds show less than the worst."""

_SMALLEST_WEIGHT = 8  # below are sizes, scales and bounds, which an ulp may turn into another shape
_STEPS = frozenset({"QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "QLinearConv", "QLinearMatMul"})

Outputs = Sequence[Sequence[np.ndarray]]
"""For each feed the outputs in order."""


def is_smooth(model: ir.Model) -> bool:
    """Whether the model computes in float32 throughout: rounding to few bits moves outputs in rare large steps."""
    for node in graph.all_nodes(model):
        if node.op_type in _STEPS:
            return False
        if node.op_type == "Cast" and _is_coarse(ir.DataType(graph.attribute_int(node, "to", ir.DataType.FLOAT))):
            return False
    return not any(_is_coarse(tensor.dtype) for _, tensor in graph.tensors(model))


def _is_coarse(dtype: ir.DataType) -> bool:
    return dtype.is_floating_point() and dtype.bitwidth < 32


def nudged_feeds(feeds: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The feeds with every float one rounding step up, down, or where it is."""
    return {name: _nudged(array, rng) if array.dtype == np.float32 else array for name, array in feeds.items()}


def nudge_weights(model: ir.Model, rng: np.random.Generator) -> None:
    """Move every float32 weight by a rounding step at most, in place."""
    for slot in serial.slots(model):
        if slot.tensor.dtype == ir.DataType.FLOAT and slot.tensor.size >= _SMALLEST_WEIGHT:
            slot.set(ir.tensor(_nudged(slot.tensor.numpy(), rng), name=slot.tensor.name))


def _nudged(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steps = rng.integers(-1, 2, size=array.shape, dtype=np.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.where(np.isfinite(array), array + steps * np.spacing(array), array)
    return np.asarray(moved, array.dtype)


def tolerances(reference: Outputs, variants: Sequence[Outputs]) -> list[Tolerance]:
    """One tolerance for each output: `FACTOR` times its noise, at least `FLOOR` and at most `NOISIEST`.

    Args:
        reference: The original's outputs.
        variants: Its outputs under changes that only rounding makes.
    """
    found = [FLOOR] * len(reference[0])
    for variant in variants:
        for before, after in zip(reference, variant, strict=True):
            found = [_wider(known, *distance(a, b)) for known, a, b in zip(found, before, after, strict=True)]
    return found


def _wider(known: Tolerance, of_scale: float, of_rms: float) -> Tolerance:
    return Tolerance(
        of_scale=min(NOISIEST.of_scale, max(known.of_scale, FACTOR * of_scale)),
        of_rms=min(NOISIEST.of_rms, max(known.of_rms, FACTOR * of_rms)),
        of_zero=known.of_zero,
    )
