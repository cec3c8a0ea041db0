"""What a recipe holds: steps, data, how to measure, and the gates.

Every command builds a recipe and runs it. `--print-recipe` prints it and `modelopt run` reads it again.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any

import msgspec

from modelopt.core.errors import InputError
from modelopt.passes.base import Pass

VERSION = 1

GROUP = "until-stable"
"""The key of a step that repeats passes."""


class DataSpec(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Where samples come from.

    Attributes:
        data: What ``--calib`` and ``--eval`` take: a file, a folder, ``file.py:function``, or ``random``.
        limit: Use at most so many samples.
        preprocess: How images become inputs, e.g. ``resize=224x224,scale=1/255``, a preset such as ``imagenet``, or the
            path of a ``preprocessor_config.json``; of sound ``rate=16000``.
        labels: A file with labels, where the data themselves have none.
        batch: Samples a feed, where the model's batch dimension is free.
        batch_axis: The axis of an input along which its arrays hold samples, by the input's name; what is not named
            is found by the names and sizes of dimensions.
        whole_files: Each file of arrays is one feed, whatever its sizes.
        label_column: The column of a table that holds the labels; None for one that is called ``label`` or ``labels``.
        tokenizer: A ``tokenizer.json``, where the data are texts.
    """

    data: str
    limit: Annotated[int, msgspec.Meta(ge=1)] | None = None
    preprocess: str | None = None
    labels: str | None = None
    batch: Annotated[int, msgspec.Meta(ge=1)] = 1
    batch_axis: dict[str, Annotated[int, msgspec.Meta(ge=0)]] = {}
    whole_files: bool = False
    label_column: str | None = None
    tokenizer: str | None = None


class EvaluateSpec(DataSpec, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """Data for accuracy, and how to score it.

    Attributes:
        metric: With labels ``top1``, ``top5``, ``f1``, ``recall@1`` (or 5, 10), ``wer``, ``cer``, ``mae``, ``rmse`` or
            ``file.py:function``; without ``cosine``, ``sqnr``, ``max-abs-error``, ``argmax-agreement``, ``agreement``,
            ``detection-agreement``, or ``OUTPUT=NAME`` for one output; or several of these. None chooses by what the
            data hold and the outputs stand for.
    """

    metric: str | tuple[str, ...] | None = None


class BenchSpec(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """How latency is measured.

    Attributes:
        provider: The execution provider.
        provider_options: Its options.
        threads: Intra-op threads; 0 means as many as this process may use.
        budget_seconds: Wall time of a comparison, at most; one process of each model is timed in any case.
        warmup_seconds: Wall time for warm-up runs in each process, at most.
        processes: Fresh processes of each model, at least, as far as the budget allows.
        rounds: Interleaved rounds in each process, at least.
    """

    provider: str = "cpu"
    provider_options: dict[str, str] = {}
    threads: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    budget_seconds: Annotated[float, msgspec.Meta(gt=0, le=604_800)] = 60.0
    warmup_seconds: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.3
    processes: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 8
    rounds: Annotated[int, msgspec.Meta(ge=2, le=100_000)] = 5


class OnInconclusive(Enum):
    """What becomes of a result where a gate cannot be decided on what was measured."""

    PASS = "pass"  # noqa: S105 - no password
    FAIL = "fail"


class Gates(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """The contract: a result that breaks it ends in exit code 1, one that was not measured well enough in 5.

    `gate_words` holds the words in which a recipe file writes these limits.

    Attributes:
        max_drop: The most that the metric may fall, as a fraction (0.01 is one point of accuracy).
        min_speedup: How many times as fast as the input the result must at least be.
        max_size_ratio: The largest size allowed, as a fraction of the input's.
        max_size_bytes: The largest size allowed, in bytes.
        max_latency_ns: The longest latency allowed, in nanoseconds.
        max_memory_bytes: The largest peak memory allowed of a process that runs the result, in bytes.
        max_load_ns: The longest time allowed for creating a session, in nanoseconds.
        on_inconclusive: What becomes of a result where a gate cannot be decided; None writes it with a warning where
            that is `max_drop` and the loss on the user's samples is within it, and does not write it otherwise.
        require_verified: Whether a result breaks it that could not be compared with the input after exact passes.
        must_gain: Whether a result breaks it that is neither faster than the input, nor smaller and as fast.
        not_slower: Whether a result breaks it that is not shown to be as fast as the input. A command then writes a
            copy of the input in its place, and that is no failure.
        metric: What `max_drop` is a figure of where there are no evaluation data: ``cosine``, ``sqnr`` (the relative
            error), ``argmax-agreement``, ``detection-agreement``, or ``OUTPUT=NAME`` for one output; or several of
            these. None judges each output by what it stands for.
    """

    max_drop: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    min_speedup: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_size_ratio: Annotated[float, msgspec.Meta(gt=0)] | None = None
    max_size_bytes: Annotated[int, msgspec.Meta(ge=0)] | None = None
    max_latency_ns: Annotated[int, msgspec.Meta(gt=0)] | None = None
    max_memory_bytes: Annotated[int, msgspec.Meta(gt=0)] | None = None
    max_load_ns: Annotated[int, msgspec.Meta(gt=0)] | None = None
    on_inconclusive: OnInconclusive | None = None
    require_verified: bool = False
    must_gain: bool = False
    not_slower: bool = False
    metric: str | tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what excludes each other."""
        if self.max_size_ratio is not None and self.max_size_bytes is not None:
            raise ValueError("the largest size is a fraction of the input's or bytes, not both")


class Targets(msgspec.Struct, frozen=True, kw_only=True, rename="kebab", forbid_unknown_fields=True):
    """How far ``search: prune`` goes, as far as the contract in `Gates` permits; without any as far as that permits.

    Attributes:
        speedup: How many times as fast as the input the result shall be.
        macs: What shall be left of the multiply-accumulates of the input, as a fraction.
        sparsity: The share of the channels of each group that goes, in place of a search: only the multiple is found.
        align: The multiple that widths are kept at; None measures which multiple this machine's kernels like.
    """

    speedup: Annotated[float, msgspec.Meta(gt=1)] | None = None
    macs: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    align: Annotated[int, msgspec.Meta(ge=1, le=4096)] | None = None

    def __post_init__(self) -> None:
        """Refuse what excludes each other."""
        if self.sparsity is not None and (self.speedup is not None or self.macs is not None):
            raise ValueError("sparsity excludes speedup and macs: it is a share for each group")


def metric_names(metric: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The metrics of a recipe's field, one by one."""
    return () if metric is None else (metric,) if isinstance(metric, str) else metric


def each_metric(metric: str | tuple[str, ...] | None, change: Callable[[str], str]) -> str | tuple[str, ...] | None:
    """A recipe's field of metrics with each of them changed, in the form in which it is written."""
    if metric is None or isinstance(metric, str):
        return None if metric is None else change(metric)
    return tuple(map(change, metric))


@dataclass(frozen=True)
class UntilStable:
    """Passes that are repeated in turn until none of them changes anything."""

    passes: tuple[Pass, ...]


Step = Pass | UntilStable


class Search(Enum):
    """How other recipes are made of this one and measured, so that the best of them runs."""

    QUANTIZE = "quantize"
    """Other ways to quantize in place of the last step, as far as data and measured speed can choose between them; and
    nodes in float32 where onnxruntime does not load the model in half precision."""

    KEEP_IF_FASTER = "keep-if-faster"
    """Each group with operators that only onnxruntime has stays only where the model gets faster. These groups are the
    last steps."""

    PRUNE = "prune"
    """Other widths of the groups of channels in place of those of the pass prune-channels, or other blocks in place of
    those of prune-layers: see `Targets`. Or, where the last step is prune-magnitude, the largest sparsity that keeps
    the contract in place of its own."""


QUANTIZING = ("quantize-static", "quantize-dynamic", "quantize-weights", "store-weights", "convert-half")
"""The passes with which a recipe may end that says ``search: quantize``."""

PRUNING = ("prune-channels", "prune-layers")
"""The passes of which a recipe with ``search: prune`` has one once."""

PRUNING_ELEMENTS = "prune-magnitude"
"""Or the pass with which it ends."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to do with a model.

    Attributes:
        steps: Passes in order.
        search: Which other recipes are tried; None runs the steps as they are.
        name: What the recipe is called in reports.
        target: The machine that the result is for: ``auto`` or a `TargetKind` value.
        seed: For whatever is random.
        verify: Compare the result with the original before it is written.
        calibration: Samples for passes that need them.
        evaluate: Data for accuracy; None compares outputs on random inputs.
        bench: How to measure latency; None does not measure it.
        gates: The contract.
        targets: How far ``search: prune`` goes.
    """

    steps: tuple[Step, ...]
    search: Search | None = None
    name: str = "modelopt"
    target: str = "auto"
    seed: int = 0
    verify: bool = True
    calibration: DataSpec | None = None
    evaluate: EvaluateSpec | None = None
    bench: BenchSpec | None = None
    gates: Gates = dataclasses.field(default_factory=Gates)
    targets: Targets = dataclasses.field(default_factory=Targets)

    def __post_init__(self) -> None:
        """Refuse a search that the steps do not allow.

        Raises:
            InputError: As said.
        """
        last = self.steps[-1] if self.steps else None
        if self.search is Search.QUANTIZE and not (isinstance(last, Pass) and last.name in QUANTIZING):
            note = f"it tries others in place of the last step: {', '.join(QUANTIZING)}"
            raise InputError("search: quantize needs a pass that quantizes as the last step", note=note)
        if self.search is Search.KEEP_IF_FASTER and not self.contrib_groups():
            note = "it keeps those that make the model faster: for example those of the step '- pipeline: contrib'"
            raise InputError(
                "search: keep-if-faster needs groups of onnxruntime's operators as the last steps", note=note
            )

        pruned = sum(step.name in PRUNING for step in self.steps if isinstance(step, Pass))
        by_element = isinstance(last, Pass) and last.name == PRUNING_ELEMENTS
        if self.search is Search.PRUNE and pruned != 1 and not by_element:
            note = "it tries other widths, other blocks, or another sparsity, in its place"
            raise InputError(
                f"search: prune needs the step {' or '.join(PRUNING)} once, or {PRUNING_ELEMENTS} at the end", note=note
            )

    def contrib_groups(self) -> tuple[UntilStable, ...]:
        """The last steps, as far as they are groups with a pass that makes operators which only onnxruntime has."""
        groups: list[UntilStable] = []
        for step in reversed(self.steps):
            if not isinstance(step, UntilStable) or not any(one.leaves_contrib() for one in step.passes):
                break
            groups.insert(0, step)
        return tuple(groups)

    def suffix(self) -> str:
        """The name as a part of a file name: a recipe may be called anything."""
        return re.sub(r"[^\w.-]+", "-", self.name)[:40].strip(".-") or "run"

    def passes(self) -> tuple[Pass, ...]:
        """All passes in order, groups unrolled once."""
        return tuple(one for step in self.steps for one in (step.passes if isinstance(step, UntilStable) else (step,)))


SECTIONS: dict[str, Any] = {
    "search": Search | None,
    "name": str,
    "target": str,
    "seed": Annotated[int, msgspec.Meta(ge=0)],
    "verify": bool,
    "calibration": DataSpec | None,
    "evaluate": EvaluateSpec | None,
    "bench": BenchSpec | None,
    "gates": Gates,
    "targets": Targets,
}
"""The keys of a recipe file beside version and steps, and the types of their values."""
