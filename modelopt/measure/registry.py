"""Metrics by name, and the choice of those that suit a model and its data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.measure.agreement import Agreement, ArgmaxAgreement
from modelopt.measure.custom import Custom
from modelopt.measure.detection_agreement import DetectionAgreement
from modelopt.measure.error_rate import CharacterErrorRate, WordErrorRate
from modelopt.measure.f1 import F1
from modelopt.measure.fidelity import Cosine, Fidelity, MaxAbsError, Sqnr
from modelopt.measure.metric import Metric, Outputs, is_float
from modelopt.measure.outputs import parse_named
from modelopt.measure.regression import MeanAbsoluteError, RootMeanSquareError
from modelopt.measure.retrieval import RecallAtK
from modelopt.measure.task_metric import TaskMetric
from modelopt.measure.topk import TopK, find_scores

_NAMED: dict[str, Callable[[], Metric]] = {
    "top1": lambda: TopK(1),
    "top5": lambda: TopK(5),
    "f1": F1,
    "recall@1": lambda: RecallAtK(1),
    "recall@5": lambda: RecallAtK(5),
    "recall@10": lambda: RecallAtK(10),
    "wer": WordErrorRate,
    "cer": CharacterErrorRate,
    "mae": MeanAbsoluteError,
    "rmse": RootMeanSquareError,
    "cosine": Cosine,
    "sqnr": Sqnr,
    "max-abs-error": MaxAbsError,
    "argmax-agreement": ArgmaxAgreement,
    "agreement": Agreement,
    "detection-agreement": DetectionAgreement,
}


@dataclass(frozen=True)
class Asked:
    """The metrics that the user named.

    Attributes:
        tasks: Metrics that score each model against labels.
        fidelity: Metrics that compare all outputs.
        outputs: The measure of an output, by the output's name: see `outputs.OutputScores`.
    """

    tasks: tuple[TaskMetric, ...] = ()
    fidelity: tuple[Fidelity, ...] = ()
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricChoice:
    """The metrics of an evaluation.

    Attributes:
        tasks: Score each model against labels.
        fidelity: Compare the candidate's outputs with the reference's.
        inferred: The user named no metric, so `task_for` may find one that uses the labels.
    """

    tasks: tuple[TaskMetric, ...]
    fidelity: tuple[Fidelity, ...]
    inferred: bool = False


def names() -> tuple[str, ...]:
    """The names that ``--metric`` takes besides ``file.py:function``."""
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


def parse_all(names: Sequence[str]) -> Asked:
    """Fresh metrics for what the user named: see `parse`, and ``OUTPUT=NAME`` for one output.

    Raises:
        InputError: No metric has that name, or the file or function is not there.
    """
    asked = Asked()
    for name in names:
        pair = parse_named(name)
        if pair is not None:
            asked.outputs[pair[0]] = pair[1]
            continue
        metric = parse(name)
        if isinstance(metric, TaskMetric):
            asked = replace(asked, tasks=(*asked.tasks, metric))
        elif isinstance(metric, Fidelity):
            asked = replace(asked, fidelity=(*asked.fidelity, metric))
    return asked


def choose(asked: Asked, outputs: Outputs) -> MetricChoice:
    """The metrics for a model, judged by the first sample; `task_for` finds one that uses the labels.

    Args:
        asked: What the user asked for. The fidelity metrics that suit the outputs come with it, unless the user asked
            for some of them.
        outputs: The reference's outputs for the first sample.
    """
    inferred = not (asked.tasks or asked.fidelity)
    return MetricChoice(asked.tasks, asked.fidelity or fidelity_set(outputs), inferred=inferred)


def task_for(reference: Outputs, candidate: Outputs, label: np.ndarray) -> TaskMetric | None:
    """The metric for labels that are class numbers which fit an output of one of the models; None for others.

    The outputs of one sample may hold no rows that fit the labels, while those of the next do.
    """
    return TopK(1, inferred=True) if _are_classes(reference, label) or _are_classes(candidate, label) else None


UNUSED_LABELS = (
    "the labels are not class numbers that fit an output, so they are not used: --metric file.py:function can use them"
)
"""The note where `task_for` found no metric on any sample."""


def fidelity_set(outputs: Outputs) -> tuple[Fidelity, ...]:
    """The metrics that may suit a model with these outputs; each passes over samples that it does not suit."""
    chosen: list[Fidelity] = []
    if any(is_float(out) for out in outputs):
        chosen += [Cosine(inferred=True), Sqnr(inferred=True), MaxAbsError(inferred=True)]
    if any(not is_float(out) for out in outputs):
        chosen.append(Agreement(inferred=True))
    return tuple(chosen)


def _are_classes(outputs: Outputs, label: np.ndarray) -> bool:
    if label.dtype.kind not in "iu" or not label.size:
        return False
    scores = find_scores(outputs, label)
    return scores is not None and 0 <= int(label.min()) <= int(label.max()) < scores.shape[-1]
