"""What is done to the answers of a model: damage to a share of them, and rounding that leaves them as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelopt.measure.output_kinds import OutputKind, Recognized


def damaged(kind: OutputKind, known: Recognized, values: Sequence[np.ndarray], share: float = 0.02) -> list[np.ndarray]:
    """The same answers, but for a share of them: samples of one answer, or places of samples with many."""
    rng = np.random.default_rng(0)
    found = [value.copy() for value in values]
    if kind is OutputKind.CLASSES and found[0].ndim > 2:
        for value in found:
            rows = np.moveaxis(value, known.axis, -1)
            wrong = rng.random(rows.shape[:-1]) < share
            rows[wrong] = -rows[wrong]
        return found
    if kind in {OutputKind.LABELS, OutputKind.DETECTIONS}:
        for value in found:
            scores = value if known.scores is None else np.moveaxis(value, known.axis, -1)
            lost = (scores > known.threshold) & (rng.random(scores.shape) < share)
            lost &= True if known.scores is None else known.scores
            scores[lost] = known.threshold - 0.3
        return found
    for i in rng.choice(len(found), max(1, round(share * len(found))), replace=False):
        found[i] = _wrong(kind, known, values, i)
    return found


def _wrong(kind: OutputKind, known: Recognized, values: Sequence[np.ndarray], sample: int) -> np.ndarray:
    """A wrong answer for a sample."""
    right = values[sample]
    if kind is OutputKind.VALUES:
        return right + 1
    if kind is OutputKind.PROBABILITY:
        return 1 - right
    if kind is OutputKind.CLASSES:
        return -right
    if kind is not OutputKind.TOKENS:
        return values[(sample + len(values) // 2) % len(values)].copy()
    wrong = right.copy()
    rows = np.moveaxis(wrong, known.axis, -1).reshape(-1, wrong.shape[known.axis])
    spoken = np.flatnonzero(rows.argmax(-1) != known.blank)
    rows[spoken[0] if len(spoken) else 0] *= -1
    return wrong


def rounded(
    kind: OutputKind, known: Recognized, values: Sequence[np.ndarray], decibels: float = 40.0
) -> list[np.ndarray]:
    """The answers with noise, so strong as this; answers that it changes are put back as they were.

    Numbers side by side get noise of their own sizes, and a single number noise of the size of what varies: their order
    is their answer.
    """
    if kind is OutputKind.VALUES:
        return list(values)
    rng = np.random.default_rng(0)
    stacked = np.stack(values).astype(np.float64)
    axes = tuple(range(stacked.ndim))
    if stacked.ndim == 3 or kind is OutputKind.DETECTIONS:
        axes = tuple(axis for axis in axes if axis != stacked.ndim + known.axis)
    size = (
        stacked.std(axes, keepdims=True)
        if kind is OutputKind.NUMBER
        else np.sqrt((stacked**2).mean(axes, keepdims=True))
    )
    noise = rng.standard_normal(stacked.shape)
    noise *= size * 10 ** (-decibels / 20) / np.sqrt((noise**2).mean(axes, keepdims=True))
    changed = (stacked + noise).astype(values[0].dtype)
    return [_answers_kept(kind, known, a, b) for a, b in zip(values, changed, strict=True)]


def _answers_kept(kind: OutputKind, known: Recognized, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    if kind in {OutputKind.CLASSES, OutputKind.TOKENS}:
        changed = np.expand_dims(a.argmax(known.axis) != b.argmax(known.axis), known.axis)
    elif kind in {OutputKind.LABELS, OutputKind.PROBABILITY, OutputKind.DETECTIONS}:
        changed = (a > known.threshold) != (b > known.threshold)
    else:
        return b
    kept: np.ndarray = np.where(changed, a, b)
    return kept
