"""The modes of `quantize`: the pass of each, the options that it takes, and what an override may say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from modelopt.commands.option_groups import flag_of
from modelopt.core.errors import InputError
from modelopt.quant.static.overrides import Overrides, Type, split
from modelopt.recipe import bounded_yaml

INTEGER_MODES = ("static", "dynamic")
HALF_MODES = ("fp16", "bf16")

PASSES = {
    "static": "quantize-static",
    "dynamic": "quantize-dynamic",
    "fp16": "convert-half",
    "bf16": "convert-half",
    "fp32": "convert-float",
    "weights": "quantize-weights",
    "storage": "store-weights",
}

WIDENED: dict[str, dict[str, Any]] = {
    "static": {},
    "dynamic": {},
    "weights": {"float16": False},
    "storage": {"float16": False},
}
"""The modes that begin with float32, and the options of the pass that makes it."""

_CHOOSING = tuple(mode for mode in PASSES if mode != "fp32")
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
    "search": tuple(PASSES),
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
_NOT_OF_THE_PASS = {"calib", "calib_limit", "calib_cache", "search", "include", "exclude"}

OverrideLike = Mapping[str, Mapping[str, Any]] | Sequence[str]
"""{"logits": {"type": "u16"}}, or texts "logits: {type: u16}"."""


def mode_of(written: str, *, bits: int | None, has_calibration: bool) -> str:
    """The mode that was asked for; int8 and int4 name a type, for which there is one mode.

    Raises:
        InputError: There is no such mode, or int4 is asked for with other bits.
    """
    if written == "int4" and bits not in {None, 4}:
        raise InputError(f"--mode int4 has 4 bits, not {bits}", hint=f"--mode weights --bits {bits}")
    mode = {"int4": "weights", "int8": "static" if has_calibration else "dynamic"}.get(written, written)
    if mode not in PASSES:
        raise InputError(f"unknown mode '{written}'", note=f"modes: {', '.join(PASSES)}, int8, int4")
    return mode


def refuse_other_modes(mode: str, given: Collection[str], written: str) -> None:
    """Refuse options that are of another mode.

    Args:
        mode: See `mode_of`.
        given: The names of the options that were given.
        written: What ``--mode`` was given.

    Raises:
        InputError: One of them is.
    """
    without_data = " without --calib" if (written, mode) == ("int8", "dynamic") else ""
    for name, modes in _MODES_OF.items():
        if name in given and mode not in modes:
            fact = f"{flag_of(name)} is not for --mode {written}{without_data}"
            raise InputError(fact, hint=f"it is for --mode {' or '.join(modes)}")


def overrides_of(mode: str, asked: OverrideLike) -> Overrides:
    """What ``--override`` says, as far as the mode can do it.

    Raises:
        InputError: It says nothing that can be, or nothing that this mode can do.
    """
    found = Overrides.parse(dict(asked) if isinstance(asked, Mapping) else _parsed(asked))
    for name, setting in found.settings.items():
        if mode != "static" and setting.type not in {Type.F32, Type.F16}:
            fact = f"the override of '{name}' is not for --mode {mode}"
            raise InputError(fact, hint="type: f32 and type: f16 are; the rest is for --mode static")
        if PASSES[mode] == "convert-half" and setting.type is Type.F16:
            fact = f"the override of '{name}' is not for --mode {mode}"
            raise InputError(fact, hint="type: f16 is for the modes of int8 and of weights")
    return found


def _parsed(texts: Sequence[str]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for text in texts:
        name, settings = split(text)
        if name in plain:
            raise InputError(f"--override says '{name}' twice", hint="one --override with both keys")
        try:
            plain[name], _ = bounded_yaml.read(settings, source="its settings")
        except InputError as error:
            fact = f"--override '{text}' is not NAME: {{key: value}}"
            note = ": ".join(filter(None, (error.fact, error.note)))
            raise InputError(fact, note=note, hint=f"--override '{name}: {{type: u16}}'") from None
    return plain


def halves(overrides: Overrides) -> list[str]:
    """The names that an override leaves in half precision."""
    return [name for name, setting in overrides.settings.items() if setting.type is Type.F16]


def pass_options(mode: str, given: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """The options of the mode's pass that the user chose, by their written names.

    Args:
        mode: See `mode_of`.
        given: The options that were given, by name.
        overrides: See `overrides_of`.
    """
    names = [name for name in given if name in _MODES_OF and name not in _NOT_OF_THE_PASS]
    options = {
        _OPTION_OF.get(name, name).replace("_", "-"): _VALUE_OF.get(name, {}).get(given[name], given[name])
        for name in names
    }
    options |= {key: list(given[key]) for key in ("include", "exclude") if given.get(key)}
    tensors = {name: setting for name, setting in overrides.settings.items() if setting.type is not Type.F16}
    if tensors and mode == "static":
        options["override"] = Overrides(tensors).plain()
    floats = [name for name in overrides.settings if mode != "static" or name not in tensors]
    if floats:
        options["exclude"] = [*options.get("exclude", []), *floats]
    return options | ({"type": mode} if mode in HALF_MODES else {})
