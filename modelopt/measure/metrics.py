"""Metrics by name, and the choice of those that suit a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelopt.errors import InputError, did_you_mean
from modelopt.measure.agreement import Agreement, ArgmaxAgreement
from modelopt.measure.custom import Custom
from modelopt.measure.fidelity import Cosine, Fidelity, MaxAbsError, Sqnr
from modelopt.measure.metric import Metric, Outputs, TaskMetric, is_float
from modelopt.measure.topk import TopK, find_scores

_NAMED: dict[str, Callable[[], Metric]] = {
    "top1": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "cosine": Cosine,
    "sqnr": Sqnr,
    "max-abs-error": MaxAbsError,
    "argmax-agreement": ArgmaxAgreement,
    "agreement": Agreement,
}


@dataclass(frozen=True)
class Choice:
    """The metrics of an evaluation.

    Attributes:
        task: Scores each model against labels; None without.
        fidelity: Compare the candidate's outputs with the reference's.
        inferred: The user named no metric: labels that are classes are used where `task_for` finds a metric for them.
    """

    task: TaskMetric | None
    fidelity: tuple[Fidelity, ...]
    inferred: bool = False


def names() -> tuple[str, ...]:
    """What ``--metric`` knows besides ``file.py:function``."""
    return tuple(_NAMED)


def parse(name: str) -> Metric:
    """A fresh metric: one of `names`, or the function behind ``file.py:function``.

    Raises:
        InputError: No metric has that name, or the file or function is not there.
    """
    if name.rpartition(":")[0].endswith(".py"):
        return Custom(name)
    if name not in _NAMED:
        raise InputError(
            f"unknown metric '{name}'",
            note=f"metrics: {', '.join(_NAMED)}, or file.py:function",
            hint=did_you_mean(name, _NAMED),
        )
    return _NAMED[name]()


def choose(metric: Metric | None, outputs: Outputs) -> Choice:
    """The metrics for a model, judged by the first sample; `task_for` finds one that uses the labels.

    Args:
        metric: What the user asked for, from `parse`. The fidelity metrics that suit the outputs come with it, unless
            the user asked for one of them.
        outputs: The reference's outputs for the first sample.
    """
    if isinstance(metric, TaskMetric):
        return Choice(metric, fidelity_set(outputs))
    if isinstance(metric, Fidelity):
        return Choice(None, (metric,))
    return Choice(None, fidelity_set(outputs), inferred=True)


def task_for(reference: Outputs, candidate: Outputs, label: np.ndarray) -> TaskMetric | None:
    """The metric for labels that are class numbers which fit an output of one of the models; None for others.

    The outputs of one sample may hold no row that labels fit, and those of the next do.
    """
    return TopK(1, inferred=True) if _are_classes(reference, label) or _are_classes(candidate, label) else None


UNUSED_LABELS = (
    "the labels are not class numbers that fit an output, so they are not used: --metric file.py:function can"
)
"""What the reader is told where `task_for` found no metric on any sample."""


def fidelity_set(outputs: Outputs) -> tuple[Fidelity, ...]:
    """The metrics that may suit a model with these outputs; each passes over samples that it does not suit."""
    chosen: list[Fidelity] = []
    if any(is_float(out) for out in outputs):
        chosen += [Cosine(inferred=True), Sqnr(inferred=True), MaxAbsError(inferred=True)]
        chosen.append(ArgmaxAgreement(inferred=True))
    if any(not is_float(out) for out in outputs):
        chosen.append(Agreement(inferred=True))
    return tuple(chosen)


def _are_classes(outputs: Outputs, label: np.ndarray) -> bool:
    if label.dtype.kind not in "iu" or not label.size:
        return False
    scores = find_scores(outputs, label)
    return scores is not None and 0 <= int(label.min()) <= int(label.max()) < scores.shape[-1]
