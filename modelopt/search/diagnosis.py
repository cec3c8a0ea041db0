"""Why a kernel costs accuracy in integers, read from what its input holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import Refused, WorkerDied
from modelopt.core.runner import Runner
from modelopt.data import Dataset

SAMPLES = 8
"""How many samples of each data set are looked at: a guess."""

# From these factors on, all of them guesses, a cause is named:
_MISMATCH = 1.5  # the largest value in evaluation, over that in calibration
_WIDE = 8.0  # the widest range of a Concat's parts, over the narrowest
_OUTLIER_CHANNEL = 8.0  # the largest value, over that of the median channel
_OUTLIERS = 4.0  # the largest value, over the 99.9 % quantile


def causes(
    model: ir.Model, nodes: Sequence[str], runner: Runner, calibration: Dataset | None, evaluation: Dataset | None
) -> dict[str, str]:
    """A cause by node name, for the nodes where one is found.

    Args:
        model: The float model.
        nodes: Names of kernels of its main graph.
        runner: Runs it.
        calibration: What ranges were taken from.
        evaluation: What accuracy was measured on.
    """
    wanted = {graph.name_of(node): node for node in model.graph if graph.name_of(node) in set(nodes)}
    inputs = {name: node.inputs[0] for name, node in wanted.items() if node.inputs and node.inputs[0] is not None}
    concats = {name: _concat_before(value) for name, value in inputs.items()}
    parts = [part for concat in concats.values() if concat is not None for part in concat.inputs if part is not None]
    names = sorted({value.name or "" for value in (*inputs.values(), *parts) if graph.constant_tensor(value) is None})
    try:
        calibrated = _observe(model, names, runner, calibration)
        evaluated = _observe(model, names, runner, evaluation)
    except (Refused, WorkerDied):
        return {}
    found = {}
    for name, value in inputs.items():
        key = value.name or ""
        concat = concats[name]
        parts_of = [] if concat is None else [part.name or "" for part in concat.inputs if part is not None]
        ranges = [_largest(calibrated[part]) for part in parts_of if part in calibrated]
        cause = _cause(
            calibrated.get(key, []), evaluated.get(key, []), ranges, last_axis=wanted[name].op_type != "Conv"
        )
        if cause is not None:
            found[name] = cause
    return found


def _observe(
    model: ir.Model, names: Sequence[str], runner: Runner, dataset: Dataset | None
) -> Mapping[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    if dataset is None or not names:
        return found
    feeds = (sample.feeds for sample in islice(dataset, SAMPLES))
    for arrays in runner.run(model, feeds, outputs=names):
        for name, array in zip(names, arrays, strict=True):
            found[name].append(np.abs(array[np.newaxis] if array.ndim == 0 else array))
    return found


def _cause(
    calibrated: Sequence[np.ndarray], evaluated: Sequence[np.ndarray], ranges: Sequence[float], *, last_axis: bool
) -> str | None:
    """What the magnitudes of a kernel's input say; `ranges` are those of the parts where a Concat makes it."""
    if not calibrated:
        return None
    largest = _largest(calibrated)
    if largest == 0:
        return "dead tensor: its input is zero in calibration"
    if _largest(evaluated) > _MISMATCH * largest:
        return f"data mismatch: evaluation reaches {_largest(evaluated) / largest:.1f} times the calibrated range"
    live = [each for each in ranges if each > 0]
    if live and max(live) > _WIDE * min(live):
        return f"wide concat: its parts' ranges differ {max(live) / min(live):.0f} times"
    channels = _channel_maxima(calibrated, last_axis=last_axis)
    middle = float(np.median(channels))
    if channels.size > 1 and middle > 0 and largest > _OUTLIER_CHANNEL * middle:
        return f"outlier channel: one reaches {largest / middle:.0f} times the median channel"
    most = float(np.quantile(np.concatenate([array.ravel() for array in calibrated]), 0.999))
    if most > 0 and largest > _OUTLIERS * most:
        return f"saturation: the range is {largest / most:.0f} times that of 99.9 % of the values"
    return None


def _largest(arrays: Sequence[np.ndarray]) -> float:
    return max((float(array.max(initial=0.0)) for array in arrays), default=0.0)


def _channel_maxima(arrays: Sequence[np.ndarray], *, last_axis: bool) -> np.ndarray:
    """The largest magnitude of each channel: axis 1 for convolutions, the last one for matrix products."""
    axis = -1 if last_axis or arrays[0].ndim < 2 else 1
    moved = [np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1) for array in arrays]
    return np.asarray(np.max([array.max(axis=1, initial=0.0) for array in moved], axis=0))


def _concat_before(value: ir.Value) -> ir.Node | None:
    producer = value.producer()
    return producer if producer is not None and graph.is_standard(producer, "Concat") else None
