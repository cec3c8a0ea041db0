"""Metrics by name, and the choice of those that suit a model and its data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelopt.errors import InputError, did_you_mean
from modelopt.measure.agreement import Agreement, ArgmaxAgreement, class_scores
from modelopt.measure.custom import Custom
from modelopt.measure.fidelity import Cosine, MaxAbsError, Sqnr
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
        note: Why there is no task metric although there are labels, else None.
    """

    task: TaskMetric | None
    fidelity: tuple[Metric, ...]
    note: str | None = None


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


def choose(metric: Metric | None, outputs: Outputs, label: np.ndarray | None) -> Choice:
    """The metrics for a model and its data, judged by the first sample.

    Args:
        metric: What the user asked for, from `parse`; None picks top1 where the labels are class numbers that fit an
            output. The fidelity metrics that suit the outputs come with it, unless the user asked for one of them.
        outputs: The reference's outputs for the first sample.
        label: Its label.
    """
    if isinstance(metric, TaskMetric):
        return Choice(metric, fidelity_set(outputs))
    if metric is not None:
        return Choice(None, (metric,))
    if label is None:
        return Choice(None, fidelity_set(outputs))
    if _are_classes(outputs, label):
        return Choice(TopK(1), fidelity_set(outputs))
    note = "the labels are not class numbers that fit an output, so they are not used: --metric file.py:function can"
    return Choice(None, fidelity_set(outputs), note)


def fidelity_set(outputs: Outputs) -> tuple[Metric, ...]:
    """The metrics that suit a model with these outputs."""
    chosen: list[Metric] = []
    if any(is_float(out) for out in outputs):
        chosen += [Cosine(), Sqnr(), MaxAbsError()]
    if class_scores(outputs) is not None:
        chosen.append(ArgmaxAgreement())
    if any(not is_float(out) for out in outputs):
        chosen.append(Agreement())
    return tuple(chosen)


def _are_classes(outputs: Outputs, label: np.ndarray) -> bool:
    if label.dtype.kind not in "iu" or not label.size:
        return False
    scores = find_scores(outputs, label)
    return scores is not None and 0 <= int(label.min()) <= int(label.max()) < scores.shape[-1]
