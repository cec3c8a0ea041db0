"""Ridge regression from streaming sums of products, with a damping that is chosen on samples that it was not fitted to.

Fitted is a correction: the D that makes inputs · D + d closest to what is missing from the outputs,

    D = (G + damping · I)⁻¹ M        G = Σ x xᵀ, M = Σ x rᵀ, both about the means where there is an intercept

(Hoerl and Kennard 1970). Samples are dealt to folds; each damping is judged by the squared error on every fold of what
is fitted to the other folds (Stone 1974). No correction at all is among the candidates, and wins ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FOLDS = 4
"""Sums are kept apart for so many parts of the samples."""

_DAMPINGS = tuple(float(step) for step in np.geomspace(1e-6, 1e2, 17))
"""Candidates, as multiples of the mean of G's diagonal."""

_LARGE = 1024
"""From so many inputs on only one fold judges, and a few dampings are tried: a factorization takes long."""

_FEW_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Correction:
    """What to add to a layer.

    Attributes:
        matrix: To its matrix: float64, shape (K, N).
        bias: To its bias: float64, shape (N,); zeros without an intercept.
        damping: The damping that was chosen, as a multiple of the mean of the diagonal.
        gain: The share of the squared error on samples that were not fitted to which it removes: 0 to 1.
    """

    matrix: np.ndarray
    bias: np.ndarray
    damping: float
    gain: float


class ResidualSums:
    """Sums over rows of inputs x (K,) and of what is missing from the outputs r (N,), by folds: memory is flat in rows.

    Attributes:
        width: K.
        made: N.
    """

    def __init__(self, width: int, made: int) -> None:
        self.width = width
        self.made = made
        size = width + made + 1
        self._sums = np.zeros((FOLDS, width + 1, size))
        self._squares = np.zeros((FOLDS, made))

    def observe(self, inputs: np.ndarray, missing: np.ndarray, fold: int) -> None:
        """Add rows: `inputs` (rows, K) and `missing` (rows, N), any float dtype; rows with NaN are left out."""
        rows = np.concatenate([inputs, np.ones((len(inputs), 1), inputs.dtype), missing], 1).astype(np.float64)
        good = np.isfinite(rows).all(1)
        if not good.all():
            rows = rows[good]
        self._sums[fold % FOLDS] += rows[:, : self.width + 1].T @ rows
        self._squares[fold % FOLDS] += np.square(rows[:, self.width + 1 :]).sum(0)

    @property
    def rows(self) -> int:
        """How many rows were added."""
        return int(self._sums[:, self.width, self.width].sum())

    def correction(self, *, intercept: bool) -> Correction | None:
        """The best correction; None where none is better than nothing on rows that it was not fitted to."""
        filled = [fold for fold in range(FOLDS) if self._sums[fold, self.width, self.width]]
        if len(filled) < 2:
            return None
        judged = filled[-1:] if self.width > _LARGE else filled
        dampings = _FEW_DAMPINGS if self.width > _LARGE else _DAMPINGS
        total = self._sums.sum(0)
        errors = np.zeros(len(dampings))
        only_bias = nothing = 0.0
        for fold in judged:
            train = _Normal(total - self._sums[fold], self.width, intercept=intercept)
            nothing += float(self._squares[fold].sum())
            only_bias += self._error(fold, np.zeros((self.width, self.made)), train.missing_mean)
            for index, matrix in enumerate(train.solutions(dampings)):
                errors[index] += self._error(fold, matrix, train.bias(matrix))
        whole = _Normal(total, self.width, intercept=intercept)
        best = int(np.argmin(errors))
        if errors[best] < min(only_bias, nothing):
            matrix = next(iter(whole.solutions(dampings[best : best + 1])))
            return Correction(matrix, whole.bias(matrix), dampings[best], 1 - errors[best] / nothing)
        if only_bias < nothing:
            matrix = np.zeros((self.width, self.made))
            return Correction(matrix, whole.missing_mean, np.inf, 1 - only_bias / nothing)
        return None

    def _error(self, fold: int, matrix: np.ndarray, bias: np.ndarray) -> float:
        """The squared error on a fold, Σ |r - Dᵀx - d|²."""
        full = np.vstack([matrix, bias])
        sums = self._sums[fold]
        products, missing = sums[:, : self.width + 1], sums[:, self.width + 1 :]
        return float(self._squares[fold].sum() + np.sum(full * (products @ full)) - 2 * np.sum(full * missing))


class _Normal:
    """The normal equations of one set of sums."""

    def __init__(self, sums: np.ndarray, width: int, *, intercept: bool) -> None:
        count = max(sums[width, width], 1.0)
        self._mean = sums[width, :width] / count
        self.missing_mean = sums[width, width + 1 :] / count
        if not intercept:
            self._mean, self.missing_mean = np.zeros_like(self._mean), np.zeros_like(self.missing_mean)
        self._products = sums[:width, :width] - count * np.outer(self._mean, self._mean)
        self._mixed = sums[:width, width + 1 :] - count * np.outer(self._mean, self.missing_mean)
        self._scale = max(float(np.trace(self._products)) / width, np.finfo(np.float64).tiny)

    def bias(self, matrix: np.ndarray) -> np.ndarray:
        """The intercept that goes with a matrix."""
        return np.asarray(self.missing_mean - self._mean @ matrix)

    def solutions(self, dampings: tuple[float, ...]) -> list[np.ndarray]:
        """For each damping the matrix."""
        if len(dampings) > len(_FEW_DAMPINGS):
            values, vectors = np.linalg.eigh(self._products)
            values, turned = np.maximum(values, 0), vectors.T @ self._mixed
            return [vectors @ (turned / (values + damping * self._scale)[:, None]) for damping in dampings]
        eye = np.eye(len(self._products)) * self._scale
        return [np.linalg.solve(self._products + damping * eye, self._mixed) for damping in dampings]
