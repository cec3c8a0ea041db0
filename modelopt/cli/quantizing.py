"""What `modelopt quantize` makes of its flags: a recipe for each mode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelopt.cli.optimize import recipe_from_flags
from modelopt.errors import InputError
from modelopt.gates import DEFAULT_MAX_DROP
from modelopt.passes.base import Pass
from modelopt.pipelines import fusing
from modelopt.recipe import DataSpec, Recipe, Step, make_pass

INTEGER_MODES = ("static", "dynamic")

_PASSES = {
    "static": "quantize-static",
    "dynamic": "quantize-dynamic",
    "fp16": "convert-half",
    "bf16": "convert-half",
    "weights": "quantize-weights",
    "storage": "store-weights",
}
_MODES_OF = {
    "calib": ("static", "fp16", "weights"),
    "calib_limit": ("static", "fp16", "weights"),
    "calib_cache": ("static", "fp16"),
    "activation": ("static",),
    "per_channel": INTEGER_MODES,
    "method": ("static",),
    "weight_range": ("static",),
    "format": ("static",),
    "integer_io": ("static",),
    "everywhere": INTEGER_MODES,
    "no_search": tuple(_PASSES),
    "bits": ("weights",),
    "block_size": ("weights",),
    "weight_method": ("weights",),
    "weight_form": ("weights",),
    "keep_io_types": ("fp16",),
}
_OPTION_OF = {"weight_method": "method", "weight_form": "form"}
_NOT_OF_THE_PASS = {"calib", "calib_limit", "calib_cache", "no_search"}


def recipe_of(mode: str, flags: dict[str, Any], given: Mapping[str, str]) -> Recipe:
    """Fold and fuse, then quantize in this mode.

    Args:
        mode: What ``--mode`` takes.
        flags: The values of all flags.
        given: The flags that stand on the command line: how they are written there, by their names in `flags`.

    Raises:
        InputError: A flag is of another mode, or data are missing.
    """
    _refuse_other_modes(mode, given)
    calibration = _calibration(mode, flags)
    step = make_pass(_PASSES[mode], _options(mode, flags, given))
    steps: list[Step] = [step] if flags["only"] else [_exact(flags), step]
    return recipe_from_flags("quantize", steps, flags, calibration=calibration, target=flags["target"])


def _exact(flags: dict[str, Any]) -> Step:
    return fusing(folded=True, raises=not flags["keep_opset"] and not flags["no_verify"])


def suffix_of(mode: str, flags: dict[str, Any]) -> str:
    """What the output's name ends with."""
    if mode in {"fp16", "bf16"}:
        return mode
    return f"int{flags['bits'] or 4}" if mode == "weights" else "int8"


def searches(mode: str, flags: dict[str, Any]) -> bool:
    """Whether other recipes are tried and measured too."""
    as_told = flags["no_search"] or flags["everywhere"] or flags["print_recipe"]
    measures = flags["evaluation"] is not None or not (flags["no_verify"] and flags["no_bench"])
    has_contract = flags["max_drop"] is not None or default_contract(flags) is not None
    return measures and not as_told and (mode in INTEGER_MODES or has_contract)


def default_contract(flags: dict[str, Any]) -> float | None:
    """What accuracy may fall by where the user did not say it; None without data to measure it on."""
    spec = flags["calib"] if flags["evaluation"] is None else flags["evaluation"]
    return None if spec in {None, "random"} else DEFAULT_MAX_DROP


def others(mode: str, flags: dict[str, Any]) -> list[Pass]:
    """Passes to try beside the mode's own: products may be faster with ranges measured at run time.

    Whether they pay is an estimate, which a measurement may refute: so all of them are tried, too.
    """
    if flags["include"] or flags["exclude"] or flags["integer_io"] or mode not in INTEGER_MODES:
        return []
    options = {} if flags["per_channel"] is None else {"per-channel": flags["per_channel"]}
    listed = [options, {**options, "everywhere": True}] if mode == "static" else [{**options, "everywhere": True}]
    return [make_pass(_PASSES["dynamic"], each) for each in listed]


def _refuse_other_modes(mode: str, given: Mapping[str, str]) -> None:
    for name, written in given.items():
        modes = _MODES_OF.get(name, (mode,))
        if mode not in modes:
            raise InputError(f"{written} is not for --mode {mode}", hint=f"it is for --mode {' or '.join(modes)}")


def _calibration(mode: str, flags: dict[str, Any]) -> DataSpec | None:
    calib = flags["calib"]
    if calib is None and mode == "static":
        raise InputError(
            "static quantization needs calibration data",
            note="ranges of activations come from real inputs",
            hint="--calib data/, or --mode dynamic, or --calib random to try without",
        )
    if calib is None and flags["weight_method"] == "gptq":
        raise InputError("gptq needs calibration data", hint="--calib data/, or --weight-method hqq, which needs none")
    told = flags["no_search"] or calib == "random"
    if calib is not None and mode == "weights" and told and flags["weight_method"] != "gptq":
        raise InputError("--calib is of no use for --mode weights without gptq", hint="--weight-method gptq")
    if calib is None and flags["calib_cache"]:
        raise InputError("--calib-cache keeps what calibration observes", hint="--calib DATA")
    return None if calib is None else DataSpec(data=calib, limit=flags["calib_limit"], preprocess=flags["preprocess"])


def _options(mode: str, flags: dict[str, Any], given: Mapping[str, str]) -> dict[str, Any]:
    """The options of the mode's pass that the user chose, by their written names."""
    names = [name for name in given if name in _MODES_OF and name not in _NOT_OF_THE_PASS]
    options = {_OPTION_OF.get(name, name).replace("_", "-"): flags[name] for name in names}
    options |= {key: list(flags[key]) for key in ("include", "exclude") if flags[key]}
    return options | ({"type": mode} if mode in {"fp16", "bf16"} else {})
