"""The data of a run, and what is measured with them: one place that ties feeds, benchmark and evaluation together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import overload

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import graph, integers
from modelopt.data import Dataset, Preprocess, open_data, overlap, random_data, split
from modelopt.errors import InputError, Refused
from modelopt.measure.answers import gives_class_scores
from modelopt.measure.bench import BenchSpec as Bench
from modelopt.measure.bench import run_bench
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.measure.metric import Score
from modelopt.measure.schedule import Plan
from modelopt.passes.base import Effect
from modelopt.progress import Progress
from modelopt.recipe import BenchSpec, DataSpec, Recipe
from modelopt.report import Latency
from modelopt.runtime import cpu
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Limits, Worker
from modelopt.signature import Dim, Signature, TensorSpec

RANDOM_SAMPLES = 16
"""How many random feeds stand in for data when outputs are compared without any."""

_FREE_DIMS = (8, 1, 32, 64, 128, 224, 16, 48)
_IMAGE_DIMS = (224, 64, 128, 32, 48, 16, 8, 1)  # a picture of one pixel says nothing of latency
MIN_TO_SPLIT = 8
"""Fewer calibration samples are all used to calibrate."""

HELD_OUT = 0.25
"""The share of the calibration samples that is held out where there are no evaluation data."""

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
        seed: For random inputs.
        random: Random inputs that the model runs on, once they were needed.
        class_scores: Whether the model's answers are classes: without labels those are compared, else directions.
    """

    signature: Signature
    calibration: Dataset | None
    evaluation: Dataset | None
    notes: tuple[str, ...]
    seed: int
    random: Dataset | None = field(default=None)
    class_scores: bool = True

    @property
    def real(self) -> Dataset | None:
        """The best real data there are: evaluation data, else calibration data."""
        return self.evaluation if self.evaluation is not None else self.calibration

    @property
    def source(self) -> str:
        """What outputs are compared on, in words."""
        return f"random inputs, seed {self.seed}" if self.real is None else self.real.source


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What was measured.

    Attributes:
        unchanged: The output is the input: there was nothing to measure.
        latency: None where it was not measured.
        accuracy: None where it was not measured.
        class_scores: See `Data`.
        same_outputs: Verification found the outputs to be those of the input; accuracy was not measured then.
    """

    unchanged: bool
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    class_scores: bool = True
    same_outputs: bool = False

    def drop(self) -> float | None:
        """How much accuracy fell, as a fraction; None if unknown.

        That is the fall of the task's metric; without labels the share of answers whose class changed, or, where the
        answers are no classes, 1 - cosine of the least similar output; with ``--metric sqnr`` the relative error.
        """
        if self.accuracy is None:
            return None
        if self.accuracy.delta is not None and self.accuracy.candidate is not None:
            fall = -self.accuracy.delta.point
            return fall if self.accuracy.candidate.higher_is_better else -fall
        same = self._alike()
        if same is not None and same.name == "sqnr":
            return 0.0 if same.value is None else float(10 ** (-same.value / 20))
        return None if same is None or same.value is None else 1 - same.value

    def drop_of(self) -> str:
        """What `drop` is a figure of."""
        if self.accuracy is not None and self.accuracy.candidate is not None:
            return self.accuracy.candidate.name
        same = self._alike()
        if same is not None and same.name == "sqnr":
            return "error relative to the original's outputs"
        if same is None or same.name == "cosine":
            return "1 - cosine with the original's outputs"
        return "answers that differ from the original's"

    def _alike(self) -> Score | None:
        """How alike the outputs are, by the measure that suits them; what the user asked for comes first."""
        scores = {score.name: score for score in self.accuracy.fidelity} if self.accuracy is not None else {}
        order = ("argmax-agreement", "cosine", "agreement", "sqnr")
        if not self.class_scores:
            order = ("cosine", "agreement", "argmax-agreement", "sqnr")
        return next((scores[name] for name in order if name in scores), None)


def signature_of(model: ir.Model) -> Signature:
    """The signature that data, metrics and comparisons see: integers that stand for floats are float32."""
    return integers.in_floats(graph.signature(model), model.metadata_props)


def open_all(recipe: Recipe, model: ir.Model, signature: Signature | None = None) -> Data:
    """Open the recipe's data and check them against the model's inputs.

    Without evaluation data a part of the calibration data is held out for it: ranges that were fitted to samples say
    little about others.

    Args:
        recipe: The recipe.
        model: The model.
        signature: What the data must fit; None for that of `model`.

    Raises:
        InputError: They do not fit.
    """
    signature = signature_of(model) if signature is None else signature
    calibration = _open(recipe.calibration, signature, recipe.seed)
    evaluation = _open(recipe.evaluate, signature, recipe.seed)
    notes = [note for dataset in (calibration, evaluation) if dataset is not None for note in dataset.notes]
    if recipe.calibration is not None and recipe.calibration.data == "random":
        notes.append("calibrated on random inputs: accuracy on real data may be much worse than it looks")
    if calibration is not None and evaluation is not None:
        shared = overlap(calibration, evaluation)
        if shared:
            notes.append(f"{shared} evaluation samples are calibration samples too: accuracy is flattered")
    is_real = recipe.calibration is not None and recipe.calibration.data != "random"
    if calibration is not None and evaluation is None and is_real:
        if len(calibration) >= MIN_TO_SPLIT:
            calibration, evaluation = split(calibration, HELD_OUT, recipe.seed)
            notes.append(f"no --eval: {len(evaluation)} of the calibration samples are held out to compare outputs on")
        else:
            notes.append("no --eval, and too few calibration samples to hold some out: accuracy is flattered")
    scores = gives_class_scores(model)
    return Data(signature, calibration, evaluation, tuple(dict.fromkeys(notes)), recipe.seed, class_scores=scores)


def _open(spec: DataSpec | None, signature: Signature, seed: int) -> Dataset | None:
    if spec is None:
        return None
    return open_data(
        spec.data,
        signature.inputs,
        preprocess=Preprocess.parse(spec.preprocess) if spec.preprocess else None,
        labels=Path(spec.labels) if spec.labels else None,
        limit=spec.limit,
        batch=spec.batch,
        seed=seed,
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
    """Give the data that the recipe calls ``random`` a size that the model runs on, where a dimension is free.

    Raises:
        InputError: The model runs on no random input.
        Refused: onnxruntime does not load the model.
    """
    if not any(_is_free(dim) for spec in data.signature.inputs for dim in (spec.shape or ())[1:]):
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
    hint: str = "give it real ones with --eval DATA, or write --no-verify --no-bench",
) -> Dataset:
    session = worker.keep(model, SessionSpec(spin=False))
    inputs = data.signature.inputs
    note: str | None = None
    for size in _IMAGE_DIMS if any(_is_picture(spec) for spec in inputs) else _FREE_DIMS:
        candidate = random_data(inputs, n=n, seed=data.seed, free_dims=free_dims, free_dim=size)
        try:
            session.run(next(iter(candidate)).feeds)
        except Refused as refusal:
            note = note or refusal.note
            continue
        return candidate
    if note and "allocate memory" in note:
        raise Refused("the model needs more memory than this machine has", note=note)
    raise InputError(
        "the model does not run on random inputs",
        note=note,
        hint=hint,
    )


def _is_free(dim: Dim) -> bool:
    return not isinstance(dim, int) or dim < 0


def _is_picture(spec: TensorSpec) -> bool:
    """Whether an input looks like pictures of any size: (batch, 1 to 4 channels, height, width), or channels last."""
    if spec.shape is None or len(spec.shape) != 4:
        return False
    _, *others = spec.shape
    return sum(map(_is_free, others)) == 2 and any(isinstance(dim, int) and 1 <= dim <= 4 for dim in others)


class LaterFeeds(Sequence[dict[str, np.ndarray]]):
    """Feeds that are made when they are first needed: making them may have to wait for the original to load."""

    def __init__(self, make: Callable[[], Feeds]) -> None:
        self._make = make
        self._made: Feeds | None = None

    def _feeds(self) -> Feeds:
        if self._made is None:
            self._made = self._make()
        return self._made

    def __len__(self) -> int:
        return len(self._feeds())

    @overload
    def __getitem__(self, index: int) -> dict[str, np.ndarray]: ...

    @overload
    def __getitem__(self, index: slice) -> Feeds: ...

    def __getitem__(self, index: int | slice) -> dict[str, np.ndarray] | Feeds:
        return self._feeds()[index]


def first_feeds(dataset: Dataset, count: int) -> Feeds:
    """The feeds of the first `count` samples."""
    return [sample.feeds for sample in islice(dataset, count)]


def verification_feeds(dataset: Dataset, signature: Signature, worker: Worker, model: Path, count: int) -> Feeds:
    """Feeds to compare models on: the first samples, and two of them as one batch where the model takes that.

    A batch size that was folded into the graph by mistake shows only with another one.
    """
    feeds = list(first_feeds(dataset, count))
    pair = _stacked(feeds[:2], signature)
    if pair is None:
        return feeds
    with contextlib.suppress(Refused):
        worker.keep(model, SessionSpec(spin=False)).run(pair)
        feeds.append(pair)
    return feeds


def _stacked(feeds: Feeds, signature: Signature) -> dict[str, np.ndarray] | None:
    """Two feeds joined along the first axis of every input, None where one is fixed or sizes differ."""
    if len(feeds) < 2 or any(spec.rank in {None, 0} or _is_fixed(spec) for spec in signature.inputs):
        return None
    if any(len({feed[name].shape[1:] for feed in feeds}) > 1 for name in feeds[0]):
        return None
    return {name: np.concatenate([feed[name] for feed in feeds]) for name in feeds[0]}


def _is_fixed(spec: TensorSpec) -> bool:
    return spec.shape is not None and not _is_free(spec.shape[0])


def measure(
    recipe: Recipe,
    before: Path,
    after: Path,
    data: Data,
    worker: Worker,
    *,
    unchanged: bool,
    limits: Limits | None,
    progress: Progress,
) -> Findings:
    """Run the original and the result side by side: latency, then accuracy or fidelity.

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
    """
    if unchanged or (recipe.bench is None and recipe.evaluate is None and not recipe.verify):
        return Findings(unchanged=unchanged)
    worker.forget(before)
    dataset = inputs(data, worker, before)
    latency = None
    if recipe.bench is not None:
        latency = time_both(recipe.bench, before, after, first_feeds(dataset, BENCH_FEEDS), limits, progress)
    if recipe.evaluate is None and recipe.verify and all(step.effect is Effect.EXACT for step in recipe.passes()):
        return Findings(unchanged=False, latency=latency, same_outputs=True)
    metric = metric_of(recipe)
    accuracy = evaluate(before, after, dataset, judging_spec(recipe), metric=metric, limits=limits, progress=progress)
    return Findings(unchanged=False, latency=latency, accuracy=accuracy, class_scores=data.class_scores)


def metric_of(recipe: Recipe) -> str | None:
    """The metric that the user named; None to choose by the data."""
    return recipe.evaluate.metric if recipe.evaluate is not None else recipe.gates.metric


def target_of(recipe: Recipe) -> cpu.Target:
    """The machine that the result is for; ``auto`` is the accelerator that runs it, else this machine."""
    provider = None if recipe.bench is None else recipe.bench.provider
    accelerated = provider in {kind.value for kind in cpu.ACCELERATORS}
    return cpu.resolve(provider if provider is not None and accelerated and recipe.target == "auto" else recipe.target)


def is_exact(recipe: Recipe) -> bool:
    """Whether sessions that calibrate, verify and judge compute exactly; see `cpu.needs_exact_products`."""
    return cpu.needs_exact_products(target_of(recipe))


def session_spec(bench: BenchSpec | None) -> SessionSpec:
    """How to open sessions that are timed: as the recipe says, with the products of this machine."""
    bench = bench or BenchSpec()
    return SessionSpec(
        provider=bench.provider,
        provider_options=tuple(sorted(bench.provider_options.items())),
        threads=bench.threads,
        exact=False,
    )


def judging_spec(recipe: Recipe) -> SessionSpec:
    """How to open sessions whose outputs are judged: as the recipe says, with the products of its target."""
    return msgspec.structs.replace(session_spec(recipe.bench), spin=False, exact=is_exact(recipe))


def bench_spec(bench: BenchSpec, baseline: SessionSpec | None = None) -> Bench:
    """The recipe's bench section as the benchmark takes it."""
    plan = Plan(
        budget_ns=int(bench.budget_seconds * 1e9),
        warmup_ns=int(bench.warmup_seconds * 1e9),
        min_rounds=bench.rounds,
        max_rounds=max(bench.rounds, Plan().max_rounds),
    )
    return Bench(session=session_spec(bench), plan=plan, baseline=baseline)


def time_both(
    bench: BenchSpec, before: Path, after: Path, feeds: Feeds, limits: Limits | None, progress: Progress
) -> Latency:
    """Time two models in interleaved rounds.

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
    """
    first, second = run_bench([before, after], feeds, bench_spec(bench), limits=limits, progress=progress)
    return Latency(before=first, after=second, ratio=second.times_as_fast_as(first))
