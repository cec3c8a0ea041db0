"""Errors of the slices of an output along each axis, so that channels of small numbers are compared too.

An error may be small relative to the largest value of a tensor and still destroy one of its columns: the scores beside
boxes in pixels, or the second of two concatenated outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelopt.measure.metric import is_float
from modelopt.measure.rounding_noise import FACTOR

FLOOR = 2e-4
"""The relative root mean square error of a slice that is accepted before the noise is measured; chosen by hand."""

MIN_VALUES = 4
"""Slices of fewer values, over all feeds, are not compared: single values lose all digits where sums cancel."""

_MAX_SLICES = 65_536
_ALL = -1  # all axes but the first together, where they have the same sizes in all feeds: a slice is a single place
_NO_DIGITS = 1e-30


@dataclass(frozen=True)
class SliceMismatch:
    """A slice that differs by more than rounding.

    Attributes:
        output: The output's name.
        axis: The axis of the slice; None for all axes but the first together.
        index: The index along the axis.
        error: The root mean square of its error over that of its values.
    """

    output: str
    axis: int | None
    index: int | tuple[int, ...]
    error: float

    def __str__(self) -> str:
        where = (
            f"index {list(self.index)}" if isinstance(self.index, tuple) else f"index {self.index} of axis {self.axis}"
        )
        return f"root mean square error {self.error:.2g} of the values at {where}"


class SliceErrors:
    """Squared errors and squares of each slice of each output, summed over feeds.

    Each feed's outputs are divided by their scale, so that all feeds count alike.

    Args:
        names: The outputs' names.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._sums: dict[tuple[int, int], np.ndarray] = {}  # by output and axis: float64[3, slices]
        self._shapes: dict[int, tuple[int, ...]] = {}

    def add(self, reference: Sequence[np.ndarray], candidate: Sequence[np.ndarray]) -> None:
        """Take in the outputs for one feed, without those that are no floats, have no axis, or have another shape."""
        for position, (before, after) in enumerate(zip(reference, candidate, strict=True)):
            if not is_float(before) or not before.ndim or not before.size or before.shape != after.shape:
                continue
            a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
            finite = np.isfinite(a) & np.isfinite(b)
            scale = float(np.max(np.abs(a), initial=0.0, where=finite))
            if scale <= _NO_DIGITS:
                continue
            values = np.where(finite, a, 0.0) / scale
            errors = np.where(finite, b, 0.0) / scale - values
            found = np.stack((errors**2, values**2, finite.astype(np.float64)))
            found[:2] /= max(float(np.mean(found[1])), np.finfo(np.float64).tiny)
            for axis in range(before.ndim):
                others = tuple(i + 1 for i in range(before.ndim) if i != axis)
                self._grow(position, axis, found.sum(axis=others))
            if before.ndim > 2 and self._shapes.setdefault(position, before.shape[1:]) == before.shape[1:]:
                self._grow(position, _ALL, found.sum(axis=1).reshape(len(found), -1))

    def _grow(self, position: int, axis: int, found: np.ndarray) -> None:
        if found.shape[1] > _MAX_SLICES:
            return
        known = self._sums.get((position, axis), np.zeros((3, 0)))
        if known.shape[1] < found.shape[1]:
            known = np.pad(known, ((0, 0), (0, found.shape[1] - known.shape[1])))
        known[:, : found.shape[1]] += found
        self._sums[position, axis] = known

    def _errors(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """By output and axis the relative error of each slice; 0 where there is too little to judge."""
        for key, (errors, squares, counts) in self._sums.items():
            judged = (counts >= MIN_VALUES) & (squares > 0)
            yield key, np.sqrt(np.where(judged, errors, 0.0) / np.where(judged, squares, 1.0))

    def worst(self, noise: Sequence[SliceErrors] = ()) -> SliceMismatch | None:
        """The slice that exceeds its accepted error by the largest factor; None where none does.

        Args:
            noise: The errors of the reference under rounding changes, for the same feeds.
        """
        allowed: dict[tuple[int, int], np.ndarray] = {}
        for each in noise:
            for key, errors in each._errors():  # noqa: SLF001 - of its own class
                allowed[key] = np.maximum(allowed.get(key, 0.0), FACTOR * errors)
        worst: SliceMismatch | None = None
        furthest = 1.0
        for (position, axis), errors in self._errors():
            beyond = errors / np.maximum(allowed.get((position, axis), 0.0), FLOOR)
            index = int(np.argmax(beyond))
            if beyond[index] > furthest:
                furthest = float(beyond[index])
                name, error = self._names[position], float(errors[index])
                if axis == _ALL:
                    place = tuple(int(i) for i in np.unravel_index(index, self._shapes[position]))
                    worst = SliceMismatch(name, None, place, error)
                else:
                    worst = SliceMismatch(name, axis, index, error)
        return worst
