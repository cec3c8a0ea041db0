"""Streaming second moments of the rows that weights are multiplied by, over the calibration samples.

Memory does not depend on the number of samples: a Gram matrix for each group, and two sums for each input.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Mapping

import numpy as np
import onnx_ir as ir

from modelopt.calibration.calibrate import MASK
from modelopt.calibration.context import Context
from modelopt.pruning.input_rows import InputRows

_POSITIONS = (64, 4096)  # rows taken of each sample: at least and at most
_ROWS_PER_INPUT = 64  # over all samples: so many rows for each input are taken as enough (a guess)


class InputMoments:
    """Sums over the rows x of one input.

    Attributes:
        groups: How many blocks of the weight's rows have inputs of their own.
        rows: How many rows were added.
        samples: How many samples gave a row.
    """

    def __init__(self, groups: int, width: int, *, with_gram: bool) -> None:
        self.groups = groups
        self.rows = 0
        self.samples = 0
        self._gram = np.zeros((groups, width, width), np.float32) if with_gram else None
        self._sums = np.zeros((groups, width))
        self._squares = np.zeros((groups, width))
        self._norms = np.zeros((groups, width))
        self._squared_norms = np.zeros((groups, width))

    def observe(self, rows: np.ndarray) -> None:
        """Add the rows of one sample.

        Args:
            rows: Any float dtype, shape ``(n, groups, k)``; rows with NaN, infinities or masks are left out.
        """
        wide = np.asarray(rows, np.float32)
        found = wide[(np.abs(wide) < MASK).all(axis=(1, 2))].transpose(1, 0, 2)
        count = found.shape[1]
        if not count:
            return
        squares = np.einsum("gnk,gnk->gk", found, found, dtype=np.float64)
        if self._gram is not None:
            self._gram += np.matmul(found.transpose(0, 2, 1), found)
        self._sums += found.sum(axis=1, dtype=np.float64)
        self._squares += squares
        self._norms += np.sqrt(squares / count)
        self._squared_norms += squares / count
        self.rows += count
        self.samples += 1

    def gram(self) -> np.ndarray:
        """The mean of x xᵀ: float64, shape ``(groups, k, k)``.

        Raises:
            ValueError: It was not collected.
        """
        if self._gram is None:
            raise ValueError("the Gram matrix was not collected")
        return self._gram.astype(np.float64) / max(self.rows, 1)

    def mean(self) -> np.ndarray:
        """The mean of x: float64, shape ``(groups, k)``."""
        return np.asarray(self._sums / max(self.rows, 1))

    def norms(self) -> np.ndarray:
        """The root of the mean of x² of each input: float64, shape ``(groups, k)``."""
        return np.asarray(np.sqrt(self._squares / max(self.rows, 1)))

    def stable_norms(self) -> np.ndarray:
        """The mean over samples of each input's norm, less where it differs from sample to sample: ``(groups, k)``.

        With m the mean of a sample's norms and v their variance this is m / √(1 + v/m²).
        """
        mean = self._norms / max(self.samples, 1)
        spread = np.sqrt(self._squared_norms / max(self.samples, 1))
        return np.asarray(np.divide(mean**2, spread, out=np.zeros_like(mean), where=spread > 0))


def observe(
    model: ir.Model, inputs: Collection[InputRows], ctx: Context, *, with_gram: bool
) -> Mapping[InputRows, InputMoments]:
    """The moments of `inputs` over the calibration samples, in one run of the model over them.

    Args:
        model: It is not changed.
        inputs: What to observe: values of the main graph.
        ctx: Lends the runner, the samples and the progress.
        with_gram: Whether to collect Gram matrices.

    Raises:
        Refused: onnxruntime does not load or run the model.
    """
    found = {each: InputMoments(each.groups, each.width, with_gram=with_gram) for each in inputs}
    given = {value.name for value in model.graph.inputs}
    made = sorted({each.name for each in found} - given)
    total = max(1, len(ctx.calibration or ()))
    pending: deque[Mapping[str, np.ndarray]] = deque()

    def feeds() -> Iterator[Mapping[str, np.ndarray]]:
        for sample in ctx.calibration or ():
            pending.append(sample.feeds)
            yield sample.feeds

    runs: Iterator[list[np.ndarray]] = ctx.runner.run(model, feeds(), outputs=made) if made else ([] for _ in feeds())
    for arrays in runs:
        seen = {**pending.popleft(), **dict(zip(made, arrays, strict=True))}
        for each, moments in found.items():
            most = int(np.clip(_ROWS_PER_INPUT * each.width // total, *_POSITIONS))
            moments.observe(each.of(seen[each.name], most))
    return found
