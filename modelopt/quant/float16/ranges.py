"""Which numbers half precision cannot hold: those of constants, and those of activations on calibration samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.cache import Calibrations, key_of
from modelopt.calibration.calibrate import MASK, collect
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import Collector
from modelopt.quant.float16.operator_types import HalfType


@dataclass(frozen=True)
class Extent:
    """How large the finite numbers of a tensor are, without masks.

    Attributes:
        largest: The largest magnitude; 0 when there is none.
        nan: Whether it held NaN.
    """

    largest: float
    nan: bool


@dataclass(frozen=True)
class ObservedRanges:
    """What the samples showed.

    Attributes:
        extents: By the name of each value that was made in some sample.
        samples: How many were run.
    """

    extents: Mapping[str, Extent]
    samples: int


def observe(model: ir.Model, names: Sequence[str], ctx: Context) -> ObservedRanges:
    """The extents of values, those in bodies included, over all calibration samples; see `calibrate.collect`.

    Raises:
        InputError: The calibration data are empty.
        Refused: onnxruntime does not load or run the model.
    """
    if ctx.calibration is None:
        return ObservedRanges({}, 0)
    memory = ctx.calibrations or Calibrations()
    samples = collect(model, names, replace(ctx, calibrations=memory), bins=1).samples
    known = memory.known(key_of(model, ctx.calibration), 1)
    found = {name: extent(known[name].collector) for name in names}
    return ObservedRanges({name: one for name, one in found.items() if one is not None}, samples)


def extent(seen: Collector | None) -> Extent | None:
    """The extent of what was counted; None where nothing was."""
    if seen is None or not seen.finite:
        return None
    usual = [abs(one) for one in (seen.low, seen.high) if abs(one) < MASK]
    return Extent(max(usual, default=0.0), nan=seen.nan > 0)


def why_not_value(name: str, seen: Extent, half: HalfType, limit: float) -> str | None:
    """Why an activation stays in float32, as a clause: it is larger than `limit`, or too small; else None."""
    if seen.nan:
        return f"{name} held NaN in calibration"
    if seen.largest > limit:
        return f"{name} reaches {seen.largest:.3g}, and {half.title} ends at {half.largest:.5g}"
    if 0 < seen.largest < half.smallest:
        return f"{name} never exceeds {seen.largest:.3g}, where {half.title} loses its precision"
    return None


@dataclass(frozen=True)
class Constant:
    """What converting a float32 constant does to it.

    Attributes:
        beyond: How many of its finite numbers the type cannot hold.
        only_masks: All of those are masks: 1e30 and more in magnitude.
        only_negative: All of those are negative.
        largest: Its largest finite magnitude.
        vanishes: It is a single number, and becomes 0.
    """

    beyond: int
    only_masks: bool
    only_negative: bool
    largest: float
    vanishes: bool


def judge(value: ir.Value, half: HalfType) -> Constant:
    """What converting a constant would do to it; nothing for a value that is not constant."""
    array = graph.constant(value)
    if array is None or not array.size:
        return Constant(0, only_masks=True, only_negative=True, largest=0.0, vanishes=False)
    low, high = float(array.min()), float(array.max())
    if max(-low, high) <= half.largest:
        vanishes = array.size == 1 and low != 0 and float(array.astype(half.dtype).reshape(())) == 0
        return Constant(0, only_masks=True, only_negative=True, largest=max(-low, high), vanishes=vanishes)
    finite = array[np.isfinite(array)]
    over = finite[np.abs(finite) > half.largest]
    return Constant(
        beyond=int(over.size),
        only_masks=bool((np.abs(over) >= MASK).all()),
        only_negative=bool((over < 0).all()),
        largest=float(np.abs(finite).max()) if finite.size else 0.0,
        vanishes=False,
    )


def converted(array: np.ndarray, half: HalfType, clamp: float) -> tuple[np.ndarray, int, int]:
    """A float32 array in the half type, rounded to nearest.

    Args:
        array: Of any shape.
        half: The type.
        clamp: The magnitude that replaces finite numbers beyond the type's range.

    Returns:
        The array, how many numbers were clamped, and how many became 0.
    """
    clamped = 0
    if array.size and not max(-float(array.min()), float(array.max())) <= half.largest:  # NaN and infinities too
        over = np.isfinite(array) & (np.abs(array) > half.largest)
        clamped = int(np.count_nonzero(over))
        array = np.where(over, np.copysign(np.float32(clamp), array), array)
    narrow = np.asarray(array, np.float32).astype(half.dtype)
    return narrow, clamped, int(np.count_nonzero(array) - np.count_nonzero(narrow))
