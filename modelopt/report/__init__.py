"""What a run found, as versioned data; the modules of this room render it.

It measures and decides nothing: every figure is computed elsewhere.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

import msgspec

from modelopt.core.changes import Skip, TensorError
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.latency import BenchResult
from modelopt.measure.speed import Ratio
from modelopt.runtime.coverage import Coverage

SCHEMA = "modelopt-report/2"


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model file.

    Attributes:
        path: As the user wrote it.
        size_bytes: Of the model and its external data.
        sha256: Of the model file, in hex; None where it was not read.
    """

    path: str
    size_bytes: int
    sha256: str | None = None


class ModelStats(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a model in memory.

    Attributes:
        nodes: In all scopes, Constant nodes left out.
        weight_bytes: Of all stored tensors.
    """

    nodes: int
    weight_bytes: int


class PassResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one application of a pass did.

    Attributes:
        step: The pass with its options, e.g. ``prune-magnitude(sparsity=0.5)``.
        effect: ``exact``, ``approximate`` or ``lossy``.
        contrib: Whether it leaves operators that only onnxruntime has.
        rewrites: How many places it rewrote.
        skipped: Its refusals.
        facts: Its own figures.
        tensors: What it quantized, and how well integers hold it.
        wall_ns: Nanoseconds in the pass.
        before: The model before it.
        after: The model after it.
    """

    step: str
    effect: str
    contrib: bool = False
    rewrites: int
    skipped: tuple[Skip, ...]
    facts: dict[str, Any]
    tensors: tuple[TensorError, ...] = ()
    wall_ns: int
    before: ModelStats
    after: ModelStats


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """How the result was checked against the original.

    Attributes:
        real: How many feeds of the user's data were compared: both models ran on them, and there are outputs.
        constructed: How many feeds that were made for this were compared.
        source: Where the user's data came from; None without.
        exact_segments: How many runs of exact passes were compared and agreed.
        empty: How many feeds give outputs without an element: nothing is compared there.
        max_relative_error: The largest difference seen after exact passes, relative to the output's scale; None where
            nothing was compared.
        not_executed: Parts of the original, and sizes, that no feed reached.
        finite_only: Passes after which the answers to NaN or infinities differ, as those passes say they may.
        unstable: Outputs that the original gives differently from run to run: they were not compared.
        unproved: Why what exact passes changed was compared with nothing, as one clause; None where it was compared.
        why: What onnxruntime says where the original does not run.
        hint: What would make a comparison possible.
    """

    real: int = 0
    constructed: int = 0
    source: str | None
    exact_segments: int = 0
    empty: int = 0
    max_relative_error: float | None = None
    not_executed: tuple[str, ...] = ()
    finite_only: tuple[str, ...] = ()
    unstable: tuple[str, ...] = ()
    unproved: str | None = None
    why: str | None = None
    hint: str | None = None


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Latency before and after, measured in turn.

    Attributes:
        before: The input's samples.
        after: The output's samples.
        ratio: How many times as fast the output is.
    """

    before: BenchResult
    after: BenchResult
    ratio: Ratio


class Outcome(Enum):
    """What became of something that was tried."""

    KEPT = "kept"
    SURPASSED = "surpassed"
    INACCURATE = "inaccurate"
    NO_EVIDENCE = "no evidence"
    SLOWER = "slower"
    NO_GAIN = "no gain"
    NOTHING_TO_DO = "nothing to do"
    FAILED = "failed"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """A way to make the model that was tried.

    Attributes:
        group: Its passes.
        rewrites: How many places they rewrote; 0: there was nothing to measure.
        drop: How much accuracy fell, as a fraction; None where it was not measured.
        ratio: How many times as fast the model is with it as without; None where it was not measured.
        on_one_thread: `ratio` on one thread; None where that was not measured.
        kept: Whether it is part of the recipe.
        outcome: What became of it.
        reason: Why it was kept or left out, as one clause.
        skipped: The refusals of its last pass.
    """

    group: str
    rewrites: int
    drop: float | None = None
    ratio: Ratio | None = None
    on_one_thread: Ratio | None = None
    kept: bool
    outcome: Outcome
    reason: str
    skipped: tuple[Skip, ...] = ()


class Offender(msgspec.Struct, frozen=True, kw_only=True):
    """A node, or a few that were not told apart, that costs accuracy when it is quantized.

    Attributes:
        nodes: Their names.
        share: Of the squared error that quantizing everything causes, when only these are quantized; shares of single
            nodes add up to about 1.
        gain: The share of the squared error that is gone when only these are in float again; None where that was not
            measured.
        cause: What it comes from, where that is known.
        restored: Whether they stay in float in the result.
    """

    nodes: tuple[str, ...]
    share: float
    gain: float | None = None
    cause: str | None = None
    restored: bool = False


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the contract.

    Attributes:
        gate: ``max-drop``, ``min-speedup``, ``max-size``, ``require-verified``, ``must-gain`` or ``not-slower``.
        limit: What was asked, as text.
        found: What was measured, as text.
        passed: Whether it holds; None where that could not be judged.
        hint: What the user may do where it does not hold for want of evidence.
    """

    gate: str
    limit: str
    found: str
    passed: bool | None
    hint: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run of a recipe found.

    Attributes:
        schema: The version of this structure.
        verdict: What came of it, as one sentence.
        input: The model read.
        output: The model written (or that would have been, see `written`).
        written: Whether the output has its name: False when a gate failed.
        recipe: The recipe as YAML.
        target: The machine that the result is for.
        seed: For whatever was random.
        passes: What each pass did, in order.
        verification: How it was checked, None with ``--no-verify``.
        latency: None where it was not measured.
        not_timed: Why latency was not measured although it was asked for; None where it was.
        accuracy: None where it was not measured.
        gates: The contract, line by line.
        notes: What the reader should know of the data; the benchmark's warnings are in `latency`.
        versions: Of modelopt and onnxruntime.
        coverage: What the runtime executed for each node of an integer model; None where that was not profiled.
        trials: What was tried before this recipe was chosen, in order.
        offenders: The nodes that cost accuracy when they are quantized, worst first, where they were looked for.
    """

    schema: str = SCHEMA
    verdict: str = ""
    input: FileInfo
    output: FileInfo
    written: bool
    recipe: str
    target: str
    seed: int
    passes: tuple[PassResult, ...]
    verification: Verification | None
    latency: Latency | None
    not_timed: str | None = None
    accuracy: Accuracy | None
    gates: tuple[GateResult, ...]
    notes: tuple[str, ...]
    versions: dict[str, str]
    coverage: Coverage | None = None
    trials: tuple[Trial, ...] = ()
    offenders: tuple[Offender, ...] = ()
