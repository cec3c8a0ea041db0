"""Accuracy of two models on the same data, sample by sample: memory is flat in the number of samples."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np

from modelopt.data.sample import Dataset, Sample
from modelopt.errors import InputError
from modelopt.measure.metric import Metric, Score
from modelopt.measure.metrics import Choice, choose, parse
from modelopt.measure.stats import Delta
from modelopt.progress import Progress, silent
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Limits, Session, Worker

_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"})


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How well two models do on the same data.

    Attributes:
        n: Samples run.
        reference: The original's score at the task; None without labels that a metric can use.
        candidate: The other model's score.
        delta: Candidate minus reference, paired.
        fidelity: How close the outputs are, without labels.
        notes: What the reader should know.
    """

    n: int
    reference: Score | None
    candidate: Score | None
    delta: Delta | None
    fidelity: tuple[Score, ...]
    notes: tuple[str, ...] = ()


def evaluate(
    reference: Path,
    candidate: Path,
    dataset: Dataset,
    spec: SessionSpec | None = None,
    *,
    baseline: SessionSpec | None = None,
    metric: str | None = None,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Run both models over the data, each in a child of its own.

    Outputs are matched by name where both models have the same names, else by position.

    Args:
        reference: The original, already through io's gate.
        candidate: The model to hold against it.
        dataset: Samples that fit the reference's inputs.
        spec: How to open both sessions; idle threads do not spin whatever it says.
        baseline: How to open the reference, where that differs (another provider); None as `spec`.
        metric: A name from `metrics.names` or ``file.py:function``; None chooses.
        limits: What each child may use.
        progress: Told of samples done.

    Raises:
        EnvironmentLacks: The provider is not there.
        InputError: There are no samples, no metric has that name or suits the data, or the models take different
            inputs.
        Refused: onnxruntime does not load or run a model.
        WorkerDied: A child crashed or exceeded its limits.
    """
    asked = None if metric is None else parse(metric)
    quiet = msgspec.structs.replace(spec or SessionSpec(), spin=False)
    with Worker(limits) as first, Worker(limits) as second:
        usual = quiet if baseline is None else msgspec.structs.replace(baseline, spin=False)
        before = first.open(reference, usual, what="reference model")
        after = second.open(candidate, quiet, what="candidate model")
        return score(Reference(before, dataset), after, asked, progress)


class Reference:
    """What a model answers to each sample of a data set, computed once as far as memory allows.

    Args:
        session: The model, open.
        dataset: The samples.
        keep_bytes: How many bytes of outputs to keep for the next time; the model runs again for the rest.
    """

    def __init__(self, session: Session, dataset: Dataset, keep_bytes: int = 0) -> None:
        self.session = session
        self.dataset = dataset
        self._room = keep_bytes
        self._kept: dict[int, list[np.ndarray]] = {}

    def __iter__(self) -> Iterator[tuple[Sample, list[np.ndarray]]]:
        for position, sample in enumerate(self.dataset):
            outputs = self._kept.get(position)
            if outputs is None:
                outputs = self.session.run(sample.feeds)
                size = sum(output.nbytes for output in outputs)
                if size <= self._room:
                    self._kept[position] = outputs
                    self._room -= size
            yield sample, outputs


def score(before: Reference, after: Session, asked: Metric | None, progress: Progress = silent) -> Accuracy:
    """Run an open session over the reference's data; see `evaluate`."""
    names = _matched_outputs(before.session, after)
    dataset = before.dataset
    total = len(dataset)
    choice: Choice | None = None
    done = 0
    for sample, reference in before:
        candidate = after.run(sample.feeds, names)
        if choice is None:
            choice = choose(asked, reference, sample.label)
        _update(choice, sample, reference, candidate)
        done += 1
        progress("evaluating", done, total)
    if choice is None:
        raise InputError(f"{dataset.source} holds no sample", hint="accuracy needs at least one")
    task = choice.task
    return Accuracy(
        n=done,
        reference=None if task is None else task.reference_score(),
        candidate=None if task is None else task.score(),
        delta=None if task is None else task.delta(),
        fidelity=tuple(each.score() for each in choice.fidelity),
        notes=(choice.note,) if choice.note else (),
    )


def _update(choice: Choice, sample: Sample, reference: list[np.ndarray], candidate: list[np.ndarray]) -> None:
    try:
        if choice.task is not None:
            choice.task.update(reference, candidate, sample.label)
        for each in choice.fidelity:
            each.update(reference, candidate, sample.label)
    except InputError as error:
        raise InputError(f"{sample.name}: {error.fact}", note=error.note, hint=error.hint) from error


def _matched_outputs(before: Session, after: Session) -> list[str]:
    """The candidate's outputs in the reference's order."""
    inputs = {value.name for value in before.info.inputs}, {value.name for value in after.info.inputs}
    if inputs[0] != inputs[1]:
        raise InputError(
            "the two models take different inputs",
            note=f"{', '.join(sorted(inputs[0]))} and {', '.join(sorted(inputs[1]))}",
        )
    ours = [value.name for value in before.info.outputs]
    theirs = [value.name for value in after.info.outputs]
    if len(ours) != len(theirs):
        raise InputError(f"the two models have {len(ours)} and {len(theirs)} outputs", note="they cannot be compared")
    names = ours if set(ours) == set(theirs) else theirs
    types = after.info.output_types()
    for was, name in zip(before.info.output_types().values(), names, strict=True):
        if was != types[name] and not {was, types[name]} <= _FLOATS:
            raise InputError(f"output '{name}' is {types[name]} in one model and {was} in the other")
    return names
