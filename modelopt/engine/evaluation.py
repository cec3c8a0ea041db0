"""Scores one model on labelled data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from modelopt import io
from modelopt.core import temporary
from modelopt.core.errors import InputError
from modelopt.core.plural import counted
from modelopt.core.progress import Progress
from modelopt.data import Dataset, MemoryData
from modelopt.engine import datasets, early_checks, judging, run_limits, settings
from modelopt.engine.bounds import at_least
from modelopt.engine.compiled_models import require_source
from modelopt.measure.evaluate import score
from modelopt.measure.metric import Score
from modelopt.measure.reference import Reference
from modelopt.measure.registry import parse_all
from modelopt.measure.stats import proportion_interval
from modelopt.measure.task_score import UnitScores
from modelopt.recipe.recipe import EvaluateSpec, Gates, OnInconclusive, Recipe
from modelopt.report import FileInfo, GateOutcome, GateResult
from modelopt.report.evaluation_report import ClassScore, EvaluationReport, score_text
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """A model, and the data to score it on.

    Attributes:
        model: The file.
        data: The data, with their labels.
        session: How to open the model.
        min_score: The least value of the first metric, as a fraction; None is not judged.
        on_inconclusive: What that gate does where it cannot be decided; None fails.
        limits: Of the child process.
        accepted: What the file may be.
        memory: Data in memory, by how `data` calls them.
        progress: Told of samples done.
    """

    model: Path
    data: EvaluateSpec
    session: SessionSpec
    min_score: float | None
    on_inconclusive: OnInconclusive | None
    limits: Limits | None
    accepted: io.Accepted
    memory: Mapping[str, MemoryData] | None
    progress: Progress


def evaluate_model(asked: Evaluation) -> EvaluationReport:
    """Score a model.

    Raises:
        InputError: The data hold no labels that a metric can use.
        ModeloptError: Any of its kinds.
    """
    recipe = Recipe(steps=(), evaluate=asked.data)
    early_checks.require(recipe, asked.memory or ())
    early_checks.require_provider(asked.session.provider)
    with temporary.folder() as scratch:
        loaded = io.load(asked.model, scratch=scratch, accepted=asked.accepted)
        require_source(loaded.model, loaded.shown, provider=asked.session.provider)
        limits, _ = run_limits.required(asked.limits, loaded)
        opened = datasets.open_all(recipe, loaded.model, memory=asked.memory)
        data = opened.evaluation
        if data is None:
            raise ValueError("the recipe names no data")
        with Worker(limits) as worker:
            session = worker.open(loaded.path, msgspec.structs.replace(asked.session, spin=False))
            metrics = parse_all(settings.metrics_of(recipe))
            found = score(Reference(session, data, heads=opened.heads), None, metrics, asked.progress)
    if not found.tasks:
        raise InputError(
            f"{data.source} holds no labels that a metric can use",
            note=found.notes[0] if found.notes else None,
            hint="give labels: --labels FILE, or a metric for them: --metric",
        )
    scores = tuple(task.reference for task in found.tasks)
    gate = _judged(scores[0], asked)
    units = found.tasks[0].units
    return EvaluationReport(
        verdict=f"{scores[0].name} {score_text(scores[0])} on {counted(scores[0].n, 'sample')}.",
        model=FileInfo(path=loaded.shown, size_bytes=loaded.size_bytes, sha256=loaded.sha256),
        source=data.source,
        data_sha256=data.digest(),
        n=found.n,
        scores=scores,
        classes=() if units is None else _by_class(data, units),
        gates=() if gate is None else judging.with_consequences(Gates(on_inconclusive=asked.on_inconclusive), [gate]),
        notes=tuple(
            dict.fromkeys(
                (
                    *opened.notes_for(calibrated=False, compared=True),
                    *datasets.doubts(found, opened.guesses),
                )
            )
        ),
    )


def _by_class(data: Dataset, units: UnitScores) -> tuple[ClassScore, ...]:
    """The recall of each class, least first; empty where an answer is no class, or several make one unit."""
    if units.counts is not None or not set(units.sums) <= {0.0, 1.0}:
        return ()
    labels = [sample.label.ravel() for sample in data if sample.label is not None and sample.label.dtype.kind in "iu"]
    flat = np.concatenate(labels) if labels else np.zeros(0, np.int64)
    if len(flat) != len(units.sums):
        return ()
    totals = Counter(flat.tolist())
    right = Counter(flat[np.array(units.sums) == 1].tolist())
    found: list[ClassScore] = []
    for label, n in totals.items():
        ends = proportion_interval(right[label], n)
        recall = right[label] / n
        found.append(ClassScore(label=label, right=right[label], n=n, recall=recall, low=ends.low, high=ends.high))
    return tuple(sorted(found, key=lambda each: (each.recall, each.label)))


def _judged(first: Score, asked: Evaluation) -> GateResult | None:
    """Judge the least score."""
    least = asked.min_score
    if least is None:
        return None
    limit, found = f"{least:.2%}", score_text(first)
    if first.unit != "share" or not first.higher_is_better or first.value is None:
        raise InputError(f"--min-score bounds a share of right answers, and {first.name} is none")
    outcome = at_least(first.low, first.high, least)
    hint = f"{first.n:,} samples are too few to tell: give more" if outcome is GateOutcome.INCONCLUSIVE else None
    return GateResult(gate="min-score", limit=limit, found=found, outcome=outcome, hint=hint)
