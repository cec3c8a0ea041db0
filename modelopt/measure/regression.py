"""The error of numbers against labels that are numbers."""

from __future__ import annotations

import math

import msgspec
import numpy as np

from modelopt.core.errors import InputError
from modelopt.measure.metric import Outputs, Score, Tally
from modelopt.measure.resample import bootstrap
from modelopt.measure.stats import CONFIDENCE, RESAMPLES, Delta, Units
from modelopt.measure.task_metric import TaskMetric, no_fitting_output


class MeanAbsoluteError(TaskMetric):
    """The mean distance between an output and the labels, in the unit of the labels.

    The output is the first one of floats, else of integers, that holds as many numbers as the label. The numbers of a
    label with several axes are one unit.
    """

    name = "mae"
    unit = ""
    higher_is_better = False
    relative = True

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`."""
        label = self.require_labels(label, "iuf", "numbers")
        answers = _numbers(outputs, label)
        if answers is None:
            raise no_fitting_output(label, outputs)
        errors = np.asarray(answers, np.float64).ravel() - np.asarray(label, np.float64).ravel()
        if not np.isfinite(errors).all():
            raise InputError(f"{self.name} has no value: an output or a label is NaN or infinite")
        return self.penalty(errors), label.ndim > 1

    def wrong(self, items: np.ndarray) -> np.ndarray:
        """See `TaskMetric.wrong`: an answer that is not there has no distance."""
        raise InputError(f"{self.name} has no value: only one of the two models answers a sample")

    def penalty(self, errors: np.ndarray) -> np.ndarray:
        """What each error adds to the mean, float64[k]."""
        found: np.ndarray = np.abs(errors)
        return found


class RootMeanSquareError(MeanAbsoluteError):
    """The root of the mean squared distance between an output and the labels: see `MeanAbsoluteError`."""

    name = "rmse"

    def penalty(self, errors: np.ndarray) -> np.ndarray:
        """See `MeanAbsoluteError.penalty`."""
        found: np.ndarray = errors * errors
        return found

    @property
    def candidate_units(self) -> Units | None:
        """None: a root is no mean over units."""
        return None

    def delta(self) -> Delta | None:
        """See `TaskMetric.delta`."""
        before, after = self._reference.units, self._candidate.units
        if not (self._reference.n and self._candidate.n):
            return None
        point = math.sqrt(after.mean) - math.sqrt(before.mean)
        if len(before.sums) < 2:
            return Delta(point=point, low=None, high=None)

        def difference(rows: np.ndarray) -> np.ndarray:
            found: np.ndarray = _roots(after, rows) - _roots(before, rows)
            return found

        low, high = bootstrap(len(before.sums), difference, CONFIDENCE, RESAMPLES, seed=0)
        return Delta(point=point, low=low, high=high)

    def _score(self, tally: Tally, nonfinite: int) -> Score:
        found = super()._score(tally, nonfinite)
        roots = {
            name: None if value is None else math.sqrt(max(0.0, value))
            for name, value in (("value", found.value), ("low", found.low), ("high", found.high))
        }
        return msgspec.structs.replace(found, **roots)


def _roots(units: Units, rows: np.ndarray) -> np.ndarray:
    found: np.ndarray = np.sqrt(units.sums[rows].sum(axis=1) / units.counts[rows].sum(axis=1))
    return found


def _numbers(outputs: Outputs, label: np.ndarray) -> np.ndarray | None:
    """The first output of floats, else of integers, with as many numbers as the label."""
    fitting = [out for out in outputs if out.size == label.size and out.dtype.kind not in "OUSb"]
    floats = [out for out in fitting if out.dtype.kind not in "iu"]
    return next(iter((*floats, *fitting)), None)
