"""The rounding noise of a model's own arithmetic: an exact rewrite may change outputs by as much.

An exact rewrite rounds weights again and sums in another order. The original does the same when it runs without
onnxruntime's fusions, or with feeds or weights that differ by one rounding step. The effect depends on the model: most
outputs keep seven digits, those of a model that takes logarithms of spectra keep four.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt.io.tensor_slots import slots
from modelopt.measure.precision import Precision
from modelopt.measure.tolerance import NOISIEST, Tolerance, distance

FACTOR = 8.0
"""Differences up to so many times the measured noise count as rounding, because a few feeds do not show the worst."""

_SMALLEST_WEIGHT = 8  # smaller ones hold sizes, scales and bounds, where one rounding step may change a shape

Outputs = Sequence[Sequence[np.ndarray]]
"""For each feed the outputs in order."""


def nudged_feeds(feeds: Mapping[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """The feeds with each float moved by one rounding step up or down, or not moved.

    Inputs of zeros move by the rounding step of 1: the sums inside a model round at the scale of its weights.
    """
    return {name: _nudged_feed(array, rng) if array.dtype == np.float32 else array for name, array in feeds.items()}


def _nudged_feed(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if array.any():
        return _nudged(array, rng)
    return np.asarray(rng.integers(-1, 2, size=array.shape) * np.finfo(array.dtype).eps, array.dtype)


def nudge_weights(model: ir.Model, rng: np.random.Generator) -> None:
    """Move every float32 weight by a rounding step at most, in place."""
    for slot in slots(model):
        if slot.tensor.dtype == ir.DataType.FLOAT and slot.tensor.size >= _SMALLEST_WEIGHT:
            slot.set(ir.tensor(_nudged(slot.tensor.numpy(), rng), name=slot.tensor.name))


def _nudged(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    steps = rng.integers(-1, 2, size=array.shape, dtype=np.int8)
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.where(np.isfinite(array), array + steps * np.spacing(array), array)
    return np.asarray(moved, array.dtype)


def tolerances(reference: Outputs, variants: Sequence[Outputs], precisions: Sequence[Precision]) -> list[Tolerance]:
    """One tolerance for each output: `FACTOR` times its noise, at least that of its precision, at most `NOISIEST`.

    Where integers or half precision compute the noise is not used: rounding changes few values there, by large steps.

    Args:
        reference: The original's outputs for some feeds.
        variants: Its outputs for the same feeds under changes that only rounding makes.
        precisions: The precision of each output.
    """
    found = [precision.tolerance for precision in precisions]
    for variant in variants:
        for before, after in zip(reference, variant, strict=True):
            found = [
                _wider(known, *distance(a, b)) if precision.has_noise else known
                for known, precision, a, b in zip(found, precisions, before, after, strict=True)
            ]
    return found


def _wider(known: Tolerance, of_scale: float, of_rms: float) -> Tolerance:
    return Tolerance(
        of_scale=min(NOISIEST.of_scale, max(known.of_scale, FACTOR * of_scale)),
        of_rms=min(NOISIEST.of_rms, max(known.of_rms, FACTOR * of_rms)),
        of_zero=known.of_zero,
    )
