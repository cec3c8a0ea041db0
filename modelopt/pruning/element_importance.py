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


def scores(kind: ElementImportance, rows: np.ndarray, moments: InputMoments, damping: float = DAMPING) -> np.ndarray:
    """Scores of a weight by its inputs.

    Args:
        kind: One that needs data.
        rows: The weight, shape ``(rows, k)``.
        moments: Of its inputs, with as many groups as blocks of rows.
        damping: See `DAMPING`; of SECOND_ORDER.

    Returns:
        float64, shape ``(rows, k)``: squares of what the output loses.
    """
    blocks = np.square(rows.astype(np.float64)).reshape(moments.groups, -1, rows.shape[1])
    return np.asarray((blocks * _input_weights(kind, moments, damping)[:, None, :]).reshape(rows.shape))


def _input_weights(kind: ElementImportance, moments: InputMoments, damping: float) -> np.ndarray:
    """What w² is multiplied by for each input: shape ``(groups, k)``."""
    if kind is ElementImportance.SECOND_ORDER:
        return np.stack([_least_errors(gram, damping) for gram in moments.gram()])
    if kind is ElementImportance.STABILITY:
        return np.asarray(np.square(moments.stable_norms()))
    return np.asarray(np.square(moments.norms()))


def _least_errors(gram: np.ndarray, damping: float) -> np.ndarray:
    """1 / [H⁻¹]_jj: what a weight of 1 at j costs at least, when the others make up for it."""
    if not np.trace(gram) > 0:
        return np.zeros(len(gram))
    return np.asarray(1 / np.square(inverse_factor(gram, damping)).sum(axis=0))
