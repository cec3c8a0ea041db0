"""The order in which blocks of a layer's inputs cost least, when the others take over what they can.

Minimized is Σ |Wᵀx - W'ᵀx|² over samples, for W' with zero rows in the blocks that are gone. With H = Σ x xᵀ a block c
costs tr(W_cᵀ ([H⁻¹]_cc)⁻¹ W_c). W and H⁻¹ then change as Gaussian elimination says (Hassibi and Stork 1993; for blocks
Kurtic et al. 2023, "ZipLM", arXiv:2302.04089).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_DAMPING = 1e-2
"""Of the mean of H's diagonal, added to it: with few samples H is singular."""

_STEPS = 48
"""Costs are computed so many times: between them the cheapest blocks go by the same costs."""


@dataclass(frozen=True)
class EliminatedLayer:
    """A layer that reads the blocks.

    Attributes:
        matrix: W, float64, shape (K, N).
        products: H, float64, shape (K, K).
        blocks: The rows of W of each block; they are disjoint.
    """

    matrix: np.ndarray
    products: np.ndarray
    blocks: Sequence[np.ndarray]


def elimination_costs(layers: Sequence[EliminatedLayer]) -> np.ndarray:
    """For each block how much error has come together when it goes, the cheapest going first.

    Args:
        layers: All that read the blocks, at least one; each has as many blocks.

    Returns:
        Float64, one number a block: sums over the layers of shares of the energy of their outputs, tr(Wᵀ H W). Sorting
        them gives the order.
    """
    states = [_Elimination(layer) for layer in layers]
    count = len(layers[0].blocks)
    left = list(range(count))
    spent, found = 0.0, np.zeros(count)
    at_once = max(1, count // _STEPS)
    while left:
        costs = np.sum([state.costs(left) for state in states], 0)
        order = np.argsort(costs, kind="stable")[:at_once]
        for place in order.tolist():
            spent += max(float(costs[place]), np.finfo(np.float64).tiny)
            found[left[place]] = spent
        gone = [left[place] for place in order.tolist()]
        left = sorted(set(left) - set(gone))
        if left:
            for state in states:
                state.remove(gone)
    return found


class _Elimination:
    """One layer while blocks go."""

    def __init__(self, layer: EliminatedLayer) -> None:
        self._blocks = layer.blocks
        self._matrix = layer.matrix.copy()
        products = layer.products
        self._energy = float(np.sum(self._matrix * (products @ self._matrix))) or 1.0
        scale = float(np.trace(products)) / len(products) or 1.0
        self._inverse = np.linalg.inv(products + _DAMPING * scale * np.eye(len(products)))

    def costs(self, left: Sequence[int]) -> np.ndarray:
        """What each of these blocks costs now, as a share of the energy."""
        costs = np.zeros(len(left))
        sizes = np.array([len(self._blocks[index]) for index in left])
        for size in np.unique(sizes).tolist():  # nearly always one
            chosen = np.flatnonzero(sizes == size)
            blocks = np.stack([self._blocks[left[place]] for place in chosen.tolist()])
            rows = self._matrix[blocks]
            own = self._inverse[blocks[:, :, None], blocks[:, None]]
            costs[chosen] = np.sum(rows * np.linalg.solve(own, rows), (1, 2))
        return costs / self._energy

    def remove(self, gone: Sequence[int]) -> None:
        """Let the others take over what these blocks did; theirs are zero afterwards, with a unit diagonal."""
        block = np.concatenate([self._blocks[index] for index in gone])
        columns = self._inverse[:, block]
        factor = np.linalg.solve(self._inverse[np.ix_(block, block)], columns.T).T
        self._matrix -= factor @ self._matrix[block]
        self._inverse -= factor @ columns.T
        self._inverse[block, :] = 0
        self._inverse[:, block] = 0
        self._inverse[block, block] = 1
        self._matrix[block] = 0
