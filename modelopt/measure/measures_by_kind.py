"""Which measures compare an output, by what it stands for or by the name that the user gives."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelopt.measure.agreement import Agreement
from modelopt.measure.classification_agreement import ClassAgreement, SequenceAgreement, ThresholdAgreement
from modelopt.measure.fidelity import Cosine, Fidelity, Sqnr
from modelopt.measure.metric import Measure, Score
from modelopt.measure.output_kinds import OutputKind, Recognized
from modelopt.measure.ranking_agreement import NeighborAgreement, RankAgreement, SimilarityAgreement
from modelopt.measure.relative_error import RelativeError, SampleAgreement

ERROR_BOUND = {
    OutputKind.CLASSES: 0.5,
    OutputKind.TOKENS: 0.5,
    OutputKind.LABELS: 0.35,
    OutputKind.PROBABILITY: 0.35,
    OutputKind.DETECTIONS: 0.35,
    OutputKind.EMBEDDING: 0.15,
}
"""The largest relative error that is accepted of an output whose answers agree.

The values have other uses than the answers (a confidence, a threshold, a distance), and these must still make sense.
The bounds were chosen by hand.
"""

MEASURES: dict[str, Callable[[], Measure | Fidelity]] = {
    "argmax-agreement": ClassAgreement,
    "sequence-agreement": SequenceAgreement,
    "threshold-agreement": ThresholdAgreement,
    "rank-agreement": RankAgreement,
    "neighbor-agreement": NeighborAgreement,
    "similarity-agreement": SimilarityAgreement,
    "relative-error": RelativeError,
    "sample-agreement": SampleAgreement,
    "agreement": Agreement,
    "cosine": Cosine,
    "sqnr": Sqnr,
}
"""By the name that ``--metric OUTPUT=NAME`` takes."""

_MOST_CHANNELS = 128
_MOST_MAPS = 16


class _OfDetections(Measure):
    """A measure of the scores of detections alone, or of the boxes whose score says that an object is there."""

    def __init__(self, inner: Measure, known: Recognized, *, boxes: bool) -> None:
        self.name = inner.name
        self._inner = inner
        self._known = known
        self._boxes = boxes

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        scores = self._known.scores
        if scores is None or a.shape[self._known.axis] != len(scores):
            self._inner.update(a, b)
            return
        rows, others = (np.moveaxis(each, self._known.axis, -1).reshape(-1, len(scores)) for each in (a, b))
        if not self._boxes:
            self._inner.update(rows[:, scores], others[:, scores])
            return
        there = (rows[:, scores] > self._known.threshold).any(1)
        if there.any():
            self._inner.update(rows[there][:, ~scores], others[there][:, ~scores])

    def score(self) -> Score:
        """See `Measure.score`."""
        return self._inner.score()


def measures_for(known: Recognized, shape: tuple[int, ...]) -> list[Measure | Fidelity]:
    """The measures of an output of this kind; the one by which most is lost decides.

    Args:
        known: The kind.
        shape: The output's shape in the first sample.
    """
    match known.kind:
        case OutputKind.CLASSES:
            return [ClassAgreement(known.axis)]
        case OutputKind.TOKENS:
            return [SequenceAgreement(known.axis, known.blank)]
        case OutputKind.LABELS:
            return [ThresholdAgreement(known.threshold)]
        case OutputKind.PROBABILITY:
            return [ThresholdAgreement(known.threshold, all_count=True), RankAgreement()]
        case OutputKind.DETECTIONS:
            boxes = _OfDetections(RelativeError(-1), known, boxes=True)
            return [_OfDetections(ThresholdAgreement(known.threshold), known, boxes=False), boxes]
        case OutputKind.EMBEDDING:
            return [NeighborAgreement(), SimilarityAgreement()]
        case OutputKind.NUMBER:
            return [RelativeError(), RankAgreement(), SampleAgreement()]
        case OutputKind.VALUES:
            return [Agreement(inferred=True)]
        case OutputKind.SIGNAL:
            axis = _channel_axis(shape)
            return [RelativeError(axis), SampleAgreement(axis)]


def _channel_axis(shape: tuple[int, ...]) -> int | None:
    """The axis whose numbers may differ in size; None where that is not known.

    In a table it is the last axis, in a sequence the shorter of the last two, in feature maps the axis of the maps.
    """
    rank = len(shape)
    if rank == 2:
        return -1 if shape[-1] <= _MOST_CHANNELS else None
    if rank == 3:
        axis = -1 if shape[-1] <= shape[-2] else -2
        return axis if shape[axis] <= _MOST_CHANNELS else None
    return 1 - rank if rank > 3 and shape[1 - rank] <= _MOST_MAPS else None
