"""What an output stands for: classes, yes-or-no scores, tokens, an embedding, numbers or a signal.

Outputs of different kinds need different measures: the highest class says nothing of a mask, and the cosine between two
outputs of one positive number is always 1. The kind is found from evidence: how the graph ends (`heads`) and what the
original answers to the first samples. Where the evidence is weak the output counts as a signal, which is compared most
strictly.

The thresholds below were chosen by hand, so that all models of `tests/campaigns/output_kinds.py` are recognized.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from modelopt.measure.heads import End, Head
from modelopt.measure.metric import is_float
from modelopt.measure.value_statistics import (
    FEWEST_ROWS,
    axis_name,
    class_evidence,
    filled,
    finite_values,
    is_unit,
    rows_along,
    smoothness,
    yes_threshold,
)

LOOK = 32
"""How many samples are looked at before the kind is settled."""

_SUM_TOLERANCE = 2e-3
_NEAR_ENDS = 0.2
_MOST_NEAR_ENDS = 0.8
_FEW_POSITIVE = 0.3
_SOME_ROWS = 0.05
_SMOOTH = 0.5
_EMBEDDING = 32
_SHORTEST_EMBEDDING = 8
_BOXES = 2
_CHANNELS = range(3, 513)
_PLACES = 16
_BLANK = 0.3
_BACKGROUND = 0.92


class OutputKind(Enum):
    """What an output stands for; the text is shown in the report."""

    CLASSES = "classes"
    TOKENS = "tokens"
    LABELS = "yes-or-no scores"
    PROBABILITY = "probability"
    DETECTIONS = "detections"
    EMBEDDING = "embedding"
    NUMBER = "number"
    SIGNAL = "signal"
    VALUES = "exact values"


@dataclass(frozen=True)
class Recognized:
    """The kind of an output, and the parameters of its measures.

    Attributes:
        kind: The kind.
        why: The evidence for the kind, one clause.
        axis: The axis of the classes, or of the numbers of one detection; negative.
        threshold: A score above it means yes.
        blank: The class that stands for "no symbol here" in a sequence that repeats its symbols, or None.
        scores: Which numbers of a detection are scores, bool[channels]; None for other kinds.
    """

    kind: OutputKind
    why: str
    axis: int = -1
    threshold: float = 0.5
    blank: int | None = None
    scores: np.ndarray | None = None


def recognize(head: Head, seen: Sequence[np.ndarray]) -> Recognized | None:
    """The kind of an output.

    Args:
        head: How the graph ends there.
        seen: What the original gave for the first samples.

    Returns:
        None where no sample holds a finite element.
    """
    given = [each for each in seen if each.size]
    if given and not is_float(given[0]):
        what = "strings" if given[0].dtype.kind in "OU" else given[0].dtype.name
        return Recognized(OutputKind.VALUES, f"its values are {what}")
    arrays = [np.asarray(each, np.float64) for each in given if np.isfinite(np.asarray(each, np.float64)).any()]
    if not arrays:
        return None
    ranks = {each.ndim for each in arrays}
    if len(ranks) > 1:
        return Recognized(OutputKind.SIGNAL, "its rank changes from sample to sample")
    if _is_one_each(head, arrays):
        return _one_each(head, arrays)
    if ranks == {1}:
        arrays = [each[None] for each in arrays]
    found = _by_sum(arrays) or _by_unit_interval(head, arrays) or _by_channels(arrays) or _by_length(head, arrays)
    return found or _by_end(head, arrays) or _by_shape(head, arrays)


def _is_one_each(head: Head, arrays: Sequence[np.ndarray]) -> bool:
    """Whether every row is one number. A vector is such a column of numbers only where its length is free."""
    if all(each.size == 1 for each in arrays):
        return True
    if arrays[0].ndim == 1:
        return head.dims is not None and len(head.dims) == 1 and head.dims[0] is None
    return all(math.prod(each.shape[1:]) == 1 for each in arrays)


def _one_each(head: Head, arrays: Sequence[np.ndarray]) -> Recognized:
    values = finite_values(arrays)
    if head.end in {End.SIGMOID, End.SOFTMAX} and is_unit(values):
        return Recognized(
            OutputKind.PROBABILITY, f"one number in each row, after {head.end.value}", threshold=yes_threshold(values)
        )
    return Recognized(OutputKind.NUMBER, "one number in each row")


def _by_sum(arrays: Sequence[np.ndarray]) -> Recognized | None:
    """Classes whose probabilities add up to 1; they may be given as logarithms."""
    rank = arrays[0].ndim
    for axis in dict.fromkeys((-1, 1 - rank)):
        if any(each.shape[axis] < 2 for each in arrays):
            continue
        where = axis_name(axis, rank)
        low, high = min(np.nanmin(each) for each in arrays), max(np.nanmax(each) for each in arrays)
        if low >= -_SUM_TOLERANCE and high <= 1 + _SUM_TOLERANCE:
            totals = [each.sum(axis) for each in arrays]
            what = f"adds up to 1 along {where}"
        elif high <= _SUM_TOLERANCE:
            with np.errstate(over="ignore"):
                totals = [np.exp(each).sum(axis) for each in arrays]
            what = f"exponentials add up to 1 along {where}"
        else:
            continue
        if all(np.abs(total - 1).max() <= _SUM_TOLERANCE for total in totals if np.isfinite(total).all()):
            return _classes(arrays, axis, what)
    return None


def _classes(arrays: Sequence[np.ndarray], axis: int, why: str) -> Recognized:
    """Scores of classes: of whole samples or places, or, with three axes, of the steps of a sequence."""
    if arrays[0].ndim != 3 or all(each.size // each.shape[axis] == each.shape[0] for each in arrays):
        return Recognized(OutputKind.CLASSES, why, axis)
    chosen = np.concatenate([filled(each).argmax(axis).ravel() for each in arrays])
    counts = np.bincount(chosen)
    most = int(counts.argmax())
    share = counts[most] / len(chosen)
    if share >= _BACKGROUND:
        return Recognized(OutputKind.CLASSES, f"{why}; {share:.0%} of the places are of class {most}", axis)
    if share >= _BLANK and most in {0, arrays[0].shape[axis] - 1}:
        return Recognized(OutputKind.TOKENS, f"{why}; class {most} between the symbols", axis, blank=most)
    return Recognized(OutputKind.TOKENS, why, axis)


def _by_unit_interval(head: Head, arrays: Sequence[np.ndarray]) -> Recognized | None:
    """Yes-or-no scores as probabilities: nearly all are near 0 or 1, and some are near each."""
    values = finite_values(arrays)
    if not is_unit(values):
        return None
    near = float(np.mean((values < _NEAR_ENDS) | (values > 1 - _NEAR_ENDS)))
    if near < _MOST_NEAR_ENDS:
        return None
    high, middle = np.mean(values > 1 - _NEAR_ENDS), np.mean((values > 0.4) & (values < 0.6))
    if head.end is not End.SIGMOID and (not high or high < middle):
        return None  # small numbers of any kind lie between 0 and 1, most of them near 0
    end = f"after {head.end.value}, " if head.end is End.SIGMOID else ""
    why = f"{end}between 0 and 1, {near:.0%} near one of them"
    return Recognized(OutputKind.LABELS, why, threshold=yes_threshold(values))


def _by_channels(arrays: Sequence[np.ndarray]) -> Recognized | None:
    """Detections: of the numbers of one box some lie between 0 and 1 (scores), others are much larger (coordinates)."""
    rank = arrays[0].ndim
    if rank not in {2, 3}:
        return None
    for axis in (-1,) if rank == 2 else (-1, -2):
        count = arrays[0].shape[axis]
        other = -1 if axis == -2 else -2
        if count not in _CHANNELS or any(each.shape[axis] != count for each in arrays):
            continue
        if sum(each.shape[other] for each in arrays) < _PLACES or arrays[0].shape[other] < 2:
            continue
        rows = np.concatenate([np.moveaxis(each, axis, -1).reshape(-1, count) for each in arrays])
        rows = rows[np.isfinite(rows).all(1)]
        if not len(rows):
            continue
        scores = (rows.min(0) >= 0) & (rows.max(0) <= 1) & (rows.max(0) > rows.min(0))
        boxes = np.abs(rows).max(0) > _BOXES
        if scores.any() and boxes.sum() >= 2 and (scores | boxes).sum() >= 0.8 * count:
            found = f"{boxes.sum()} numbers of each place are larger than {_BOXES}, {scores.sum()} between 0 and 1"
            return Recognized(
                OutputKind.DETECTIONS, found, axis, threshold=yes_threshold(rows[:, scores]), scores=scores
            )
    return None


def _by_length(head: Head, arrays: Sequence[np.ndarray]) -> Recognized | None:
    """Embeddings: vectors of length 1, and the hidden states of an encoder, pooled or one for each token."""
    length = arrays[0].shape[-1]
    if length < _SHORTEST_EMBEDDING or any(each.shape[-1] != length for each in arrays):
        return None
    if head.end is End.HIDDEN and arrays[0].ndim in {2, 3}:
        return Recognized(OutputKind.EMBEDDING, f"{length} numbers in each row, from {head.end.value}")
    if arrays[0].ndim != 2:
        return None
    lengths = np.concatenate([np.sqrt((each**2).sum(-1)).ravel() for each in arrays])
    if head.end is End.NORM or np.abs(lengths - 1).max() < _SUM_TOLERANCE:
        return Recognized(OutputKind.EMBEDDING, "its rows have length 1")
    return None


def _by_end(head: Head, arrays: Sequence[np.ndarray]) -> Recognized | None:
    """The scores that a linear layer gives: of classes before a softmax, or yes-or-no scores before a sigmoid."""
    rank = arrays[0].ndim
    axis = -1 if rank <= 3 else 1 - rank
    if head.end is not End.LINEAR or any(each.shape[axis] < 2 for each in arrays):
        return None
    if head.is_vocabulary and rank <= 3:
        return _classes(arrays, -1, "a linear layer to a vocabulary")
    if rank == 2:
        if len({each.shape[-1] for each in arrays}) > 1 or smoothness(rows_along(arrays, -1)) >= _SMOOTH:
            return None
        labels = _labels(arrays)
        if labels is not None:
            return labels
    for tried in (axis,) if rank != 3 else (-1, -2):
        if len({each.shape[tried] for each in arrays}) > 1:
            continue
        rows = rows_along(arrays, tried)
        why = class_evidence(rows, rank)
        if why is not None:
            return _classes(arrays, tried, f"{head.end.value} whose {why}")
    return None


def _labels(arrays: Sequence[np.ndarray]) -> Recognized | None:
    """Yes-or-no scores before a sigmoid: few are positive, in some rows none and in others several."""
    rows = rows_along(arrays, -1)
    if len(rows) < FEWEST_ROWS or rows.shape[1] < 3:
        return None
    yes = (rows > 0).sum(1)
    share = float(yes.mean()) / rows.shape[1]
    if 0 < share <= _FEW_POSITIVE and min(np.mean(yes == 0), np.mean(yes > 1)) >= _SOME_ROWS:
        return Recognized(
            OutputKind.LABELS, f"a linear layer, {share:.0%} of whose numbers are positive", threshold=0.0
        )
    return None


def _by_shape(head: Head, arrays: Sequence[np.ndarray]) -> Recognized:
    first = arrays[0]
    if first.ndim != 2:
        return Recognized(OutputKind.SIGNAL, f"{first.ndim} axes, and no sign of classes")
    length = first.shape[-1]
    if any(each.shape[-1] != length for each in arrays) or (head.dims is not None and head.dims[-1] is None):
        return Recognized(OutputKind.SIGNAL, "its length changes")
    if length < _EMBEDDING:
        return Recognized(OutputKind.SIGNAL, f"{length} numbers in each row, and no sign of classes")
    if is_unit(finite_values(arrays)):
        return Recognized(OutputKind.SIGNAL, "between 0 and 1, and many values far from both")
    alike = smoothness(np.concatenate(list(arrays)))
    if alike >= _SMOOTH:
        return Recognized(OutputKind.SIGNAL, f"neighbors in a row are alike (correlation {alike:.2f})")
    return Recognized(OutputKind.EMBEDDING, f"{length} numbers in each row, in no order and no classes")
