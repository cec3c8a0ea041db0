"""What `modelopt quantize` makes of its flags: a recipe for each mode."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from modelopt.cli.optimizing import layout_from_flags, recipe_from_flags
from modelopt.core.errors import InputError
from modelopt.engine.gates import DEFAULT_MAX_DROP
from modelopt.quant.static.overrides import Overrides, Type, split
from modelopt.recipe import pipelines
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.recipe import DataSpec, Recipe, Search, Step

INTEGER_MODES = ("static", "dynamic")
HALF_MODES = ("fp16", "bf16")

_PASSES = {
    "static": "quantize-static",
    "dynamic": "quantize-dynamic",
    "fp16": "convert-half",
    "bf16": "convert-half",
    "fp32": "convert-float",
    "weights": "quantize-weights",
    "storage": "store-weights",
}
_CHOOSING = tuple(mode for mode in _PASSES if mode != "fp32")
_WIDENED = {"static": {}, "dynamic": {}, "weights": {"float16": False}, "storage": {"float16": False}}
"""The modes that begin with float32, and the options of the pass that makes it."""

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
    "include": _CHOOSING,
    "exclude": _CHOOSING,
    "bits": ("weights",),
    "table_bits": ("weights",),
    "block_size": ("weights",),
    "weight_method": ("weights",),
    "weight_form": ("weights",),
    "weight_compute": ("weights",),
    "keep_io_types": ("fp16",),
}
_OPTION_OF = {"weight_method": "method", "weight_form": "form", "weight_compute": "int8_compute"}
_VALUE_OF: dict[str, dict[Any, Any]] = {"weight_compute": {"int8": True, "float32": False}}
_NOT_OF_THE_PASS = {"calib", "calib_limit", "calib_cache", "no_search", "include", "exclude"}


def named(mode: str, flags: Mapping[str, Any]) -> str:
    """The mode that ``--mode`` means: int8 and int4 name a type, with which there is one way to go.

    Raises:
        InputError: int4 is asked for with other bits.
    """
    if mode == "int4" and flags["bits"] not in {None, 4}:
        raise InputError(f"--mode int4 has 4 bits, not {flags['bits']}", hint=f"--mode weights --bits {flags['bits']}")
    return {"int4": "weights", "int8": "dynamic" if flags["calib"] is None else "static"}.get(mode, mode)


def recipe_of(mode: str, flags: dict[str, Any], given: Mapping[str, str], *, written: str) -> Recipe:
    """Fold and fuse, then quantize in this mode.

    Args:
        mode: See `named`.
        flags: The values of all flags.
        given: The flags that stand on the command line: how they are written there, by their names in `flags`.
        written: What ``--mode`` was given.

    Raises:
        InputError: A flag is of another mode, or data are missing.
    """
    _refuse_other_modes(mode, given, written)
    said = _overrides(mode, flags["override"])
    calibration = _calibration(mode, flags)
    step = make_pass(_PASSES[mode], _options(mode, flags, given, said))
    steps: list[Step] = [] if flags["only"] else [*pipelines.expand("exact", keep_opset=flags["keep_opset"])]
    halves = [name for name, setting in said.settings.items() if setting.type is Type.F16]
    steps += [make_pass("convert-half", {"include": halves}), step] if halves else [step]
    if mode in _WIDENED:
        steps.insert(0, make_pass("convert-float", _WIDENED[mode]))
    # In half precision, the search also finds the nodes that onnxruntime takes only in float32: without data, too.
    has_search = searches(mode, flags) or (mode in HALF_MODES and not flags["no_search"])
    search = Search.QUANTIZE if has_search else None
    target = flags["target"]
    return recipe_from_flags("quantize", steps, flags, calibration=calibration, target=target, search=search)


def suffix_of(mode: str, flags: dict[str, Any]) -> str:
    """What the output's name ends with."""
    if mode in {*HALF_MODES, "fp32"}:
        return mode
    return f"int{flags['bits'] or 4}" if mode == "weights" else "int8"


def searches(mode: str, flags: dict[str, Any]) -> bool:
    """Whether other recipes are tried and measured too."""
    as_told = flags["no_search"] or flags["everywhere"]
    measures = flags["evaluation"] is not None or not (flags["no_verify"] and flags["no_bench"])
    has_contract = flags["max_drop"] is not None or default_contract(flags) is not None
    return measures and not as_told and mode != "fp32" and (mode in INTEGER_MODES or has_contract)


def default_contract(flags: dict[str, Any]) -> float | None:
    """What accuracy may fall by where the user did not say it; None without data to measure it on."""
    spec = flags["calib"] if flags["evaluation"] is None else flags["evaluation"]
    return None if spec in {None, "random"} else DEFAULT_MAX_DROP


def _refuse_other_modes(mode: str, given: Mapping[str, str], asked: str) -> None:
    without_data = " without --calib" if (asked, mode) == ("int8", "dynamic") else ""
    for name, flag in given.items():
        modes = _MODES_OF.get(name, (mode,))
        if mode not in modes:
            fact = f"{flag} is not for --mode {asked}{without_data}"
            raise InputError(fact, hint=f"it is for --mode {' or '.join(modes)}")


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
    if calib is None and flags["calib_cache"]:
        raise InputError("--calib-cache keeps what calibration observes", hint="--calib DATA")
    if calib is None:
        return None
    layout = layout_from_flags(flags)
    return DataSpec(data=calib, limit=flags["calib_limit"], preprocess=flags["preprocess"], **layout)


def _overrides(mode: str, texts: Sequence[str]) -> Overrides:
    """What ``--override`` says, as far as the mode can do it.

    Raises:
        InputError: It says nothing that can be, or nothing that this mode can do.
    """
    plain: dict[str, Any] = {}
    for text in texts:
        name, settings = split(text)
        if name in plain:
            raise InputError(f"--override says '{name}' twice", hint="one --override with both keys")
        try:
            plain[name] = yaml.safe_load(settings)
        except yaml.YAMLError:
            fact = f"--override '{text}' is not NAME: {{key: value}}"
            raise InputError(fact, hint=f"--override '{name}: {{type: u16}}'") from None
    found = Overrides.parse(plain)
    for name, setting in found.settings.items():
        if mode != "static" and setting.type not in {Type.F32, Type.F16}:
            fact = f"the override of '{name}' is not for --mode {mode}"
            raise InputError(fact, hint="type: f32 and type: f16 are; the rest is for --mode static")
        if _PASSES[mode] == "convert-half" and setting.type is Type.F16:
            fact = f"the override of '{name}' is not for --mode {mode}"
            raise InputError(fact, hint="type: f16 is for the modes of int8 and of weights")
    return found


def _options(mode: str, flags: dict[str, Any], given: Mapping[str, str], said: Overrides) -> dict[str, Any]:
    """The options of the mode's pass that the user chose, by their written names."""
    names = [name for name in given if name in _MODES_OF and name not in _NOT_OF_THE_PASS]
    options = {
        _OPTION_OF.get(name, name).replace("_", "-"): _VALUE_OF.get(name, {}).get(flags[name], flags[name])
        for name in names
    }
    options |= {key: list(flags[key]) for key in ("include", "exclude") if flags[key]}
    tensors = {name: setting for name, setting in said.settings.items() if setting.type is not Type.F16}
    if tensors and mode == "static":
        options["override"] = Overrides(tensors).plain()
    floats = [name for name in said.settings if mode != "static" or name not in tensors]
    if floats:
        options["exclude"] = [*options.get("exclude", []), *floats]
    return options | ({"type": mode} if mode in HALF_MODES else {})
