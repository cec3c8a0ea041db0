"""What `modelopt run` does with its flags: each takes the place of what the recipe says, and of nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

import msgspec

from modelopt.cli.optimizing import max_size_from_flags
from modelopt.core.errors import InputError
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Recipe

_BENCH = {
    "provider": "provider",
    "threads": "threads",
    "budget": "budget_seconds",
    "warmup": "warmup_seconds",
    "processes": "processes",
    "rounds": "rounds",
}
_LAYOUT = ("batch_axis", "whole_files")
_EVALUATE = {"eval_limit": "limit", "labels": "labels", "metric": "metric", "preprocess": "preprocess"}


def override(recipe: Recipe, flags: dict[str, Any], given: Collection[str], calib: str | None) -> Recipe:
    """The recipe with what was given on the command line in place of what it says.

    Args:
        recipe: The recipe.
        flags: The values of all flags.
        given: Which of them were written.
        calib: The data of ``--calib``.

    Raises:
        InputError: A flag is about data that neither the recipe nor the command line names.
    """
    calibration = _calibration(recipe.calibration, flags, given, calib)
    evaluate = _evaluate(recipe.evaluate, flags, given, has_calibration=calibration is not None)
    if "preprocess" in given and calibration is None and evaluate is None:
        raise InputError("--preprocess needs data", hint="--calib DATA or --eval DATA")
    for flag in _LAYOUT:
        if flag in given and calibration is None and evaluate is None:
            raise InputError(f"--{flag.replace('_', '-')} needs data", hint="--calib DATA or --eval DATA")
    return dataclasses.replace(
        recipe,
        calibration=calibration,
        evaluate=evaluate,
        bench=_bench(recipe.bench, flags, given),
        gates=_gates(recipe.gates, flags, given, is_evaluated=evaluate is not None),
        verify=recipe.verify and "no_verify" not in given,
        seed=flags["seed"] if "seed" in given else recipe.seed,
    )


def _calibration(
    spec: DataSpec | None, flags: dict[str, Any], given: Collection[str], calib: str | None
) -> DataSpec | None:
    if calib is not None:
        spec = DataSpec(data=calib) if spec is None else msgspec.structs.replace(spec, data=calib)
    if spec is not None and "preprocess" in given:
        spec = msgspec.structs.replace(spec, preprocess=flags["preprocess"])
    return spec if spec is None else msgspec.structs.replace(spec, **_layout(flags, given))


def _layout(flags: dict[str, Any], given: Collection[str]) -> dict[str, Any]:
    return {flag: flags[flag] for flag in _LAYOUT if flag in given}


def _evaluate(
    spec: EvaluateSpec | None, flags: dict[str, Any], given: Collection[str], *, has_calibration: bool
) -> EvaluateSpec | None:
    changes = {field: flags[flag] for flag, field in _EVALUATE.items() if flag in given} | _layout(flags, given)
    if "evaluation" in given:
        spec = EvaluateSpec(data=flags["evaluation"]) if spec is None else spec
        return msgspec.structs.replace(spec, **{"data": flags["evaluation"], "labels": None, **changes})
    if spec is None:
        for flag in ("labels", "metric", "eval_limit"):
            if flag in given and not (flag == "metric" and has_calibration):
                raise InputError(f"--{flag.replace('_', '-')} needs --eval", hint="--eval DATA")
        return None
    return msgspec.structs.replace(spec, **changes)


def _bench(spec: BenchSpec | None, flags: dict[str, Any], given: Collection[str]) -> BenchSpec | None:
    if "no_bench" in given:
        return None
    changes: dict[str, Any] = {field: flags[flag] for flag, field in _BENCH.items() if flag in given}
    options = dict(flags["provider_option"])
    if not changes and not options:
        return spec
    old = BenchSpec() if spec is None else spec
    same = changes.get("provider", old.provider) == old.provider  # another provider has other options
    return msgspec.structs.replace(
        old, **changes, provider_options={**(old.provider_options if same else {}), **options}
    )


def _gates(gates: Gates, flags: dict[str, Any], given: Collection[str], *, is_evaluated: bool) -> Gates:
    changes = {name: flags[name] for name in ("max_drop", "min_speedup", "require_verified") if name in given}
    if "max_size" in given:
        changes |= max_size_from_flags(flags)
    if "metric" in given and not is_evaluated:
        changes["metric"] = flags["metric"]
    return msgspec.structs.replace(gates, **changes)
