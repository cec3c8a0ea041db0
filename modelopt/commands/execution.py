"""What all optimizing commands do with their options: make a request of them, run it, and judge the gates."""

from __future__ import annotations

import dataclasses
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from modelopt.calibration.cache import Calibrations
from modelopt.commands import option_groups, written_reports
from modelopt.commands.contract_options import GateOptions, gate_fields, stop_at
from modelopt.commands.first_gain import run_first_that_gains
from modelopt.commands.option_groups import EvaluationOptions, LimitOptions, TimingOptions
from modelopt.core import temporary
from modelopt.core.changes import Effect
from modelopt.core.errors import InputError
from modelopt.core.progress import Progress, silent
from modelopt.data.in_memory import DataLike
from modelopt.engine import opset_raising
from modelopt.engine.request import Request
from modelopt.io import STDIO, ExternalData
from modelopt.io.given_model import ModelLike
from modelopt.recipe.recipe import DataSpec, Gates, Recipe, Search, Step
from modelopt.report import Report
from modelopt.runtime.processes import ChildPool
from modelopt.search import recipe_search


@dataclass(frozen=True)
class Plan:
    """What a command is about to do.

    Attributes:
        recipe: The recipe; its search may make others of it.
        suffix: What the output's name ends with where none is given: model.SUFFIX.onnx.
    """

    recipe: Recipe
    suffix: str


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions(LimitOptions, TimingOptions, GateOptions, EvaluationOptions, ABC):
    """Options of every command that makes a model.

    Attributes:
        model: The model: see `modelopt.io.given_model.ModelLike`.
        output: The output file. None: a name beside the model.
        external_data: Whether weights go to a data file beside the output: auto (above 2 GiB only), always or never.
        seed: For whatever is random. None: 0, or what the recipe says.
        verify: Compare the result with the original.
        bench: Measure latency.
        force: Replace files that are not of the kind that is written in their place; never one that is read.
        dump_dir: A folder to write the model after each pass to.
        progress: Called with (what, done, total or None).
    """

    model: ModelLike = field(kw_only=False)
    output: str | Path | None = None
    external_data: str = "auto"
    seed: int | None = None
    verify: bool = True
    bench: bool = True
    force: bool = False
    dump_dir: str | Path | None = None
    progress: Progress | None = None

    @abstractmethod
    def plan(self) -> Plan:
        """What the command does with these options.

        Raises:
            InputError: The options do not go together.
        """

    def recipe_to_run(self) -> Recipe:
        """The recipe of the plan; without verification it does not convert to another opset unasked.

        Raises:
            InputError: The options do not go together.
        """
        return _verified_only(self.plan().recipe)

    def calibration_data(self) -> DataLike | None:
        """The data that passes calibrate on, of commands that have such an option."""
        return None

    def calibration_cache(self) -> Path | None:
        """The file in which calibrations are kept beyond one run; None for none."""
        return None

    def recipe_file(self) -> Path | None:
        """The file that the recipe is read from; None where there is none."""
        return None


def make_recipe(
    name: str,
    steps: Sequence[Step],
    options: OptimizeOptions,
    *,
    calibration: DataSpec | None = None,
    target: str | None = None,
    not_slower: bool = False,
    search: Search | None = None,
) -> Recipe:
    """The recipe of a command; with `not_slower`, it is a gate where speed is measured."""
    evaluate = option_groups.evaluation_spec(options, has_calibration=options.calibration_data() is not None)
    gates = {
        **gate_fields(options),
        "not_slower": not_slower and options.bench and not options.keep,
        "require_verified": options.require_verified,
        "metric": option_groups.metric_field(options.metric) if options.eval is None else None,
    }
    return Recipe(
        name=name,
        steps=tuple(steps),
        search=search,
        target=target or "auto",
        seed=options.seed or 0,
        verify=options.verify,
        calibration=calibration,
        evaluate=evaluate,
        bench=option_groups.bench_spec(options) if options.bench else None,
        gates=option_groups.checked(Gates, gates),
    )


def _verified_only(recipe: Recipe) -> Recipe:
    """The recipe without a conversion of the opset where that could not be verified."""
    return recipe if recipe.verify else opset_raising.without(recipe)


def default_output(model: Path, suffix: str) -> Path:
    """``model.onnx`` → ``model.SUFFIX.onnx``; stdin → stdout."""
    return STDIO if model == STDIO else model.with_name(f"{model.stem}.{suffix}.onnx")


def run(options: OptimizeOptions, children: ChildPool | None = None, report_file: Path | None = None) -> Report:
    """Run a command on a model file, and write what comes of it.

    Args:
        options: The options.
        children: Child processes that were started ahead; None starts each when it is needed.
        report_file: Where the report goes, .json, .md or .html; None for nowhere.

    Raises:
        ModeloptError: Any of its kinds but `GateFailed`: see `require_gates`. Nothing was written then.
    """
    if not isinstance(options.model, str | os.PathLike):
        raise TypeError("a model in memory is written to a file first: see modelopt.commands.api")
    plan = options.plan()
    recipe = _verified_only(plan.recipe)
    model = Path(options.model)
    plain = options.output is None and any(step.effect is not Effect.EXACT for step in recipe.passes())
    with temporary.folder() as stdin_folder:
        request = Request(
            recipe=recipe,
            model=model,
            output=default_output(model, plan.suffix) if options.output is None else Path(options.output),
            if_exact=default_output(model, "optimized") if plain else None,
            if_unchanged=default_output(model, "copy") if plain else None,
            keep=options.keep,
            dump_folder=None if options.dump_dir is None else Path(options.dump_dir),
            force=options.force,
            report_file=report_file,
            calibration_cache=options.calibration_cache(),
            recipe_file=options.recipe_file(),
            limits=option_groups.limits(options),
            children=children,
            stdin_folder=stdin_folder,
            accepted=option_groups.accepted(options),
            external_data=_external_data(options.external_data),
            memory=option_groups.in_memory(calib=options.calibration_data(), eval=options.eval),
            progress=options.progress or silent,
        )
        request = dataclasses.replace(request, calibrations=_calibrations(request))
        if report_file is not None:
            written_reports.require(report_file)
            request = dataclasses.replace(request, finish=partial(written_reports.write, path=report_file))
        return run_first_that_gains(request, recipe_search.choose(request), recipe_search.rescue_of(recipe))


def _calibrations(request: Request) -> Calibrations | None:
    """What remembers calibrations: a run that tries nothing else need not observe more than its own method asks for.

    Raises:
        InputError: The calibration cache cannot be read.
    """
    if request.calibration_cache is not None:
        return Calibrations(request.calibration_cache, force=request.force)
    return Calibrations() if recipe_search.tries_others(request.recipe) else None


def _external_data(text: str) -> ExternalData:
    known = [each.value for each in ExternalData]
    if text not in known:
        raise InputError(f"external_data is {' or '.join(known)}, not '{text}'")
    return ExternalData(text)


def require_gates(report: Report) -> None:
    """Refuse a result that breaks the contract, or is not shown to honour it.

    Raises:
        GateFailed: A gate failed; the error's `report` is the report.
        GateInconclusive: None failed, and one that stops the result is not decided.
    """
    written = f"{report.output.path} was written all the same" if report.written else "nothing was written"
    stop_at(report.gates, report, note=written, hint=None if report.written else _KEEP)


_KEEP = "--keep writes the model anyway"
