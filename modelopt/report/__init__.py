"""The report of a run as versioned data, and its renderings as tables, Markdown and one sentence.

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
from modelopt.report.pruning_curve import GroupWidth, PruningFound, PruningStep
from modelopt.runtime.coverage import Coverage

__all__ = [
    "SCHEMA",
    "FileInfo",
    "GateOutcome",
    "GateResult",
    "GroupWidth",
    "Latency",
    "ModelStats",
    "Offender",
    "Outcome",
    "PassResult",
    "PruningFound",
    "PruningStep",
    "Report",
    "Trial",
    "Verification",
]

SCHEMA = "modelopt-report/3"


class FileInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model file.

    Attributes:
        path: As the user wrote it.
        size_bytes: The size of the model and its external data.
        sha256: The hash of the model file, in hex, without its data file; None where it was not read, or not written.
        external_bytes: The part of `size_bytes` that is in a data file beside the model.
        compressed_bytes: The size of the model file behind `io.compressed_size.COMPRESSOR`; None where that was not
            measured: it is of use where channels were removed, and takes long for large files.
    """

    path: str
    size_bytes: int
    sha256: str | None = None
    external_bytes: int = 0
    compressed_bytes: int | None = None


class ModelStats(msgspec.Struct, frozen=True, kw_only=True):
    """The size of a model in memory.

    Attributes:
        nodes: The nodes of all scopes, without Constant nodes.
        weight_bytes: The size of all stored tensors.
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
        skipped: The places that it left alone, with the reasons.
        facts: Figures that the pass reports itself.
        tensors: The tensors that it quantized or pruned, with their errors.
        wall_ns: The time that it took.
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

    @property
    def name(self) -> str:
        """The pass without its options."""
        return self.step.split("(")[0]


class Verification(msgspec.Struct, frozen=True, kw_only=True):
    """How the result was checked against the original.

    Attributes:
        real: How many feeds of the user's data were compared.
        constructed: How many feeds were compared that the verification made itself.
        source: Where the user's data came from; None where there was none.
        exact_segments: How many sequences of exact passes were compared and found equal.
        empty: How many feeds give outputs without an element, so that nothing could be compared.
        max_relative_error: The largest difference seen after exact passes, relative to the output's scale; None where
            nothing was compared.
        not_executed: Parts of the original, and sizes, that no feed reached.
        finite_only: Passes that changed outputs for NaN or infinities; they declare that they may.
        unstable: Outputs that were not compared, because the original gives them differently from run to run.
        unproved: Why the changes of exact passes could not be compared, as one clause; None where they were compared.
        why: The message of onnxruntime where the original does not run.
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
    """Latency before and after, measured in interleaved rounds.

    Attributes:
        before: The input's samples.
        after: The output's samples.
        ratio: How many times as fast the output is.
    """

    before: BenchResult
    after: BenchResult
    ratio: Ratio


class Outcome(Enum):
    """The result of a trial."""

    KEPT = "kept"
    SURPASSED = "surpassed"
    INACCURATE = "inaccurate"
    NO_EVIDENCE = "no evidence"
    SLOWER = "slower"
    NO_GAIN = "no gain"
    NOTHING_TO_DO = "nothing to do"
    FAILED = "failed"


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate of a search: a group of passes that was applied and measured.

    Attributes:
        group: Its passes.
        rewrites: How many places they rewrote; 0: there was nothing to measure.
        drop: How much accuracy fell, as a fraction; None where it was not measured.
        ratio: How many times as fast the model is with it as without; None where it was not measured.
        on_one_thread: `ratio` on one thread; None where that was not measured.
        kept: Whether it is part of the recipe.
        outcome: The result.
        reason: Why it was kept or left out, as one clause.
        skipped: What its last pass left alone.
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
    """A node, or a group of nodes measured together, that costs accuracy when it is quantized.

    Attributes:
        nodes: Their names.
        share: The squared error with only these nodes quantized, as a share of the error with all nodes quantized; the
            shares of single nodes add up to about 1.
        gain: The share of the squared error that disappears when only these nodes stay in float; None where that was
            not measured.
        cause: The cause of the error, where it is known.
        restored: Whether they stay in float in the result.
    """

    nodes: tuple[str, ...]
    share: float
    gain: float | None = None
    cause: str | None = None
    restored: bool = False


class GateOutcome(Enum):
    """What a gate says of a result.

    A measured figure has an interval. The gate passes where the whole interval meets the limit, and fails where none of
    it does.
    """

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"
    NOT_JUDGED = "not judged"


class GateResult(msgspec.Struct, frozen=True, kw_only=True):
    """One gate: a limit that the result must meet, and what was found.

    Attributes:
        gate: ``max-drop``, ``min-speedup``, ``max-size``, ``max-latency``, ``max-memory``, ``max-load``,
            ``require-verified``, ``must-gain`` or ``not-slower``.
        limit: The limit, as text.
        found: The measured value with its interval, as text.
        outcome: What follows.
        stops: Whether the result is not written because of it: it failed, or an inconclusive one counts as failed.
        hint: What the user may do to get enough evidence.
    """

    gate: str
    limit: str
    found: str
    outcome: GateOutcome
    stops: bool = False
    hint: str | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All that a run of a recipe found.

    Attributes:
        schema: The version of this structure.
        verdict: The result of the run, as one sentence.
        next: What the user may do next, with the exact flag; None where nothing is known that helps.
        input: The model read.
        output: The model written (or that would have been, see `written`).
        written: Whether the output has its name: False when a gate failed.
        recipe: The recipe as YAML.
        target: The machine that the result is for.
        seed: The seed of all random choices.
        passes: What each pass did, in order.
        verification: How the result was compared with the original; None with ``--no-verify``.
        latency: None where it was not measured.
        not_timed: Why latency was not measured although it was asked for; None where it was.
        accuracy: None where it was not measured.
        gates: The gates, in order.
        notes: Notes on the data; the benchmark's warnings are in `latency`.
        versions: The versions of modelopt and onnxruntime.
        coverage: What the runtime executed for each node of an integer model; None where that was not profiled.
        trials: The candidates that were tried before this recipe was chosen, in order.
        offenders: The nodes that cost most accuracy when they are quantized, worst first, where they were searched.
        pruning: What a search over widths of channels found.
    """

    schema: str = SCHEMA
    verdict: str = ""
    next: str | None = None
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
    pruning: PruningFound | None = None
