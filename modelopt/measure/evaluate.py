"""Accuracy of two models on the same data, sample by sample: memory is flat in the number of samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.data.dataset import Dataset, Sample
from modelopt.measure import stability
from modelopt.measure.batch_rows import batch_axis, rows_first
from modelopt.measure.chance import Standing, caution
from modelopt.measure.custom import Custom
from modelopt.measure.heads import Head
from modelopt.measure.metric import NOTHING_COMPARED, Outputs, Score, is_blank
from modelopt.measure.outputs import OutputScore, OutputScores
from modelopt.measure.reference import Reference, matched_outputs
from modelopt.measure.registry import UNUSED_LABELS, Asked, MetricChoice, choose, parse_all, task_for
from modelopt.measure.stability import blanked
from modelopt.measure.structure import label_positions, value_positions, values_beside
from modelopt.measure.task_score import TaskScore, task_score
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """How well two models do on the same data.

    Attributes:
        n: Samples run.
        tasks: The scores at the task, the one that fell most first; empty without labels that a metric can use.
        outputs: Each output beside the original's, by what it stands for; where a task or a metric over all outputs
            decides, only those that the user named a metric for.
        fidelity: How close the outputs are, without labels; a score without a value compared nothing, or says why.
        named: The user named a metric over all outputs, and `fidelity` holds that.
        notes: What the reader should know.
        warnings: What speaks against believing the scores.
        unstable: Outputs that the original gives differently from run to run: only the labels say something of them.
        data_sha256: The digest (hex) of the data; None where it was not taken.
    """

    n: int
    tasks: tuple[TaskScore, ...]
    outputs: tuple[OutputScore, ...]
    fidelity: tuple[Score, ...]
    named: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()
    data_sha256: str | None = None


def evaluate(
    reference: Path,
    candidate: Path,
    dataset: Dataset,
    spec: SessionSpec | None = None,
    *,
    baseline: SessionSpec | None = None,
    metrics: Sequence[str] = (),
    heads: Mapping[str, Head] | None = None,
    limits: Limits | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Run both models over the data, each in a child of its own.

    Outputs are matched by name, and those whose names the other model does not have by their order.

    Args:
        reference: The original, already through io's gate.
        candidate: The model to hold against it.
        dataset: Samples that fit the reference's inputs.
        spec: How to open both sessions; idle threads do not spin whatever it says.
        baseline: How to open the reference, where that differs (another provider); None as `spec`.
        metrics: Names from `metrics.names`, ``file.py:function``, or ``OUTPUT=NAME`` for one output; none chooses.
        heads: How the reference ends at each output: see `heads.heads_of`.
        limits: What each child may use.
        progress: Told of samples done.

    Raises:
        EnvironmentLacks: The provider is not there.
        InputError: There are no samples, no metric has that name or suits the data, or the models take different
            inputs.
        Refused: onnxruntime does not load or run a model.
        WorkerDied: A child crashed or exceeded its limits.
    """
    asked = parse_all(metrics)
    quiet = msgspec.structs.replace(spec or SessionSpec(), spin=False)
    with Worker(limits) as first, Worker(limits) as second:
        usual = quiet if baseline is None else msgspec.structs.replace(baseline, spin=False)
        before = first.open(reference, usual)
        after = second.open(candidate, quiet)
        found = score(Reference(before, dataset, heads=heads), after, asked, progress)
    return msgspec.structs.replace(found, data_sha256=dataset.digest())


def score(before: Reference, after: Session | None, asked: Asked, progress: Progress = silent) -> Accuracy:
    """Run an open session over the reference's data; None scores the reference alone. See `evaluate`."""
    names = [] if after is None else matched_outputs(before.session, after)
    dataset = before.dataset
    total = len(dataset)
    found: _Scoring | None = None
    info = before.session.info
    for sample, given in before:
        answers = given if after is None else after.run(sample.feeds, names)
        reference, candidate, unlike = values_beside(info.whole, given, answers)
        if found is None:
            outputs = [info.outputs[position].name for position in value_positions(info.whole)]
            moving = before.unstable(sample, given)
            found = _Scoring(choose(asked, reference), asked, outputs, before.heads, moving)
        if sample.label is not None:
            sample = dataclasses.replace(sample, label=label_positions(info.whole, given, sample.label))
        found.update(sample, reference, candidate, unlike)
        progress("evaluating", found.n, total)
    if found is None:
        raise InputError(f"{dataset.source} holds no sample", hint="accuracy needs at least one")
    return found.accuracy()


class _Scoring:
    """What an evaluation has seen so far.

    Args:
        choice: The metrics; one that uses the labels may be found at a later sample.
        asked: What the user named.
        outputs: The outputs' names.
        heads: How the original ends at each of them.
        moving: Positions of outputs that the original gives differently from run to run: they are not compared.
    """

    def __init__(
        self,
        choice: MetricChoice,
        asked: Asked,
        outputs: Sequence[str],
        heads: Mapping[str, Head],
        moving: frozenset[int] = frozenset(),
    ) -> None:
        self.n = 0
        self._moving = moving
        self._heads = heads
        self._axes: list[int] | None = None
        self._choice = choice
        self._tasks = list(choice.tasks)
        self._labelled = False
        self._outputs = tuple(outputs)
        self._blank = np.zeros(len(outputs), np.int64)
        self._unlike = np.zeros(len(outputs), np.int64)
        self._left_out = 0
        self._asked = asked
        self._each = OutputScores(outputs, heads, asked.outputs)
        if asked.tasks or asked.fidelity:
            self._each.keep_named()

    def update(self, sample: Sample, reference: Outputs, candidate: Outputs, unlike: Sequence[int] = ()) -> None:
        """Take in one sample; `unlike` are positions of outputs whose keys, or whose tensors' shapes, differ.

        Raises:
            InputError: The metric that the user named does not suit it.
        """
        given = reference, candidate
        if self._axes is None:
            self._axes = [
                batch_axis(self._heads.get(name, Head()), output, sample.rows)
                for name, output in zip(self._outputs, reference, strict=True)
            ]
        answers, others = (rows_first(each, self._axes) for each in given)
        reference, candidate = (blanked(each, self._moving) for each in (answers, others))
        blank = np.array([is_blank(a) and is_blank(b) for a, b in zip(reference, candidate, strict=True)], bool)
        self._blank += blank
        self._unlike[list(unlike)] += 1
        self._left_out += bool(blank.all())
        if self._choice.inferred and not self._tasks and sample.label is not None:
            self._labelled = True
            found = task_for(answers, others, sample.label)
            if found is not None:
                found.pass_over(self.n)
                self._tasks.append(found)
                self._each.keep_named()
        self.n += 1
        try:
            for task in self._tasks:
                # The user's code sees what the model gives.
                seen = given if isinstance(task, Custom) else (answers, others)
                task.update(*seen, sample.label)
            for each in self._choice.fidelity:
                each.update(reference, candidate, sample.label)
            self._each.update(reference, candidate)
        except InputError as error:
            raise InputError(f"{sample.name}: {error.fact}", note=error.note, hint=error.hint) from error

    def accuracy(self) -> Accuracy:
        """The scores."""
        tasks = sorted(map(task_score, self._tasks), key=_by_fall)
        said = None
        chance = tasks[0].chance if tasks else None
        if chance is not None and tasks[0].reference.value is not None:
            said = caution(tasks[0].reference.name, tasks[0].reference.value, chance)
        doubtful = chance is not None and chance.standing in {Standing.AT_CHANCE, Standing.UNCLEAR}
        notes = (*self._notes(), *(note for task in self._tasks for note in task.cautions()))
        return Accuracy(
            n=self.n,
            tasks=tuple(tasks),
            outputs=self._each.scores(),
            fidelity=tuple(each.score() for each in self._choice.fidelity if each.suits),
            named=bool(self._asked.fidelity),
            notes=notes if doubtful or said is None else (*notes, said),
            warnings=(said,) if doubtful and said is not None else (),
            unstable=tuple(self._outputs[position] for position in sorted(self._moving)),
        )

    def _notes(self) -> Iterator[str]:
        if self._moving:
            yield stability.said(self._outputs, self._moving)
        if self._left_out == self.n and len(self._moving) < len(self._outputs):
            yield f"{NOTHING_COMPARED}: the outputs hold none on any of the {self.n} samples"
            return
        if self._left_out:
            yield f"{self._left_out} of {self.n} samples are not counted: their outputs hold no element"
        for position, (name, blank) in enumerate(zip(self._outputs, self._blank, strict=True)):
            if blank == self.n and position not in self._moving:
                yield f"output '{name}' was not compared: it holds no element on any of the {self.n} samples"
        for name, unlike in zip(self._outputs, self._unlike, strict=True):
            if unlike:
                yield f"the keys or shapes within output '{name}' differ on {unlike} of {self.n} samples"
        if self._labelled and not self._tasks:
            yield UNUSED_LABELS


def _by_fall(found: TaskScore) -> tuple[bool, float]:
    """One that is not known first, then the one that fell most."""
    return found.fall is not None, 0.0 if found.fall is None else -found.fall
