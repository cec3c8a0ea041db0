"""How much each weight matters: one score for each element of a weight as (rows, k); the smallest become zero.

A row holds what one output sums over (`weights.reduction_rows`), so that column j meets the same input in every row.
"""

from __future__ import annotations

from enum import Enum

import numpy as np

from modelopt.pruning.input_moments import InputMoments
from modelopt.quant.numerics.gptq import inverse_factor


class ElementImportance(Enum):
    """What makes a weight w with input x matter.

    Attributes:
        MAGNITUDE: |w| (Han et al. 2015).
        WANDA: |w| · ‖x‖, the size of what it adds to the output (Sun et al. 2023, "A Simple and Effective Pruning
            Approach for Large Language Models", arXiv:2306.11695).
        SECOND_ORDER: w² / [H⁻¹]_jj with H = mean(x xᵀ), the least error of the output when it is zero and the others
            make up for it: Optimal Brain Surgeon (Hassibi and Stork 1993), as in SparseGPT (Frantar and Alistarh 2023,
            arXiv:2301.00774).
        STABILITY: As WANDA, and less where ‖x‖ differs from sample to sample.
        RANDOM: A number by the seed: the control that any other one should beat.
    """

    MAGNITUDE = "magnitude"
    WANDA = "wanda"
    SECOND_ORDER = "second-order"
    STABILITY = "stability"
    RANDOM = "random"

    @property
    def needs_data(self) -> bool:
        """Whether it depends on the inputs."""
        return self in {self.WANDA, self.SECOND_ORDER, self.STABILITY}


DAMPING = 0.01
"""Added to the diagonal of a Gram matrix, as a part of its mean: as in SparseGPT."""


def input_weights(kind: ElementImportance, moments: InputMoments, damping: float = DAMPING) -> np.ndarray:
    """What w² is multiplied by for each input, so that it is the square of what the output loses.

    Args:
        kind: One that needs data.
        moments: Of the inputs.
        damping: See `DAMPING`; of SECOND_ORDER.

    Returns:
        float64, shape ``(groups, k)``.
    """
    if kind is ElementImportance.SECOND_ORDER:
        return np.stack([_least_errors(gram, damping) for gram in moments.gram()])
    if kind is ElementImportance.STABILITY:
        return np.asarray(np.square(moments.stable_norms()))
    return np.asarray(np.square(moments.norms()))


def row_energies(rows: np.ndarray, moments: InputMoments, *, is_convolution: bool) -> np.ndarray:
    """What the squares of SECOND_ORDER are divided by for each output: float64, shape ``(rows,)``, 1 on average.

    It is the variance of the output on calibration data: behind a convolution stands a normalization, or what was
    folded of one, and the next layer sees each channel relative to how much it varies. Other operators often add to a
    sum with others, such as the residual stream of a transformer, where the plain error counts; for them it is the root
    of that (measured on trained models of both kinds).

    Args:
        rows: The weight, shape ``(rows, k)``.
        moments: Of its inputs, with Gram matrices.
        is_convolution: Whether the operator is Conv or ConvTranspose.
    """
    blocks = rows.astype(np.float64).reshape(moments.groups, -1, rows.shape[1])
    means = np.matmul(blocks, moments.mean()[:, :, None])[..., 0]
    variances = (np.matmul(blocks, moments.gram()) * blocks).sum(-1) - np.square(means)
    shares = variances.reshape(-1) / (variances.mean() or 1.0)
    shares = np.maximum(shares, _LEAST_SHARE)
    return np.asarray(shares if is_convolution else np.sqrt(shares))


_LEAST_SHARE = 1e-3  # of the mean variance: an output that hardly varies does not keep all of its weights


def scores(rows: np.ndarray, inputs: np.ndarray, energies: np.ndarray | None = None) -> np.ndarray:
    """Scores of a weight by its inputs.

    Args:
        rows: The weight, shape ``(rows, k)``.
        inputs: See `input_weights`.
        energies: See `row_energies`; None for 1.

    Returns:
        float64, shape ``(rows, k)``.
    """
    blocks = np.square(rows.astype(np.float64)).reshape(len(inputs), -1, rows.shape[1])
    squares = (blocks * inputs[:, None, :]).reshape(rows.shape)
    return np.asarray(squares if energies is None else squares / energies[:, None])


def _least_errors(gram: np.ndarray, damping: float) -> np.ndarray:
    """1 / [H⁻¹]_jj: what a weight of 1 at j costs at least, when the others make up for it."""
    if not np.trace(gram) > 0:
        return np.zeros(len(gram))
    return np.asarray(1 / np.square(inverse_factor(gram, damping)).sum(axis=0))
