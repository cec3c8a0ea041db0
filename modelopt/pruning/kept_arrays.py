"""Arrays by name and sample, in files: they are needed again later, and would take much memory until then."""

from __future__ import annotations

from pathlib import Path

import numpy as np


class KeptArrays:
    """Arrays that are kept in a folder.

    Args:
        folder: An empty folder; who made it removes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._number: dict[str, int] = {}
        self._samples: dict[str, set[int]] = {}

    def put(self, name: str, index: int, array: np.ndarray) -> None:
        """Keep an array of any numeric dtype for a name and a sample."""
        number = self._number.setdefault(name, len(self._number))
        self._samples.setdefault(name, set()).add(index)
        with self._file(number, index).open("wb") as file:
            np.lib.format.write_array(file, array, allow_pickle=False)

    def get(self, name: str, index: int) -> np.ndarray:
        """The array of a name and a sample.

        Raises:
            KeyError: There is none.
        """
        with self._file(self._number[name], index).open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)

    def drop(self, name: str) -> None:
        """Remove the arrays of a name."""
        for index in self._samples.pop(name, set()):
            self._file(self._number[name], index).unlink(missing_ok=True)

    def __contains__(self, name: str) -> bool:
        """Whether there are arrays of a name."""
        return name in self._samples

    def _file(self, number: int, index: int) -> Path:
        return self._folder / f"{number}-{index}"
