"""Whether two sets of outputs are the same up to rounding: the check of every pass that claims to be exact."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec
import numpy as np

from modelopt.measure.metric import is_float, nonfinite_mismatch


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """The largest differences that count as rounding: one bound for every value, one for the tensor as a whole.

    A sum of large terms that cancel keeps the rounding error of the large terms, so errors are relative to the tensor's
    scale, not to the value. Rounding that a logarithm near zero enlarges changes few values. A dropped bias or a wrong
    axis changes most values, and the bound on the root mean square finds it.

    Attributes:
        of_scale: |difference| ≤ of_scale · max|reference|.
        of_rms: rms(difference) ≤ of_rms · rms(reference).
        of_zero: |difference| ≤ of_zero where the whole reference tensor is zero or denormal and has no scale.
    """

    of_scale: float
    of_rms: float
    of_zero: float

    def times(self, factor: float) -> Tolerance:
        """The bounds multiplied by a factor."""
        return Tolerance(of_scale=self.of_scale * factor, of_rms=self.of_rms * factor, of_zero=self.of_zero * factor)


FLOAT32 = Tolerance(of_scale=2e-3, of_rms=1e-3, of_zero=1e-6)
"""Float32 rounds at 6e-8. Twelve real models, run with and without onnxruntime's own fusions, differ by less than 4e-6
of their scale, but for one that takes logarithms of spectra: 3.2e-4 at most, 3.1e-4 in the root mean square."""

NOISIEST = Tolerance(of_scale=2e-2, of_rms=1e-2, of_zero=1e-6)
"""The widest tolerance that a model's own noise can give. The outputs of a classifier that normalizes by E[x²] - E[x]²
move by 5e-4 where its weights move by one rounding step, on inputs whose variance is nearly 0."""

FLOOR = Tolerance(of_scale=2e-5, of_rms=4e-6, of_zero=1e-6)
"""What passes in float32 before the model's own noise is measured (`measure.rounding_noise`). A BatchNormalization that
is folded with ten times its epsilon differs by 5e-5: no fixed bound both finds it and accepts a noisy model."""

ROUNDED = Tolerance(of_scale=2e-3, of_rms=6e-5, of_zero=1e-6)
"""For values that are cast to float16 but not computed in it. A rounding error before the cast moves one value in five
hundred by a step of 5e-4 to 1e-3. A removed cast moves all values, by 2e-4 in the root mean square."""

ROUNDED_BFLOAT16 = Tolerance(of_scale=1.6e-2, of_rms=5e-4, of_zero=1e-6)
"""The same for bfloat16, whose steps are eight times as large."""

FLOAT16 = Tolerance(of_scale=2e-2, of_rms=1e-2, of_zero=1e-3)
"""Float16 rounds at 5e-4."""

BFLOAT16 = Tolerance(of_scale=1e-1, of_rms=5e-2, of_zero=1e-2)
"""Bfloat16 rounds at 4e-3."""

_NORMAL = float(np.finfo(np.float32).tiny)

_BY_DTYPE = {"float16": FLOAT16, "bfloat16": BFLOAT16}


class Difference(Enum):
    """What differs between two outputs."""

    STRUCTURE = "dtype or shape"
    NONFINITE = "NaN or infinities"
    UNEQUAL = "values that do not round"
    ROUNDING = "values, by more than rounding"


class Nonfinite(Enum):
    """Which NaN and infinities of two outputs must be equal.

    Attributes:
        EQUAL: NaN where NaN is, each infinity where that infinity is.
        FINITE: Finite values where finite values are.
        FINITE_WHERE_NOT_NAN: As FINITE, but any value is accepted where the reference is NaN.
    """

    EQUAL = "equal"
    FINITE = "finite"
    FINITE_WHERE_NOT_NAN = "finite where not NaN"

    def mismatch(self, reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
        """bool[…]: where a NaN or an infinity is not as required."""
        if self is Nonfinite.EQUAL:
            return nonfinite_mismatch(reference, candidate)
        apart: np.ndarray = np.isfinite(reference) != np.isfinite(candidate)
        return apart if self is Nonfinite.FINITE else apart & ~np.isnan(reference)


class OutputMismatch(msgspec.Struct, frozen=True, kw_only=True):
    """The first output that differs by more than rounding.

    Attributes:
        output: Its name.
        reason: One clause.
        index: Where the worst difference is; None when shapes or dtypes differ.
        max_relative_error: The largest difference relative to the output's largest magnitude; None where there is none.
        kind: What differs.
        share: The share of values that are unequal, or non-finite in one model only.
    """

    output: str
    reason: str
    index: tuple[int, ...] | None = None
    max_relative_error: float | None = None
    kind: Difference = Difference.STRUCTURE
    share: float = 0.0

    def __str__(self) -> str:
        where = "" if self.index is None else f" at {list(self.index)}"
        return f"output '{self.output}'{where}: {self.reason}"


def tolerance_for(dtype: str) -> Tolerance:
    """The tolerance for outputs of this dtype.

    A float64 output gets that of float32: in real models it is often a float32 result that was cast at the very end.
    """
    return _BY_DTYPE.get(dtype, FLOAT32)


def compare_outputs(
    reference: Sequence[np.ndarray],
    candidate: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    tolerances: Sequence[Tolerance] | None = None,
    nonfinite: Nonfinite = Nonfinite.EQUAL,
) -> OutputMismatch | float:
    """The first output that differs by more than rounding, else the largest relative error of all outputs.

    Shapes and dtypes are equal, NaN and infinities coincide, integers, bools and strings are equal; floats differ by no
    more than the `Tolerance` of their dtype.

    Args:
        reference: The original model's outputs.
        candidate: The rewritten model's outputs.
        names: The outputs' names.
        tolerances: For each output, in place of its dtype's.
        nonfinite: Which NaN and infinities must be equal.

    Returns:
        A mismatch, or max|difference| / max|reference| of the worst output: 0.0 when all are equal.

    Raises:
        ValueError: Not as many arrays as names.
    """
    worst = 0.0
    given: Sequence[Tolerance | None] = tolerances or [None] * len(names)
    for before, after, name, own in zip(reference, candidate, names, given, strict=True):
        tolerance = own or tolerance_for(before.dtype.name)
        found = _compare(before, after, name, tolerance, nonfinite)
        if isinstance(found, OutputMismatch):
            return found
        worst = max(worst, found)
    return worst


def distance(before: np.ndarray, after: np.ndarray) -> tuple[float, float]:
    """How far two outputs are apart, as `Tolerance` counts it: (of_scale, of_rms); 0 for what is not comparable."""
    if before.shape != after.shape or before.dtype != after.dtype or not is_float(before) or not before.size:
        return 0.0, 0.0
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    return _distance(np.where(finite, a, 0.0), np.where(finite, b, 0.0))


def _distance(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    scale = float(np.max(np.abs(a)))
    if scale < _NORMAL:
        return 0.0, 0.0
    # Divided by the scale first: the squares of 1e200 overflow and those of 1e-200 vanish.
    error = np.abs(a - b) / scale
    return float(np.max(error)), float(np.sqrt(np.mean(error**2) / np.mean((a / scale) ** 2)))


def _compare(
    before: np.ndarray, after: np.ndarray, name: str, tolerance: Tolerance, nonfinite: Nonfinite
) -> OutputMismatch | float:
    if before.dtype != after.dtype:
        return OutputMismatch(output=name, reason=f"its dtype is {after.dtype.name} instead of {before.dtype.name}")
    if before.shape != after.shape:
        return OutputMismatch(output=name, reason=f"its shape is {list(after.shape)} instead of {list(before.shape)}")
    if not is_float(before):
        return _first(before != after, before, after, name, Difference.UNEQUAL) or 0.0
    a, b = np.asarray(before, np.float64), np.asarray(after, np.float64)
    odd = _first(nonfinite.mismatch(a, b), a, b, name, Difference.NONFINITE)
    if odd is not None:
        return odd
    finite = np.isfinite(a) & np.isfinite(b)
    return _rounding(np.where(finite, a, 0.0), np.where(finite, b, 0.0), name, tolerance)


def _rounding(a: np.ndarray, b: np.ndarray, name: str, tolerance: Tolerance) -> OutputMismatch | float:
    """Compare finite values."""
    if not a.size:
        return 0.0
    error = np.abs(a - b)
    index = _index(np.argmax(error), a.shape)
    largest, scale = float(error[index]), float(np.max(np.abs(a)))
    seen = f"{b[index]:.7g} instead of {a[index]:.7g}"
    if scale < _NORMAL:  # zero, or denormals: they have no digits to compare
        if largest <= tolerance.of_zero:
            return 0.0
        return OutputMismatch(output=name, reason=seen, index=index, kind=Difference.ROUNDING)
    relative, rms = _distance(a, b)
    if relative <= tolerance.of_scale and rms <= tolerance.of_rms:
        return relative
    reason = f"{seen}, {relative:.2g} of the largest magnitude; root mean square error {rms:.2g}"
    return OutputMismatch(
        output=name, reason=reason, index=index, max_relative_error=relative, kind=Difference.ROUNDING
    )


_WORDS = {Difference.UNEQUAL: "unequal", Difference.NONFINITE: "NaN or infinite on one side only"}


def _first(
    wrong: np.ndarray, before: np.ndarray, after: np.ndarray, name: str, kind: Difference
) -> OutputMismatch | None:
    if not np.any(wrong):
        return None
    index = _index(np.argmax(wrong), wrong.shape)
    count = int(np.sum(wrong))
    reason = f"{count} of {wrong.size} values are {_WORDS[kind]}: {after[index]} instead of {before[index]}"
    return OutputMismatch(output=name, reason=reason, index=index, kind=kind, share=count / wrong.size)


def _index(flat: np.integer, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), shape))
