"""`bench` and `compare`: models measured side by side."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from modelopt.commands import option_groups, written_reports
from modelopt.commands.contract_options import ComparedGateOptions, MeasuredGateOptions, gate_fields
from modelopt.commands.option_groups import EVALUATION, EvaluationOptions, LayoutOptions, LimitOptions, TimingOptions
from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.data.in_memory import DataLike
from modelopt.engine import output_paths, run_files
from modelopt.engine.compare import measure_models
from modelopt.engine.comparison import SideBySide
from modelopt.engine.run_files import RunFile
from modelopt.io.given_model import ModelLike
from modelopt.recipe.recipe import EvaluateSpec, Gates
from modelopt.report.bench_report import BenchReport
from modelopt.runtime.session import SessionSpec


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How inputs are made, or cut into feeds.

    Attributes:
        batch: Samples of a run.
        dims: Sizes of free dimensions of random inputs, by name.
        seed: For random inputs.
        progress: Called with (what, done, total or None).
    """

    batch: int = 1
    dims: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class BenchOptions(LimitOptions, TimingOptions, MeasuredGateOptions, LayoutOptions, InputOptions):
    """Options of `bench`.

    Attributes:
        models: A model or several; ratios are to the first.
        data: Inputs: see `modelopt.data.in_memory.DataLike`. None makes random ones.
        by_layer: Profile each model: how long each of its nodes takes.
        calibrate_noise: Time the first model against its own copy, and keep what this machine's noise is.
    """

    models: ModelLike | Sequence[ModelLike] = field(kw_only=False)
    data: DataLike | None = None
    by_layer: bool = False
    calibrate_noise: bool = False

    def listed(self) -> Sequence[ModelLike]:
        """The models, one or several.

        Raises:
            InputError: There is none.
        """
        several = isinstance(self.models, Sequence) and not isinstance(self.models, str | bytes)
        models = cast(Sequence[ModelLike], self.models) if several else [cast(ModelLike, self.models)]
        if not models:
            raise InputError("no model was given", hint='modelopt.bench("model.onnx")')
        return models


@dataclass(frozen=True, kw_only=True)
class CompareOptions(LimitOptions, TimingOptions, ComparedGateOptions, EvaluationOptions, InputOptions):
    """Options of `compare`.

    Attributes:
        a: The model that is compared with.
        b: The model that is compared.
        bench: Measure latency.
        by_layer: Profile both models: how long each of their nodes takes.
        baseline_provider: The execution provider of `a`, where that is another one.
        baseline_options: The options of that provider.
    """

    a: ModelLike = field(kw_only=False)
    b: ModelLike = field(kw_only=False)
    bench: bool = True
    by_layer: bool = False
    baseline_provider: str | None = None
    baseline_options: Mapping[str, str] = field(default_factory=dict)


def bench(options: BenchOptions, report_file: Path | None = None) -> BenchReport:
    """Measure the latency of model files side by side.

    Args:
        options: The options.
        report_file: Where the report goes, .json, .md or .html; None for nowhere.

    Raises:
        ModeloptError: Any of its kinds but `GateFailed`: see `contract_options.stop_at`.
    """
    data = None
    if options.data is not None:
        text = option_groups.data_text(options.data, EVALUATION)
        fields = {"data": text, "batch": options.batch, **option_groups.layout_fields(options)}
        data = option_groups.checked(EvaluateSpec, fields)
    elif options.batch_axis or options.whole_files or options.label_column or options.tokenizer:
        raise InputError("--batch-axis, --whole-files, --label-column and --tokenizer need data", hint="--data DATA")
    asked = _asked(options, options.listed(), data, options.data, "--data")
    asked = replace(asked, bench=option_groups.bench_spec(options), calibrate_noise=options.calibrate_noise)
    return _measured(asked, report_file)


def compare(options: CompareOptions, report_file: Path | None = None) -> BenchReport:
    """Compare the size, the latency and the outputs of two model files.

    Args:
        options: The options.
        report_file: As in `bench`.

    Raises:
        ModeloptError: As `bench`.
    """
    evaluation = option_groups.evaluation_spec(options, batch=options.batch)
    asked = _asked(options, (options.a, options.b), evaluation, options.eval, "--eval")
    bench_spec = option_groups.bench_spec(options) if options.bench else None
    return _measured(replace(asked, bench=bench_spec, baseline=_baseline(options), score=True), report_file)


def _measured(asked: SideBySide, report_file: Path | None) -> BenchReport:
    """Measure, and write the report where it was asked for."""
    if report_file is None:
        return measure_models(asked)
    written_reports.require(report_file)
    output_paths.require_report(report_file, list(_read_by(asked)))
    report = measure_models(asked)
    written_reports.write_measured(report, report_file)
    return report


def _read_by(asked: SideBySide) -> Iterator[RunFile]:
    """The files that are read, which a report must not replace."""
    for model in asked.models:
        yield RunFile("a model", model)
    if asked.data is not None:
        yield from run_files.read_as_data("the data", asked.data, asked.memory or {})


def _asked(
    options: BenchOptions | CompareOptions,
    models: Sequence[ModelLike],
    data: EvaluateSpec | None,
    given: DataLike | None,
    data_flag: str,
) -> SideBySide:
    """What both commands ask for; neither latency nor accuracy is measured yet."""
    return SideBySide(
        models=[_file(model) for model in models],
        data=data,
        bench=None,
        session=option_groups.session_spec(options),
        by_layer=options.by_layer,
        contract=option_groups.checked(Gates, gate_fields(options)),
        free_dims=_sizes(options.dims),
        seed=options.seed,
        data_flag=data_flag,
        limits=option_groups.limits(options),
        accepted=option_groups.accepted(options),
        memory=option_groups.in_memory(eval=given),
        progress=options.progress or silent,
    )


def _file(model: object) -> Path:
    if not isinstance(model, str | os.PathLike):
        raise TypeError("a model in memory is written to a file first: see modelopt.commands.api")
    return Path(model)


def _baseline(options: CompareOptions) -> SessionSpec | None:
    """How to open `a`, None for as `b`.

    Raises:
        InputError: Options without a provider.
    """
    if options.baseline_provider is None:
        if options.baseline_options:
            raise InputError("--baseline-option needs --baseline-provider", hint="--baseline-provider NAME")
        return None
    provider_options = tuple(sorted(options.baseline_options.items()))
    threads = option_groups.bench_spec(options).threads
    return SessionSpec(provider=options.baseline_provider, provider_options=provider_options, threads=threads)


def _sizes(dims: Mapping[str, int]) -> dict[str, int]:
    for name, size in dims.items():
        if size < 1:
            raise InputError(f"--dim {name}={size} is not a size", hint=f"--dim {name}=8")
    return dict(dims)
