"""What all optimizing commands do with their flags: build a recipe, run it, show the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import msgspec

from modelopt.calibration.cache import Calibrations
from modelopt.cli import console
from modelopt.core.changes import Effect
from modelopt.core.errors import EnvironmentLacks, GateFailed, InputError, Refused, WorkerDied
from modelopt.engine import opset_raising
from modelopt.engine.optimize import Request, run
from modelopt.io import STDIO, ExternalData
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe.dumping import dump
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Recipe, Search, Step
from modelopt.report import Outcome, Report, Trial, verdict
from modelopt.report.markdown import to_markdown
from modelopt.runtime.limits import Limits
from modelopt.runtime.processes import ChildPool
from modelopt.runtime.session import SessionSpec
from modelopt.search import recipe_search
from modelopt.search.chosen import Chosen
from modelopt.search.recipe_search import Rescue


def recipe_from_flags(
    name: str,
    steps: Sequence[Step],
    flags: dict[str, Any],
    *,
    calibration: DataSpec | None = None,
    target: str = "auto",
    not_slower: bool = False,
    search: Search | None = None,
) -> Recipe:
    """The recipe that a command with these flags is; with `not_slower`, it is a gate where speed is measured."""
    return Recipe(
        name=name,
        steps=tuple(steps),
        search=search,
        target=target,
        seed=flags["seed"],
        verify=not flags["no_verify"],
        calibration=calibration,
        evaluate=evaluation_from_flags(flags),
        bench=bench_from_flags(flags),
        gates=Gates(
            max_drop=flags["max_drop"],
            min_speedup=flags["min_speedup"],
            **max_size_from_flags(flags),
            not_slower=not_slower and not (flags["no_bench"] or flags["keep"]),
            require_verified=flags["require_verified"],
            metric=flags["metric"] if flags["evaluation"] is None else None,
        ),
    )


def max_size_from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """``--max-size``, a fraction or bytes, as the two fields of `Gates`."""
    asked = flags["max_size"]
    return {
        "max_size_ratio": asked if isinstance(asked, float) else None,
        "max_size_bytes": asked if isinstance(asked, int) else None,
    }


def evaluation_from_flags(flags: dict[str, Any]) -> EvaluateSpec | None:
    """The data that ``--eval`` and its companions name.

    Raises:
        InputError: A companion stands without it.
    """
    if flags["evaluation"] is None:
        for flag in ("labels", "metric", "eval_limit"):
            if flags[flag] is not None and not (flag == "metric" and flags.get("calib")):
                raise InputError(f"--{flag.replace('_', '-')} needs --eval", hint="--eval DATA")
        for flag in ("batch_axis", "whole_files"):
            if flags[flag] and not flags.get("calib"):
                raise InputError(f"--{flag.replace('_', '-')} needs data", hint="--eval DATA")
        return None
    return EvaluateSpec(
        data=flags["evaluation"],
        limit=flags["eval_limit"],
        labels=flags["labels"],
        metric=flags["metric"],
        preprocess=flags["preprocess"],
        batch=flags.get("batch", 1),
        **layout_from_flags(flags),
    )


def layout_from_flags(flags: dict[str, Any]) -> dict[str, Any]:
    """What ``--batch-axis`` and ``--whole-files`` say, as fields of `DataSpec`."""
    return {"batch_axis": flags["batch_axis"], "whole_files": flags["whole_files"]}


def session_from_flags(flags: dict[str, Any]) -> SessionSpec:
    """How ``--provider`` and its companions open sessions."""
    options = tuple(sorted(flags["provider_option"]))
    return SessionSpec(provider=flags["provider"], provider_options=options, threads=flags["threads"])


def baseline_from_flags(flags: dict[str, Any]) -> SessionSpec | None:
    """How ``--baseline-provider`` opens the first model, None without it.

    Raises:
        InputError: Options without a provider.
    """
    if flags["baseline_provider"] is None:
        if flags["baseline_option"]:
            raise InputError("--baseline-option needs --baseline-provider", hint="--baseline-provider NAME")
        return None
    options = tuple(sorted(flags["baseline_option"]))
    return SessionSpec(provider=flags["baseline_provider"], provider_options=options, threads=flags["threads"])


def free_dims_from_flags(flags: dict[str, Any]) -> dict[str, int]:
    """Sizes of free dimensions from ``--dim name=8``.

    Raises:
        InputError: A size is not a positive number.
    """
    sizes: dict[str, int] = {}
    for name, text in flags["dim"]:
        if not text.isdecimal() or int(text) < 1:
            raise InputError(f"--dim {name}={text} is not a size", hint=f"--dim {name}=8")
        sizes[name] = int(text)
    return sizes


def bench_from_flags(flags: dict[str, Any]) -> BenchSpec | None:
    """How to measure latency, None with ``--no-bench``."""
    if flags.get("no_bench"):
        return None
    return BenchSpec(
        provider=flags["provider"],
        provider_options=dict(flags["provider_option"]),
        threads=flags["threads"],
        budget_seconds=flags["budget"],
        warmup_seconds=flags["warmup"],
        processes=flags["processes"],
        rounds=flags["rounds"],
    )


def default_output(model: Path, suffix: str) -> Path:
    """``model.onnx`` → ``model.SUFFIX.onnx``; stdin → stdout."""
    return STDIO if model == STDIO else model.with_name(f"{model.stem}.{suffix}.onnx")


def limits_from_flags(flags: dict[str, Any]) -> Limits | None:
    """What child processes may use, None for the default."""
    libraries = tuple(flags["op_libraries"])
    if flags["memory_limit"] is None and flags["timeout"] is None and not libraries:
        return None
    default = Limits.default()
    return Limits(
        memory_bytes=flags["memory_limit"] or default.memory_bytes,
        seconds=flags["timeout"] or default.seconds,
        op_libraries=libraries,
    )


_NOT_SLOWER = "not-slower"
_KEEP = "--keep writes the model anyway"


def execute(recipe: Recipe, model: Path, suffix: str, flags: dict[str, Any]) -> None:
    """Run the recipe, or the one that its search finds, and show what came of it.

    Raises:
        GateFailed: The result breaks the contract.
    """
    recipe = (
        recipe if recipe.verify else opset_raising.without(recipe)
    )  # what a converter makes is not taken unverified
    if flags["print_recipe"]:
        click.echo(dump(recipe), nl=False)
        return
    output = flags["output"] or default_output(model, suffix)
    plain = flags["output"] is None and any(step.effect is not Effect.EXACT for step in recipe.passes())
    if output == STDIO and flags["as_json"]:
        raise InputError("--json and a model cannot both go to stdout", hint="give -o a file name")
    if flags["report"]:
        _check_report(flags["report"])
    screen = console.Screen(quiet=flags["quiet"], verbose=flags["verbose"], as_json=flags["as_json"])
    with TemporaryDirectory(prefix="modelopt-") as stdin_folder, screen.progress() as progress:
        has_search = recipe_search.tries_others(recipe)
        request = Request(
            recipe=recipe,
            model=model,
            output=output,
            if_exact=default_output(model, "optimized") if plain else None,
            if_unchanged=default_output(model, "copy") if plain else None,
            keep=flags["keep"],
            dump_folder=flags["dump_dir"],
            limits=limits_from_flags(flags),
            children=click.get_current_context().find_object(ChildPool),
            stdin_folder=Path(stdin_folder),
            allow_hardlinks=flags["allow_hardlinks"],
            external_data=ExternalData(flags["external_data"]),
            # A run that tries nothing else need not observe more than its own method asks for.
            calibrations=Calibrations(flags.get("calib_cache")) if has_search or flags.get("calib_cache") else None,
            progress=progress,
        )
        report = _run_first_that_gains(request, recipe_search.choose(request), recipe_search.rescue_of(recipe))
    screen.report(report, explain=flags["explain"])
    if flags["report"]:
        _write_report(report, flags["report"])
    failed = [gate for gate in report.gates if gate.passed is False]
    if failed:
        raise GateFailed(
            "; ".join(f"{f'--{gate.gate} {gate.limit}'.rstrip()} is not met: found {gate.found}" for gate in failed),
            note=f"{report.output.path} was written all the same" if report.written else "nothing was written",
            hint=next((gate.hint for gate in failed if gate.hint), None if report.written else _KEEP),
        )


def _run_first_that_gains(request: Request, chosen: Chosen, rescue: Rescue | None = None) -> Report:
    """Run the recipes until one gains something over the input; the last is the input itself, or all there is.

    One that need not gain, but must not be slower, gives way to the input as well.
    """
    trials, offenders = chosen.trials, chosen.offenders
    recipes = list(chosen.recipes)
    for recipe in recipes:
        asked = dataclasses.replace(request, recipe=recipe)
        try:
            report = run(asked)
        except (Refused, WorkerDied) as error:
            if rescue is None or not error.is_of_result:
                raise
            return _run_first_that_gains(request, rescue(asked, error))
        failed = {gate.gate: gate.found for gate in report.gates if gate.passed is False}
        if set(failed) == {_NOT_SLOWER}:
            left_out = [_left_out(trial, failed[_NOT_SLOWER]) if trial.kept else trial for trial in trials]
            trials = (*left_out, _slower(report))
            recipes.append(_as_it_was(recipe))
            continue
        if set(failed) != {"must-gain"}:
            break
        trials = tuple(_left_out(trial, failed["must-gain"]) if trial.kept else trial for trial in trials)
        offenders = tuple(msgspec.structs.replace(one, restored=False) for one in offenders)
    said = {
        *report.notes,
        *((*report.accuracy.notes, *report.accuracy.warnings) if report.accuracy is not None else ()),
    }
    advice = [chosen.advice] if chosen.advice is not None and recipe is chosen.recipes[0] else []
    notes = (*report.notes, *(note for note in chosen.notes if note not in said), *advice)
    report = msgspec.structs.replace(report, trials=trials, offenders=offenders, notes=notes)
    return msgspec.structs.replace(report, verdict=verdict.of(report))


def _slower(report: Report) -> Trial:
    """The whole of a run whose result is slower than its input."""
    ratio = None if report.latency is None else report.latency.ratio
    rewrites = sum(result.rewrites for result in report.passes)
    outcome, reason = Outcome.SLOWER, "slower than the input"
    return Trial(group=verdict.ALL, rewrites=rewrites, ratio=ratio, kept=False, outcome=outcome, reason=reason)


def _as_it_was(recipe: Recipe) -> Recipe:
    """The recipe that leaves the model as it was, but for an opset that was asked for."""
    asked = tuple(step for step in recipe.steps if isinstance(step, UpgradeOpset))
    return dataclasses.replace(recipe, steps=asked, gates=msgspec.structs.replace(recipe.gates, not_slower=False))


def _left_out(trial: Trial, found: str) -> Trial:
    """What was chosen, but is no gain beside the input."""
    reason = f"no gain beside the input: {found}"
    return msgspec.structs.replace(trial, kept=False, outcome=Outcome.NO_GAIN, reason=reason)


def _check_report(path: Path) -> None:
    """Whether a report can be written there, asked before the work and not after it."""
    if path.suffix not in {".json", ".md"}:
        raise InputError(f"a report cannot be written to {path}", hint="name it .json or .md")
    if path.is_dir() or not path.parent.is_dir():
        reason = "it is a directory" if path.is_dir() else f"there is no folder {path.parent}"
        raise InputError(f"a report cannot be written to {path}", note=reason)


def _write_report(report: Report, path: Path) -> None:
    if path.suffix == ".json":
        text = msgspec.json.format(msgspec.json.encode(report), indent=2).decode() + "\n"
    else:
        text = to_markdown(report)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise EnvironmentLacks(f"the report {path} cannot be written", note=error.strerror) from None
