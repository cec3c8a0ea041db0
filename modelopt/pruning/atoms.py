"""Which positions on the axes of tensors belong together: if one of them is removed, all of them are.

An *atom* stands for such a set of positions. Each axis that may shrink has an array of labels, one atom a position. The
labels of the rows of a convolution's filters are those of the channels that it makes; a residual Add makes the atoms of
its two summands one; Concat joins label arrays, and Flatten repeats them. So index arithmetic of any kind is exact,
because it is done on label arrays, and no pattern of layers has to be recognised.
"""

from __future__ import annotations

import numpy as np

FIXED = -1
"""The label of a position that cannot be removed."""


class Atoms:
    """A union-find forest (Tarjan 1975) over atoms, with the reason why an atom must stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._why_kept: dict[int, str] = {}
        self._table: np.ndarray | None = None

    def new(self, count: int) -> np.ndarray:
        """Labels of `count` new atoms: int64, shape (count,)."""
        first = len(self._parent)
        self._parent.extend(range(first, first + count))
        self._table = None
        return np.arange(first, first + count)

    def root(self, atom: int) -> int:
        """The atom that stands for all that are one with `atom`."""
        parent = self._parent
        while parent[atom] != atom:
            parent[atom] = parent[parent[atom]]
            atom = parent[atom]
        return atom

    def roots(self, labels: np.ndarray) -> np.ndarray:
        """`root` of each label; `FIXED` stays. Same shape."""
        if self._table is None:  # its last entry is that of index -1
            self._table = np.array([*map(self.root, range(len(self._parent))), FIXED], np.int64)
        roots: np.ndarray = self._table[labels]
        return roots

    def unite(self, first: np.ndarray, second: np.ndarray, why_fixed: str) -> None:
        """Make atoms at the same positions of two label arrays of one length one; beside `FIXED` an atom must stay."""
        if first is second:
            return
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            if a == FIXED or b == FIXED:
                self._keep(max(a, b), why_fixed)
            else:
                self._unite(a, b)

    def unite_all(self, labels: np.ndarray, why_fixed: str) -> int:
        """Make all these atoms one and return it: what can only be removed as a whole. `FIXED` where one must stay."""
        if (labels == FIXED).any():
            self.keep(labels, why_fixed)
            return FIXED
        first = int(labels.flat[0])
        for atom in labels.flat[1:].tolist():
            self._unite(first, atom)
        return self.root(first)

    def keep(self, labels: np.ndarray, why: str) -> None:
        """Let these atoms stay, for a reason; the first reason of an atom counts."""
        for atom in np.unique(labels).tolist():
            self._keep(atom, why)

    def why_kept(self, atom: int) -> str | None:
        """Why an atom must stay; None where it may go."""
        return self._why_kept.get(self.root(atom))

    def _keep(self, atom: int, why: str) -> None:
        if atom != FIXED:
            self._why_kept.setdefault(self.root(atom), why)

    def _unite(self, a: int, b: int) -> None:
        a, b = self.root(a), self.root(b)
        if a == b:
            return
        self._table = None
        self._parent[b] = a
        why = self._why_kept.pop(b, None)
        if why is not None:
            self._why_kept.setdefault(a, why)
