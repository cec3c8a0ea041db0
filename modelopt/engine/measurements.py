"""The data of a run, and what is measured with them: one place that ties feeds, benchmark and evaluation together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.core.progress import Progress
from modelopt.core.signature import Signature, is_free
from modelopt.data import BatchAxes, Dataset, Preprocess, open_data, overlap, split
from modelopt.data.dtypes import holds_floats
from modelopt.data.synthetic import RandomDataset
from modelopt.engine import random_inputs
from modelopt.engine.findings import Findings
from modelopt.graph import quantized_io
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.measure.heads import Head, heads_of
from modelopt.measure.latency import BenchSpec as Bench
from modelopt.measure.latency import run_bench
from modelopt.measure.metric import NOTHING_COMPARED
from modelopt.measure.outputs import require_outputs
from modelopt.measure.registry import parse_all
from modelopt.measure.schedule import Plan
from modelopt.recipe.recipe import BenchSpec, DataSpec, Recipe, metric_names
from modelopt.report import Latency
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.fitting import Needs
from modelopt.verification.prepare import GIVE_DATA

RANDOM_SAMPLES = 16
"""How many random feeds stand in for data when outputs are compared without any."""

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
        hint: What helps where random inputs do not do: flags of the command that runs.
        calibration_notes: What speaks against the calibration, where one happened.
        accuracy_notes: What speaks against the accuracy, where it was measured.
        seed: For random inputs.
        random: Random inputs that the model runs on, once they were needed.
        needs: What the graph asks of its inputs: see `verification.fitting`.
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
    hint: str = GIVE_DATA
    calibration_notes: tuple[str, ...] = ()
    accuracy_notes: tuple[str, ...] = ()

    def notes_for(self, *, calibrated: bool, compared: bool) -> tuple[str, ...]:
        """The notes, of those on calibration and accuracy only the ones on what happened."""
        said = (*self.notes, *(self.calibration_notes if calibrated else ()))
        return (*said, *(self.accuracy_notes if compared else ()))

    @property
    def real(self) -> Dataset | None:
        """The best real data there are: evaluation data, else calibration data."""
        return self.evaluation if self.evaluation is not None else self.calibration

    @property
    def guesses(self) -> tuple[str, ...]:
        """What of the preprocessing of the data that outputs are compared on was guessed."""
        return () if self.real is None else self.real.guesses

    @property
    def users(self) -> Dataset | None:
        """`real`, but None where it is random."""
        return None if isinstance(self.real, RandomDataset) else self.real

    @property
    def users_source(self) -> str | None:
        """Where the user's data come from; None without."""
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


def target_of(recipe: Recipe) -> targets.Target:
    """The machine that the result is for; ``auto`` is the accelerator that runs it, else this machine."""
    accelerator = None if recipe.bench is None else targets.accelerator_of(recipe.bench.provider)
    return targets.resolve(accelerator.value if accelerator is not None and recipe.target == "auto" else recipe.target)


def why_not_timed(recipe: Recipe) -> str | None:
    """Why latency is not measured although the recipe asks for it: the result is for another machine; else None."""
    return None if recipe.bench is None else targets.why_not_timed(target_of(recipe), recipe.bench.provider)


def is_elsewhere(recipe: Recipe) -> bool:
    """Whether the result is for a machine whose kernels the provider of this run does not have."""
    return targets.why_not_timed(target_of(recipe), (recipe.bench or BenchSpec()).provider) is not None


def has_evidence(recipe: Recipe) -> bool:
    """Whether the recipe names data that say something about accuracy: random inputs do not."""
    spec = recipe.evaluate or recipe.calibration
    return spec is not None and spec.data != "random"


def signature_of(model: ir.Model) -> Signature:
    """The signature that data, metrics and comparisons see: integers that stand for floats are float32."""
    return quantized_io.in_floats(graph.signature(model), model.metadata_props)


def open_all(recipe: Recipe, model: ir.Model, signature: Signature | None = None) -> Data:
    """Open the recipe's data and check them against the model's inputs.

    Without evaluation data a part of the calibration data is held out for it: ranges that were fitted to samples say
    little about others.

    Args:
        recipe: The recipe.
        model: The model.
        signature: What the data must fit; None for that of `model`.

    Raises:
        InputError: They do not fit, or a metric was named that there is not, or for an output that there is not.
    """
    signature = signature_of(model) if signature is None else signature
    require_outputs(parse_all(metrics_of(recipe)).outputs, [str(output.name) for output in model.graph.outputs])
    calibration = _open(recipe.calibration, signature, recipe.seed)
    evaluation = _open(recipe.evaluate, signature, recipe.seed)
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
        batch_axes=BatchAxes(spec.batch_axis, spec.whole_files),
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
    if not is_free_somewhere and all(holds_floats(spec) and not data.needs.bounds(spec) for spec in inputs):
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
    session = worker.keep(model, SessionSpec(spin=False))
    return random_inputs.that_run(
        session, data.signature, data.needs, n=n, seed=data.seed, free_dims=free_dims, hint=hint or data.hint
    )


def first_feeds(dataset: Dataset, count: int) -> Feeds:
    """The feeds of the first `count` samples."""
    return [sample.feeds for sample in islice(dataset, count)]


def measure(
    recipe: Recipe,
    before: Path,
    after: Path,
    data: Data,
    worker: Worker,
    *,
    unchanged: bool,
    verified: bool,
    unproved: str | None = None,
    runs: bool = True,
    limits: Limits | None,
    progress: Progress,
) -> Findings:
    """Run the original and the result side by side: latency, then accuracy or fidelity.

    Args:
        recipe: The recipe.
        before: The original.
        after: The result.
        data: The data of the run.
        worker: Has the original open.
        unchanged: The result is the original.
        verified: Verification compared outputs with the original's, and they agree.
        unproved: Why it compared nothing, as one clause.
        runs: There are inputs that the original runs on.
        limits: Of the child processes.
        progress: Called with (what, done, total or None).

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
    """
    not_timed = why_not_timed(recipe)
    if unchanged or (recipe.bench is None and recipe.evaluate is None and not recipe.verify):
        return Findings(unchanged=unchanged, not_timed=not_timed)
    worker.forget(before)
    if not runs:
        if recipe.bench is not None and not_timed is None:
            not_timed = "not measured: the model does not run on random inputs"
        return Findings(unchanged=False, blank=unproved, not_timed=not_timed)
    latency = None
    if recipe.bench is not None and not_timed is None:
        feeds = first_feeds(inputs(data, worker, before), BENCH_FEEDS)
        latency = time_both(recipe.bench, before, after, feeds, limits, progress)
    if recipe.evaluate is None and is_verified(recipe):
        return Findings(
            unchanged=False,
            latency=latency,
            same_outputs=verified,
            blank=None if verified else _why_blank(unproved),
            not_timed=not_timed,
        )
    accuracy = evaluate(
        before,
        after,
        inputs(data, worker, before),
        judging_spec(recipe),
        metrics=metrics_of(recipe),
        heads=data.heads,
        limits=limits,
        progress=progress,
    )
    return Findings(
        unchanged=False,
        latency=latency,
        accuracy=accuracy,
        not_timed=not_timed,
        guesses=data.guesses,
    )


def _why_blank(unproved: str | None) -> str:
    return "nothing was compared" if unproved in {None, NOTHING_COMPARED} else str(unproved)


def is_verified(recipe: Recipe) -> bool:
    """Whether verification is the evidence about accuracy: it compares what exact passes make with the original."""
    return recipe.verify and all(step.effect is Effect.EXACT for step in recipe.passes())


def metrics_of(recipe: Recipe) -> tuple[str, ...]:
    """The metrics that the user named; none to choose by the data and the outputs."""
    return metric_names(recipe.evaluate.metric if recipe.evaluate is not None else recipe.gates.metric)


def is_exact(recipe: Recipe) -> bool:
    """Whether sessions that calibrate, verify and judge compute exactly; see `cpu.needs_exact_products`."""
    return targets.needs_exact_products(target_of(recipe))


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


def bench_spec(bench: BenchSpec, baseline: SessionSpec | None = None, *, precision: float = Plan().precision) -> Bench:
    """The recipe's bench section as the benchmark takes it."""
    plan = Plan(
        budget_ns=int(bench.budget_seconds * 1e9),
        warmup_ns=int(bench.warmup_seconds * 1e9),
        precision=precision,
        processes=bench.processes,
        max_processes=max(bench.processes, Plan().max_processes),
        min_rounds=bench.rounds,
        max_rounds=max(bench.rounds, Plan().max_rounds),
    )
    return Bench(session=session_spec(bench), plan=plan, baseline=baseline)


def time_both(
    bench: BenchSpec,
    before: Path,
    after: Path,
    feeds: Feeds,
    limits: Limits | None,
    progress: Progress,
    *,
    precision: float = Plan().precision,
) -> Latency:
    """Time two models in interleaved rounds, until the ratio is known to `precision` or the budget is spent.

    Raises:
        EnvironmentLacks: The provider is not there.
        Refused: onnxruntime does not load or run one of them.
    """
    spec = bench_spec(bench, precision=precision)
    first, second = run_bench([before, after], feeds, spec, limits=limits, progress=progress)
    return Latency(before=first, after=second, ratio=second.times_as_fast_as(first))
