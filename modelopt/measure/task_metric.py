"""The base of metrics that score each model against labels, and the two models against each other."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import numpy as np

from modelopt.measure.chance import Chance
from modelopt.measure.metric import Metric, Outputs, Score, Tally, Unfit, count_nonfinite_mismatches
from modelopt.measure.stats import Delta, Units, paired_difference_interval


class TaskMetric(Metric):
    """A metric of how well a model does its task: it scores each model, and their difference.

    A sample that fits neither model's outputs is passed over. Where the outputs of only one model fit, all answers of
    the other count as wrong; where lower scores are better, that is an error.

    Attributes:
        relative: A contract bounds the rise of the score as a fraction of the original's score, because the score has
            the unit of the labels.

    Args:
        inferred: The metric was not asked for by name: samples that it does not suit are passed over. Otherwise they
            are an error.
    """

    relative = False

    def __init__(self, *, inferred: bool = False) -> None:
        self._inferred = inferred
        self._reference = self.tally()
        self._candidate = self.tally()
        self._nonfinite = 0
        self._samples = 0
        self._unscored = 0
        self._why: str | None = None

    def require_labels(self, label: np.ndarray | None, kinds: str, what: str, *, hint: str | None = None) -> np.ndarray:
        """The labels, which must be of one of these kinds of dtype.

        Args:
            label: The labels of a sample.
            kinds: Letters of `numpy.dtype.kind`.
            what: What labels of these kinds are called.
            hint: What helps where they are of another kind.

        Raises:
            Unfit: There are none, or they are of another kind.
        """
        if label is None:
            raise Unfit(f"{self.name} needs labels", hint="give data with labels, or choose another --metric")
        if label.dtype.kind not in kinds:
            raise Unfit(f"{self.name} needs {what} as labels", note=f"the labels are {label.dtype.name}", hint=hint)
        return label

    @abstractmethod
    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """Score one sample: float64[k], one number per item, and whether they are one unit.

        Raises:
            InputError: The outputs or the label are not of a kind that the metric can score; `Unfit` where those of
                other samples may be.
        """

    def tally(self) -> Tally:
        """What collects the items of one model."""
        return Tally()

    def wrong(self, items: np.ndarray) -> np.ndarray:
        """The items of a model whose outputs do not fit, where those of the other model are `items`."""
        return np.zeros_like(items)

    def update(self, reference: Outputs, candidate: Outputs, label: np.ndarray | None) -> None:
        """See `Metric.update`."""
        self._samples += 1
        self._nonfinite += count_nonfinite_mismatches(reference, candidate)
        before = self._fitting(reference, label, required=not self._inferred)
        after = self._fitting(candidate, label, required=not self.higher_is_better)
        if before is None and after is not None:
            before = self.wrong(after[0]), after[1]
        elif after is None and before is not None:
            after = self.wrong(before[0]), before[1]
        nothing = np.zeros(0), True
        (items, together), (others, _) = before or nothing, after or nothing
        if not (items.size or others.size):
            self._unscored += 1
            return
        self._reference.add(items, together=together)
        self._candidate.add(others, together=together)

    def _fitting(self, outputs: Outputs, label: np.ndarray | None, *, required: bool) -> tuple[np.ndarray, bool] | None:
        """The `items` of one model; None where it has none that fit."""
        try:
            return self.items(outputs, label)
        except Unfit as unfit:
            if required and any(out.size for out in outputs):
                raise
            self._why = self._why or unfit.fact
            return None

    def pass_over(self, samples: int) -> None:
        """Count samples that hold nothing to score."""
        self._samples += samples
        self._unscored += samples

    @property
    def candidate_units(self) -> Units | None:
        """What the candidate scored, by unit; None where the score is no mean over units."""
        return self._candidate.units

    @property
    def units(self) -> int:
        """How many independent units the original was scored on."""
        return len(self._reference.units.sums)

    def cautions(self) -> Iterator[str]:
        """Notes on the scores for the reader."""
        if self._unscored and self._reference.n:
            left = self._samples - self._unscored
            yield f"{self.name} is over {left} of {self._samples} samples: elsewhere {self._why or 'there are no rows'}"

    def chance(self) -> Chance | None:
        """How the original's score compares with guessing; None where that is not known."""
        return None

    def score(self) -> Score:
        """See `Metric.score`."""
        return self._score(self._candidate, self._nonfinite)

    def reference_score(self) -> Score:
        """The original model's score."""
        return self._score(self._reference, 0)

    def delta(self) -> Delta | None:
        """Candidate minus reference, paired sample by sample; None where one of the two has no item at all."""
        if not (self._reference.n and self._candidate.n):
            return None
        with np.errstate(invalid="ignore"):  # a resample may hold only samples without items
            found = paired_difference_interval(self._reference.units, self._candidate.units)
        if found.low is None or found.high is None or np.isfinite([found.low, found.high]).all():
            return found
        return Delta(point=found.point, low=None, high=None)

    def _score(self, tally: Tally, nonfinite: int) -> Score:
        interval = tally.share_interval() if self.unit == "share" else tally.interval()
        return self.scored(tally.units.mean if tally.n else None, tally.n, interval, nonfinite=nonfinite)


def shapes(label: np.ndarray, outputs: Outputs) -> str:
    """The shapes of labels and outputs, for errors."""
    return f"labels: {list(label.shape)}; outputs: {', '.join(str(list(out.shape)) for out in outputs)}"


def no_fitting_output(label: np.ndarray, outputs: Outputs) -> Unfit:
    """The error where no output holds an answer for each label."""
    return Unfit(
        "the labels do not fit any output",
        note=shapes(label, outputs),
        hint="--metric file.py:function scores outputs of any shape",
    )
