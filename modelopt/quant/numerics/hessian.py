"""The hessian of a product's squared error: the mean of x xᵀ over the calibration rows x of its input.

For y = W x the mean squared error of a changed W' is tr((W - W') H (W - W')ᵀ) with H = mean(x xᵀ). Memory is one
float32 matrix of K × K, whatever the number of samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from modelopt.calibration import subgraph_outputs
from modelopt.calibration.context import Context
from modelopt.core.errors import InputError

_GROUP_BYTES = 2**30


class Hessian:
    """Collects H of one activation, sample by sample.

    Attributes:
        width: K, the length of a row.
        rows: How many rows were added, those that hold NaN or infinities left out.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.rows = 0
        self._sum = np.zeros((width, width), np.float32)

    def observe(self, rows: np.ndarray) -> None:
        """Add rows.

        Args:
            rows: Any float dtype, shape ``(..., K)``: K is the axis that the product sums over.

        Raises:
            ValueError: The last axis is not K long.
        """
        if rows.ndim == 0 or rows.shape[-1] != self.width:
            raise ValueError(f"rows of shape {rows.shape} do not end in {self.width}")
        flat = np.asarray(rows.reshape(-1, self.width), np.float32)
        sums = flat.T @ flat
        if not np.isfinite(sums.trace()):
            flat = flat[np.isfinite(flat).all(axis=1)]
            sums = flat.T @ flat
        self._sum += sums
        self.rows += len(flat)

    def matrix(self) -> np.ndarray:
        """H: float64, shape ``(K, K)``, symmetric, positive semidefinite but for rounding; zeros without rows."""
        return np.asarray(self._sum, np.float64) / max(self.rows, 1)


def observe_inputs(model: ir.Model, widths: Mapping[str, int], ctx: Context) -> Iterator[dict[str, Hessian]]:
    """Hessians of activations over the calibration data, in groups that fit in memory together.

    Each group is one pass over the data; most models need one. An activation in a body that never runs, or that cannot
    be observed (see `subgraph_outputs`), keeps a hessian without rows.

    Args:
        model: The float model; it must not change before the last group is drawn.
        widths: The last dimension of each activation, by its name: values of any scope but functions.
        ctx: Lends the runner, the samples and the progress.

    Raises:
        InputError: There is no calibration data, or it is empty.
        Refused: onnxruntime does not load or run the model.
    """
    if ctx.calibration is None:
        raise InputError("gptq needs calibration data", hint="--calib data/, or --weight-method hqq, which needs none")
    if len(ctx.calibration) == 0:
        raise InputError("the calibration data holds no sample", hint="--calib data/ with at least one sample")
    groups = _groups(widths)
    for number, group in enumerate(groups, 1):
        found = {name: Hessian(widths[name]) for name in group}
        _observe(model, found, ctx, f"calibrating {number} of {len(groups)}" if len(groups) > 1 else "calibrating")
        yield found


def _groups(widths: Mapping[str, int]) -> list[list[str]]:
    groups: list[list[str]] = []
    free = 0
    for name, width in widths.items():
        size_bytes = 4 * width * width
        if size_bytes > free:
            groups.append([])
            free = _GROUP_BYTES
        groups[-1].append(name)
        free -= size_bytes
    return groups


def _observe(model: ir.Model, found: Mapping[str, Hessian], ctx: Context, what: str) -> None:
    given = {value.name for value in model.graph.inputs}
    shown = subgraph_outputs.expose(model, [name for name in found if name not in given])
    made = {name: shown.outputs[name] for name in found if name in shown.outputs}
    pending: deque[Mapping[str, np.ndarray]] = deque()

    def feeds() -> Iterator[Mapping[str, np.ndarray]]:
        for sample in ctx.calibration or ():
            pending.append(sample.feeds)
            yield sample.feeds

    runs: Iterator[list[np.ndarray]] = (
        ctx.runner.run(shown.model, feeds(), outputs=list(made.values())) if made else ([] for _ in feeds())
    )
    for done, arrays in enumerate(runs, 1):
        feed = pending.popleft()
        for name, array in zip(made, arrays, strict=True):
            found[name].observe(array.reshape(-1, found[name].width))  # values of bodies come flat
        for name in found.keys() & given:
            found[name].observe(feed[name])
        ctx.progress(what, done, len(ctx.calibration or ()))
