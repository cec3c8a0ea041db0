"""Whether two detectors find the same boxes, without labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.fidelity import Fidelity
from modelopt.measure.metric import Outputs, Score, Unfit, is_float

LEAST_SCORE = 0.25
"""Boxes with a lower score count as not detected."""

LEAST_OVERLAP = 0.5
"""The least intersection over union of two boxes that are the same detection."""

MAX_BOXES = 2_000
"""The most detections of one sample: each is compared with every one of the other model."""


class _Boxes(NamedTuple):
    """The detections of one image: corners float64[n, 4], scores float64[n], classes float64[n]."""

    corners: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


class DetectionAgreement(Fidelity):
    """Twice the number of matched detections over the number of all detections of both models.

    The reference's detections, the highest score first, each take the box of the candidate of the same class that
    overlaps most, and by at least half (intersection over union). Only boxes with a score of at least `LEAST_SCORE`
    count. An image is a unit; one in which neither model finds a box is not compared.

    The outputs are boxes, scores and, where the model has them, classes: floats [n, 4] or [batch, n, 4] as corners
    (x1, y1, x2, y2), with scores of that shape without the last axis; or one output of rows (x1, y1, x2, y2, score,
    class).
    """

    name = "detection-agreement"
    unit = "share"
    higher_is_better = True

    def compare(self, reference: Outputs, candidate: Outputs) -> bool:
        """See `Fidelity.compare`."""
        ours, theirs = _detections(reference), _detections(candidate)
        if ours is None:
            raise Unfit(
                "no outputs look like detections",
                note="wanted: boxes [n,4] with scores [n], or rows (x1, y1, x2, y2, score, class)",
                hint="choose another --metric",
            )
        found = False
        # An output of another shape detects nothing.
        nothing = [_Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0))] * len(ours)
        for a, b in zip(ours, theirs if theirs is not None and len(theirs) == len(ours) else nothing, strict=True):
            total = len(a.scores) + len(b.scores)
            if total:
                self._tally.add_sums(2.0 * _matches(a, b), float(total))
                found = True
        return found

    def score(self) -> Score:
        """See `Metric.score`."""
        if (nothing := self.nothing()) is not None:
            return nothing
        return self.made(self._tally.units.mean, self._tally.share_interval(), n=self._tally.n)


def _matches(a: _Boxes, b: _Boxes) -> int:
    overlap = np.where(a.classes[:, None] == b.classes, overlaps(a.corners, b.corners), -1.0)
    matched = 0
    for row in np.argsort(-a.scores, kind="stable"):
        if not overlap.shape[1]:
            break
        best = int(overlap[row].argmax())
        if overlap[row, best] >= LEAST_OVERLAP:
            matched += 1
            overlap[:, best] = -1.0
    return matched


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of each box of `a` with each of `b`: float64[n, m] for corners [n, 4] and [m, 4]."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=2)
    union = _area(a)[:, None] + _area(b) - common
    found: np.ndarray = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return found


def _area(corners: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.clip(corners[:, 2:] - corners[:, :2], 0, None).prod(axis=1)
    return area


def _detections(outputs: Outputs) -> list[_Boxes] | None:
    """The detections of each image of a batch; None where the outputs hold none."""
    for out in outputs:
        if is_float(out) and out.ndim in (2, 3) and out.shape[-1] == 4:
            rows = out.shape[:-1]
            beside = [each for each in outputs if each is not out and each.shape == rows]
            scores = next((each for each in beside if is_float(each)), None)
            if scores is not None:
                classes = next((each for each in beside if each.dtype.kind in "iu"), np.zeros(rows))
                return _images(out, scores, classes)
    rows6 = next((out for out in outputs if is_float(out) and out.ndim in (2, 3) and out.shape[-1] == 6), None)
    return None if rows6 is None else _images(rows6[..., :4], rows6[..., 4], rows6[..., 5])


def _images(corners: np.ndarray, scores: np.ndarray, classes: np.ndarray) -> list[_Boxes]:
    n = 1 if corners.ndim == 2 else len(corners)
    each = (np.asarray(values, np.float64).reshape(n, -1) for values in (scores, classes))
    found = []
    for box, score, kind in zip(np.asarray(corners, np.float64).reshape(n, -1, 4), *each, strict=True):
        kept = (score >= LEAST_SCORE) & np.isfinite(box).all(axis=1)
        if kept.sum() > MAX_BOXES:
            raise InputError(
                f"an image has {int(kept.sum()):,} detections",
                note=f"the limit is {MAX_BOXES:,}",
                hint="compare the model with its selection of boxes (non-maximum suppression) at the end",
            )
        found.append(_Boxes(box[kept], score[kept], kind[kept]))
    return found
