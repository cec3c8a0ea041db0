"""Options that several commands share, as dataclasses, and the parts of a recipe that they become.

A field has the name of its flag. None, False and an empty collection mean that the option was not given: the recipe's
own defaults hold then, so that each default is written down once.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from modelopt import io
from modelopt.core.errors import InputError
from modelopt.data.in_memory import DataLike, MemoryData, repeatable
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Targets
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec

CALIBRATION = "calib (in memory)"
EVALUATION = "eval (in memory)"
"""How recipes and reports call data that are not in a file."""

_Spec = TypeVar("_Spec", BenchSpec, DataSpec, EvaluateSpec, Gates, Targets)


@dataclass(frozen=True, kw_only=True)
class LimitOptions:
    """What child processes load and may use.

    Attributes:
        op_libraries: Shared libraries of custom operators, which the child processes load and run.
        memory_limit: Bytes of memory of a child process. None: what follows from the model's size, see
            `runtime.limits`; at most 80% of what is free.
        timeout: Seconds for one load or run. None: 600.
        allow_hardlinks: Accept external data files that are hardlinks.
        max_nodes: How many nodes and initializers to accept; None: `io.MAX_NODES`.
    """

    op_libraries: Sequence[str | Path] = ()
    memory_limit: int | None = None
    timeout: float | None = None
    allow_hardlinks: bool = False
    max_nodes: int | None = None


@dataclass(frozen=True, kw_only=True)
class TimingOptions:
    """How latency is measured; None leaves a default of `modelopt.recipe.recipe.BenchSpec`.

    Attributes:
        provider: The execution provider: cpu, cuda, tensorrt, openvino, or a full name.
        provider_options: Its options.
        threads: Threads of one operator; 0 means all usable cores.
        budget: Seconds for a comparison, at most.
        warmup: Seconds for warm-up runs in each process, at most.
        processes: Fresh processes of each model, at least.
        rounds: Interleaved rounds in each process, at least.
    """

    provider: str | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    threads: int | None = None
    budget: float | None = None
    warmup: float | None = None
    processes: int | None = None
    rounds: int | None = None


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How arrays hold samples, and how images become arrays.

    Attributes:
        batch_axis: The axis of an input along which its arrays hold samples, by the input's name.
        whole_files: Each file of arrays is one feed.
        label_column: The column of a table that holds the labels. [default: label or labels]
        tokenizer: The tokenizer.json that makes tokens of texts.
        preprocess: For images: resize=224x224,scale=1/255,mean=0.5,std=0.5, a preset such as imagenet, or a
            preprocessor_config.json; for sound: rate=16000.
    """

    batch_axis: Mapping[str, int] = field(default_factory=dict)
    whole_files: bool = False
    label_column: str | None = None
    tokenizer: str | Path | None = None
    preprocess: str | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(LayoutOptions):
    """Data for accuracy, and how to score it.

    Attributes:
        eval: Evaluation data: see `modelopt.data.in_memory.DataLike`.
        eval_limit: Use at most so many samples of it.
        labels: A file of its labels.
        metric: A name of `measure.registry.names` (top1, f1, wer, mae, cosine …), file.py:f, or OUTPUT=NAME; or
            several.
    """

    eval: DataLike | None = None
    eval_limit: int | None = None
    labels: str | Path | None = None
    metric: str | Sequence[str] | None = None


def given(options: Any) -> dict[str, Any]:
    """The options that were given, by name: those that differ from their default and are no empty collection."""
    found = {each.name: getattr(options, each.name) for each in dataclasses.fields(options)}
    defaults = {each.name: each.default for each in dataclasses.fields(options)}
    return {name: value for name, value in found.items() if not _is_default(value, defaults[name])}


def _is_default(value: object, default: object) -> bool:
    if isinstance(value, tuple | list | Mapping):
        return not value
    return value is default or (isinstance(value, str | int | float) and value == default)


def flag_of(name: str) -> str:
    """How the command line writes an option."""
    return f"--{_FLAGS.get(name, name).replace('_', '-')}"


_FLAGS = {"verify": "no-verify", "bench": "no-bench", "search": "no-search", "repair": "no-repair"}


def checked(kind: type[_Spec], fields: Mapping[str, Any]) -> _Spec:
    """A part of a recipe, with its values checked as those of a recipe file are.

    Raises:
        InputError: A value is of the wrong kind or out of range.
    """
    names = {each.name: each.encode_name for each in msgspec.structs.fields(kind)}
    try:
        return msgspec.convert({names[name]: value for name, value in fields.items()}, kind, strict=True)
    except msgspec.ValidationError as error:
        raise InputError(f"bad option: {error}") from None


_BENCH = {
    "provider": "provider",
    "threads": "threads",
    "budget": "budget_seconds",
    "warmup": "warmup_seconds",
    "processes": "processes",
    "rounds": "rounds",
}


def timing_fields(options: TimingOptions) -> dict[str, Any]:
    """The fields of `BenchSpec` that were given, without the provider's options."""
    said = {field_: getattr(options, name) for name, field_ in _BENCH.items()}
    return {name: value for name, value in said.items() if value is not None}


def bench_spec(options: TimingOptions) -> BenchSpec:
    """How to measure latency."""
    return checked(BenchSpec, {**timing_fields(options), "provider_options": dict(options.provider_options)})


def session_spec(options: TimingOptions) -> SessionSpec:
    """How to open sessions."""
    bench = bench_spec(options)
    provider_options = tuple(sorted(bench.provider_options.items()))
    return SessionSpec(provider=bench.provider, provider_options=provider_options, threads=bench.threads)


def limits(options: LimitOptions) -> Limits | None:
    """What child processes may use, None for the default."""
    libraries = tuple(str(Path(path).resolve()) for path in options.op_libraries)
    if options.memory_limit is None and options.timeout is None and not libraries:
        return None
    default = Limits.default()
    return Limits(
        memory_bytes=options.memory_limit or default.memory_bytes,
        seconds=options.timeout or default.seconds,
        op_libraries=libraries,
        is_default=options.memory_limit is None,
    )


class FileLimits(Protocol):
    """The fields of a command's options that say what model files may be."""

    @property
    def allow_hardlinks(self) -> bool: ...  # noqa: D102
    @property
    def max_nodes(self) -> int | None: ...  # noqa: D102


def accepted(options: FileLimits) -> io.Accepted:
    """What model files may be."""
    default = io.Accepted()
    return io.Accepted(hardlinks=options.allow_hardlinks, nodes=options.max_nodes or default.nodes)


def data_text(data: DataLike, name: str) -> str:
    """How a recipe calls data: the path, or `name` for what is in memory."""
    return str(data) if isinstance(data, str | os.PathLike) else name


def in_memory(*, calib: DataLike | None = None, eval: DataLike | None = None) -> dict[str, MemoryData]:  # noqa: A002
    """Those of the data that are in memory, by how a recipe calls them."""
    named = ((CALIBRATION, calib), (EVALUATION, eval))
    return {
        name: repeatable(data) for name, data in named if data is not None and not isinstance(data, str | os.PathLike)
    }


def layout_fields(options: LayoutOptions) -> dict[str, Any]:
    """The fields of `DataSpec` that say how data become feeds."""
    return {
        "preprocess": options.preprocess,
        "batch_axis": dict(options.batch_axis),
        "whole_files": options.whole_files,
        "label_column": options.label_column,
        "tokenizer": None if options.tokenizer is None else str(options.tokenizer),
    }


def metric_field(metric: str | Sequence[str] | None) -> str | tuple[str, ...] | None:
    """One metric, or several, as a recipe holds them."""
    return metric if metric is None or isinstance(metric, str) else tuple(metric)


def evaluation_spec(
    options: EvaluationOptions, *, batch: int = 1, has_calibration: bool = False
) -> EvaluateSpec | None:
    """The evaluation data; None without.

    Args:
        options: The options.
        batch: Samples of a feed.
        has_calibration: Calibration data were given: options about data, and the metric, are about those.

    Raises:
        InputError: An option is about evaluation data that were not given.
    """
    if options.eval is None:
        for name in ("labels", "metric", "eval_limit"):
            if getattr(options, name) is not None and not (name == "metric" and has_calibration):
                raise InputError(f"{flag_of(name)} needs --eval", hint="--eval DATA")
        for name in ("batch_axis", "whole_files", "label_column", "tokenizer"):
            if getattr(options, name) and not has_calibration:
                raise InputError(f"{flag_of(name)} needs data", hint="--eval DATA")
        return None
    fields = {
        "data": data_text(options.eval, EVALUATION),
        "limit": options.eval_limit,
        "labels": None if options.labels is None else str(options.labels),
        "metric": metric_field(options.metric),
        "batch": batch,
    }
    return checked(EvaluateSpec, {**fields, **layout_fields(options)})
