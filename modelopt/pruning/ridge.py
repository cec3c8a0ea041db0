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
"""Sums are kept apart for so many parts of the samples; with many inputs for two, because they take memory."""

_DAMPINGS = tuple(float(step) for step in np.geomspace(1e-6, 1e2, 9))
"""Candidates, as multiples of the mean of G's diagonal."""

_LARGE = 256
"""From so many inputs on only one fold judges, and a few dampings are tried: a factorization takes long."""

_FEW_DAMPINGS = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Correction:
    """What to add to a layer.

    Attributes:
        matrix: To its matrix: float64, shape (groups, K, N).
        bias: To its bias: float64, shape (groups, N); zeros without an intercept.
    """

    matrix: np.ndarray
    bias: np.ndarray


class ResidualSums:
    """Sums over rows of inputs x (K,) and of what is missing from the outputs r (N,), by folds: memory is flat in rows.

    Groups of channels are fitted each by itself.

    Attributes:
        groups: How many groups.
        width: K.
        made: N.
    """

    def __init__(self, groups: int, width: int, made: int) -> None:
        self.groups = groups
        self.width = width
        self.made = made
        self._folds = 2 if width > _LARGE else FOLDS
        self._sums = np.zeros((0, 0, 0, 0))  # the large arrays are made for the first rows
        self._squares = np.zeros((0, 0, 0))

    def observe(self, inputs: np.ndarray, missing: np.ndarray, fold: int) -> None:
        """Add rows; those with NaN or infinities are left out.

        Args:
            inputs: Any float dtype, shape (rows, groups, K).
            missing: Shape (rows, groups, N).
            fold: The number of the sample.
        """
        if not len(self._sums):
            self._sums = np.zeros((self._folds, self.groups, self.width + 1, self.width + 1 + self.made))
            self._squares = np.zeros((self._folds, self.groups, self.made))
        ones = np.ones((*inputs.shape[:2], 1), inputs.dtype)
        rows = np.concatenate([inputs, ones, missing], 2).astype(np.float64)
        good = np.isfinite(rows).all((1, 2))
        if not good.all():
            rows = rows[good]
        by_group = np.swapaxes(rows, 0, 1)
        fold %= len(self._sums)
        self._sums[fold] += np.swapaxes(by_group[..., : self.width + 1], 1, 2) @ by_group
        self._squares[fold] += np.square(rows[..., self.width + 1 :]).sum(0)

    def correction(self, *, intercept: bool) -> Correction | None:
        """The best correction, which is zero for groups that are best left alone; None where all are."""
        filled = [fold for fold in range(len(self._sums)) if self._sums[fold, 0, self.width, self.width]]
        if len(filled) < 2:
            return None
        judged = filled[-1:] if self.width > _LARGE else filled
        dampings = _FEW_DAMPINGS if self.width > _LARGE else _DAMPINGS
        total = self._sums.sum(0)
        errors = np.zeros((len(dampings) + 1, self.groups))  # the last is a bias alone
        nothing = self._squares[judged].sum((0, 2))
        no_matrix = np.zeros((self.groups, self.width, self.made))
        for fold in judged:
            train = _Normal(total - self._sums[fold], self.width, intercept=intercept)
            for index, matrix in enumerate((*train.solutions(dampings), no_matrix)):
                errors[index] += self._error(fold, matrix, train.bias(matrix))
        whole = _Normal(total, self.width, intercept=intercept)
        best = np.where(errors.min(0) < nothing, np.argmin(errors, 0), len(dampings) + 1)
        if (best > len(dampings)).all():
            return None
        matrix = no_matrix.copy()
        for index in np.unique(best[best < len(dampings)]).tolist():
            chosen = best == index
            matrix[chosen] = next(iter(whole.solutions(dampings[index : index + 1])))[chosen]
        bias = whole.bias(matrix) * (best <= len(dampings))[:, None]
        return Correction(matrix, bias)

    def _error(self, fold: int, matrix: np.ndarray, bias: np.ndarray) -> np.ndarray:
        """The squared error of each group on a fold, Σ |r - Dᵀx - d|²: shape (groups,)."""
        full = np.concatenate([matrix, bias[:, None]], 1)
        products, missing = np.split(self._sums[fold], [self.width + 1], 2)
        return np.asarray(self._squares[fold].sum(1) + np.sum(full * (products @ full - 2 * missing), (1, 2)))


class _Normal:
    """The normal equations of one set of sums, shape (groups, K + 1, K + 1 + N)."""

    def __init__(self, sums: np.ndarray, width: int, *, intercept: bool) -> None:
        count = max(float(sums[0, width, width]), 1.0)
        self._mean = sums[:, width, :width] / count
        self._missing_mean = sums[:, width, width + 1 :] / count
        if not intercept:
            self._mean, self._missing_mean = np.zeros_like(self._mean), np.zeros_like(self._missing_mean)
        self._products = sums[:, :width, :width] - count * self._mean[:, :, None] * self._mean[:, None]
        self._mixed = sums[:, :width, width + 1 :] - count * self._mean[:, :, None] * self._missing_mean[:, None]
        self._scale = np.maximum(np.trace(self._products, axis1=1, axis2=2) / width, np.finfo(np.float64).tiny)

    def bias(self, matrix: np.ndarray) -> np.ndarray:
        """The intercept that goes with a matrix: shape (groups, N)."""
        return np.asarray(self._missing_mean - (self._mean[:, None] @ matrix)[:, 0])

    def solutions(self, dampings: tuple[float, ...]) -> list[np.ndarray]:
        """For each damping the matrix."""
        if len(dampings) > len(_FEW_DAMPINGS):
            values, vectors = np.linalg.eigh(self._products)
            turned = np.swapaxes(vectors, 1, 2) @ self._mixed
            damped = [np.maximum(values, 0) + damping * self._scale[:, None] for damping in dampings]
            return [vectors @ (turned / each[:, :, None]) for each in damped]
        eye = np.eye(self._products.shape[1]) * self._scale[:, None, None]
        return [np.linalg.solve(self._products + damping * eye, self._mixed) for damping in dampings]
