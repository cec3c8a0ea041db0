"""One file of a data set of arrays: what is in it, and how it is cut into samples."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.data.arrayfile import Header, NpyFile, NpzFile
from modelopt.data.batches import Cut, CutPlan


@dataclass(frozen=True)
class ArrayPart:
    """One file of the data set, or arrays in memory: where its arrays are and how they are cut.

    ``arrays`` is None where they are in the file ``path``; ``label_key`` is None where the file holds no labels;
    ``first`` is its first sample's position in the data set, ``first_row`` the position of its first row among all
    rows.
    """

    path: Path
    arrays: Mapping[str, np.ndarray] | None
    headers: Mapping[str, Header]
    plan: CutPlan
    label_key: str | None
    label_cut: Cut
    notes: tuple[str, ...]
    first: int = 0
    first_row: int = 0

    @property
    def name(self) -> str:
        """The file's name, without its folder."""
        return self.path.name

    @property
    def n_bytes(self) -> int:
        """The size of all its arrays, as their headers say."""
        return sum(math.prod(header.shape) * header.dtype.itemsize for header in self.headers.values())

    def sample_name(self, index: int) -> str:
        """What reports call the sample at this position of the file."""
        return self.name if self.plan.count == 1 else f"{self.name}[{index}]"

    def load(self) -> Mapping[str, np.ndarray]:
        """The arrays of its file, in memory or mapped, by name.

        Raises:
            InputError: The file cannot be read, or is not what it was.
        """
        keys = [*self.plan.cuts, *([self.label_key] if self.label_key else [])]
        if self.path.suffix.lower() == ".npz":
            arrays = NpzFile(self.path).load(keys)
        else:
            arrays = {keys[0]: NpyFile(self.path).load()}
        for key, array in arrays.items():
            if (array.shape, array.dtype) != (self.headers[key].shape, self.headers[key].dtype):
                raise InputError(f"{self.path} changed while it was being read")
        return arrays
