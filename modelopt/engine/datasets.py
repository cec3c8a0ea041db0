"""The data of a run: the calibration and evaluation samples, and the random inputs that stand in for them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.core.signature import Signature, is_free
from modelopt.data import BatchAxes, Dataset, MemoryData, open_data, open_memory, overlap, split
from modelopt.data.columns import Columns
from modelopt.data.dtypes import holds_floats
from modelopt.data.preprocess_config import read_preprocess
from modelopt.data.synthetic import RandomDataset
from modelopt.engine import random_inputs, settings
from modelopt.graph import quantized_io
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.heads import Head, heads_of
from modelopt.measure.outputs import require_outputs
from modelopt.measure.registry import parse_all
from modelopt.recipe.recipe import DataSpec, EvaluateSpec, Recipe
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.fitting import Needs
from modelopt.verification.nothing_runs import GIVE_DATA, nothing_runs

RANDOM_SAMPLES = 16
"""How many random samples stand in for data when outputs are compared without any: a guess."""

MIN_TO_SPLIT = 8
"""Fewer calibration samples than this are all used to calibrate: a guess."""

HELD_OUT = 0.25
"""The share of the calibration samples that is held out where there are no evaluation data: a guess."""

BENCH_FEEDS = 4
"""How many samples are timed in turn."""

Feeds = Sequence[dict[str, np.ndarray]]


@dataclass
class Data:
    """The data of a run.

    Attributes:
        signature: Of the model.
        calibration: None when the recipe has none.
        evaluation: None when the recipe has none.
        notes: What the reader should know about them.
        hint: What helps where random inputs do not do: flags of the command that runs.
        calibration_notes: Notes on the calibration, for a run that calibrates.
        accuracy_notes: Notes on the accuracy, for a run that measures it.
        seed: For random inputs.
        random: Random inputs that the model runs on, once they were needed.
        needs: What the graph asks of its inputs: see `verification.fitting`.
        endless: Why a run of the model would not end; None where nothing says so.
        heads: How the graph ends at each output: see `measure.heads`.
    """

    signature: Signature
    calibration: Dataset | None
    evaluation: Dataset | None
    notes: tuple[str, ...]
    seed: int
    random: Dataset | None = field(default=None)
    heads: Mapping[str, Head] = field(default_factory=dict)
    needs: Needs = field(default_factory=Needs)
    endless: str | None = None
    hint: str = GIVE_DATA
    calibration_notes: tuple[str, ...] = ()
    accuracy_notes: tuple[str, ...] = ()

    def notes_for(self, *, calibrated: bool, compared: bool) -> tuple[str, ...]:
        """`notes`, and those on calibration and on accuracy where there was one."""
        about_calibration = self.calibration_notes if calibrated else ()
        return (*self.notes, *about_calibration, *(self.accuracy_notes if compared else ()))

    @property
    def real(self) -> Dataset | None:
        """What the recipe names to compare outputs on: evaluation data, else calibration data; None without."""
        return self.evaluation if self.evaluation is not None else self.calibration

    @property
    def guesses(self) -> tuple[str, ...]:
        """The parts of the preprocessing of `real` that were guessed."""
        return () if self.real is None else self.real.guesses

    @property
    def users(self) -> Dataset | None:
        """`real`, but None where the recipe calls it ``random``."""
        return None if isinstance(self.real, RandomDataset) else self.real

    @property
    def users_source(self) -> str | None:
        """Where `users` come from; None without."""
        return None if self.users is None else self.users.source

    @property
    def source(self) -> str:
        """What outputs are compared on, in words."""
        return f"random inputs, seed {self.seed}" if self.real is None else self.real.source


def doubtful_guesses(accuracy: Accuracy | None, guesses: Sequence[str]) -> str | None:
    """A note where the original scores no better than chance and the images' preprocessing was guessed; else None."""
    if not guesses or accuracy is None or not accuracy.warnings:
        return None
    guessed = ",".join(guesses)
    return f"guessed: {guessed}; if the model was trained with other values, say so: --preprocess {guessed}"


def doubts(accuracy: Accuracy, guesses: Sequence[str]) -> Iterator[str]:
    """What the reader should know of the accuracy, and what speaks against believing it."""
    guessed = doubtful_guesses(accuracy, guesses)
    yield from (*accuracy.notes, *accuracy.warnings, *([] if guessed is None else [guessed]))


def signature_of(model: ir.Model) -> Signature:
    """The signature that data, metrics and comparisons see: integers that stand for floats are float32."""
    return quantized_io.in_floats(graph.signature(model), model.metadata_props)


def open_all(
    recipe: Recipe,
    model: ir.Model,
    signature: Signature | None = None,
    memory: Mapping[str, MemoryData] | None = None,
) -> Data:
    """Open the recipe's data and check them against the model's inputs.

    Without evaluation data a part of the calibration data is held out for it: ranges that were fitted to samples say
    little about others.

    Args:
        recipe: The recipe.
        model: The model.
        signature: What the data must fit; None for that of `model`.
        memory: Data in memory, by how the recipe calls them.

    Raises:
        InputError: They do not fit, or a metric was named that there is not, or for an output that there is not.
    """
    signature = signature_of(model) if signature is None else signature
    require_outputs(
        parse_all(settings.metrics_of(recipe)).outputs, [str(output.name) for output in model.graph.outputs]
    )
    calibration = _open(recipe.calibration, signature, recipe.seed, memory or {})
    evaluation = _open(recipe.evaluate, signature, recipe.seed, memory or {})
    notes = [note for dataset in (calibration, evaluation) if dataset is not None for note in dataset.notes]
    about_calibration, about_accuracy = [], []
    if recipe.calibration is not None and recipe.calibration.data == "random":
        about_calibration.append("calibrated on random inputs: accuracy on real data may be much worse than it looks")
    if calibration is not None and evaluation is not None:
        shared = overlap(calibration, evaluation)
        if shared:
            about_accuracy.append(f"{shared} evaluation samples are calibration samples too: accuracy is flattered")
    is_real = recipe.calibration is not None and recipe.calibration.data != "random"
    if calibration is not None and evaluation is None and is_real:
        if len(calibration) >= MIN_TO_SPLIT:
            calibration, evaluation = split(calibration, HELD_OUT, recipe.seed)
            about_accuracy.append(
                f"no --eval: {len(evaluation)} of the calibration samples are held out to compare outputs on"
            )
        else:
            about_accuracy.append("no --eval, and too few calibration samples to hold some out: accuracy is flattered")
    return Data(
        signature,
        calibration,
        evaluation,
        tuple(dict.fromkeys(notes)),
        recipe.seed,
        heads=heads_of(model),
        needs=Needs.of(model),
        calibration_notes=tuple(about_calibration),
        accuracy_notes=tuple(about_accuracy),
    )


def _open(spec: DataSpec | None, signature: Signature, seed: int, memory: Mapping[str, MemoryData]) -> Dataset | None:
    if spec is None:
        return None
    labels = Path(spec.labels) if spec.labels else None
    batch_axes = BatchAxes(spec.batch_axis, spec.whole_files)
    # Calibration needs no labels, so its table may lack their column.
    columns = Columns(
        spec.label_column,
        require_label=isinstance(spec, EvaluateSpec),
        tokenizer=Path(spec.tokenizer) if spec.tokenizer else None,
    )
    if spec.data in memory:
        if columns.label is not None and columns.require_label:
            raise InputError("arrays in memory have no columns", hint="leave out --label-column")
        if columns.tokenizer is not None:
            raise InputError("arrays in memory are no text", hint="leave out --tokenizer")
        return open_memory(
            memory[spec.data],
            signature.inputs,
            source=spec.data,
            labels=labels,
            limit=spec.limit,
            batch=spec.batch,
            seed=seed,
            batch_axes=batch_axes,
        )
    return open_data(
        spec.data,
        signature.inputs,
        preprocess=read_preprocess(spec.preprocess) if spec.preprocess else None,
        labels=labels,
        limit=spec.limit,
        batch=spec.batch,
        seed=seed,
        batch_axes=batch_axes,
        columns=columns,
    )


def inputs(data: Data, worker: Worker, model: Path, free_dims: Mapping[str, int] | None = None) -> Dataset:
    """Inputs that the model runs on: the real data, else random ones of a size that works, found by trying.

    Raises:
        InputError: The model runs on no random input.
        Refused: onnxruntime does not load the model.
    """
    if data.real is not None:
        return data.real
    if data.random is None:
        data.random = _random(data, worker, model, RANDOM_SAMPLES, free_dims)
    return data.random


def fit_random(recipe: Recipe, data: Data, worker: Worker, model: Path) -> None:
    """Give the data that the recipe calls ``random`` sizes that the model runs on and integers that its graph permits.

    Raises:
        InputError: The model runs on no random input.
        Refused: onnxruntime does not load the model.
    """
    inputs = data.signature.inputs
    is_free_somewhere = any(is_free(dim) for spec in inputs for dim in (spec.shape or ())[1:])
    least = sum(math.prod(1 if is_free(dim) else int(dim or 0) for dim in spec.shape or ()) for spec in inputs)
    is_usual = not is_free_somewhere and data.needs.why_too_large(least) is None
    if is_usual and all(holds_floats(spec) and not data.needs.bounds(spec) for spec in inputs):
        return
    if recipe.calibration is not None and recipe.calibration.data == "random" and data.calibration is not None:
        data.calibration = _random(data, worker, model, len(data.calibration), hint="give it real ones: --calib DATA")
    if recipe.evaluate is not None and recipe.evaluate.data == "random" and data.evaluation is not None:
        data.evaluation = _random(data, worker, model, len(data.evaluation))


def _random(
    data: Data,
    worker: Worker,
    model: Path,
    n: int,
    free_dims: Mapping[str, int] | None = None,
    *,
    hint: str | None = None,
) -> Dataset:
    if data.endless is not None:
        raise nothing_runs("random", data.endless, data.signature, hint=hint or data.hint)
    session = worker.keep(model, SessionSpec(spin=False))
    return random_inputs.find(
        session, data.signature, data.needs, n=n, seed=data.seed, free_dims=free_dims, hint=hint or data.hint
    )


def first_feeds(dataset: Dataset, count: int) -> Feeds:
    """The feeds of the first `count` samples."""
    return [sample.feeds for sample in islice(dataset, count)]
