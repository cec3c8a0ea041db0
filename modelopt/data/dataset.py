"""What feeds a model: one sample, and a restartable stream of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sample:
    """One call of the model.

    Attributes:
        feeds: Exactly the model's inputs, by name. Each array is C-contiguous, in native byte order, owned by the
            sample, and of the input's dtype and rank; a scalar is a 0-d array, a string tensor an object array of str.
        label: What is known to be true of this sample, or None. Where the sample is a slice of a batch, one row per
            row of the slice.
        name: Where it came from (``calib.npz[17]``, ``cat/003.png``), for error messages.
        rows: How many samples of a batch it is a slice of; None where that is not known.
    """

    feeds: dict[str, np.ndarray]
    label: np.ndarray | None
    name: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset(ABC):
    """Samples in a fixed order, read when asked for: memory is flat in their number.

    Attributes:
        source: What the user wrote.
        has_labels: Whether every sample has a label.
        dropped: Rows that feed nothing, because the model fixes its batch size and they do not fill one.
        notes: What reports say of the data: guesses made, rows dropped, arrays ignored.
        guesses: What of the preprocessing was not said, as ``--preprocess`` takes it.
    """

    source: str
    has_labels: bool
    dropped: int = 0
    notes: tuple[str, ...] = ()
    guesses: tuple[str, ...] = ()

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """The samples at these positions; ascending order lets each file be read once.

        Raises:
            InputError: A sample cannot be read, or holds NaN or Inf where these are not allowed.
        """

    @abstractmethod
    def digest(self) -> str:
        """A SHA-256 (hex) over names, contents and settings: equal digests feed equal samples."""

    def __iter__(self) -> Iterator[Sample]:
        return self.select(range(len(self)))
