"""What follows from a recipe before anything runs: the target, the metrics, and how sessions are opened."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.measure.latency import TimingSpec
from modelopt.measure.schedule import TimingPlan
from modelopt.recipe.recipe import BenchSpec, Gates, Recipe, metric_names
from modelopt.runtime.session import SessionSpec

AS_FAST = 0.98
"""The ratio that the lower end of the interval must reach where a result shall not be slower than the input."""


class Closeness(NamedTuple):
    """How well a ratio of latencies has to be known.

    Attributes:
        precision: The wanted relative half-width of its interval.
        enough: A ratio whose whole interval is at least this needs no more; None where each does.
    """

    precision: float = TimingPlan().precision
    enough: float | None = None


USUAL = Closeness()


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


def is_verified(recipe: Recipe) -> bool:
    """Whether verification is the evidence about accuracy: it compares what exact passes make with the original."""
    return recipe.verify and all(step.effect is Effect.EXACT for step in recipe.passes())


def is_exact(recipe: Recipe) -> bool:
    """Whether sessions that calibrate, verify and judge compute exactly; see `targets.needs_exact_products`."""
    return targets.needs_exact_products(target_of(recipe))


def metrics_of(recipe: Recipe) -> tuple[str, ...]:
    """The metrics that the user named; none where the data and the outputs decide."""
    return metric_names(recipe.evaluate.metric if recipe.evaluate is not None else recipe.gates.metric)


def closeness_for(gates: Gates) -> Closeness:
    """How well a ratio has to be known: a model that is as fast shall be shown to be no slower."""
    return Closeness(enough=AS_FAST) if gates.not_slower or gates.must_gain else USUAL


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


def bench_spec(bench: BenchSpec, baseline: SessionSpec | None = None, *, closeness: Closeness = USUAL) -> TimingSpec:
    """The recipe's bench section as the benchmark takes it."""
    plan = TimingPlan(
        budget_ns=int(bench.budget_seconds * 1e9),
        warmup_ns=int(bench.warmup_seconds * 1e9),
        precision=closeness.precision,
        enough=closeness.enough,
        processes=bench.processes,
        max_processes=max(bench.processes, TimingPlan().max_processes),
        min_rounds=bench.rounds,
        max_rounds=max(bench.rounds, TimingPlan().max_rounds),
    )
    return TimingSpec(session=session_spec(bench), plan=plan, baseline=baseline)
