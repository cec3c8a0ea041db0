"""Overrides: a type, a scale, a zero point or a range that the user gives for single tensors and nodes.

    override:
      logits: {type: u16}                  # 16 bits for this activation, 8 for the others
      attention_mask: {range: [0, 1]}      # in place of the observed range; min and max name one end of it
      image: {scale: 0.0078125, zero-point: 128}
      op:Softmax: {type: f32}              # these nodes stay in float

A name is that of a tensor, or of a node, and then means what the node makes: see
`modelopt.quant.static.override_targets`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np

from modelopt.core.errors import InputError, did_you_mean
from modelopt.quant.numerics import scheme
from modelopt.quant.numerics.scheme import Grid, IntType, QParams, Symmetry

KEYS = {
    "type": "u8, s8, u16 or s16: the integers of an activation; f32: left in float",
    "scale": "a positive number: the step between two integers",
    "zero-point": "the integer that stands for 0",
    "range": "[min, max]: what the integers reach, in place of the observed range",
    "min": "the lower end of the range alone",
    "max": "its upper end alone",
}
"""The keys of an override, with what each means."""

_TEXT = re.compile(r"(?P<name>.+?)\s*:\s*(?P<settings>\{.*\})\s*", re.DOTALL)
_MAX_TEXT = 10_000
_LIKE_THIS = "such as --override 'NAME: {type: u16}' or 'NAME: {range: [0, 6]}'"


class Type(Enum):
    """What a tensor is stored as, or a node computes in.

    Attributes:
        U8: Unsigned integers of 8 bits.
        S8: Signed ones.
        U16: Unsigned integers of 16 bits, which onnxruntime's CPU provider computes with in float.
        S16: Signed ones.
        F32: Float: nothing is quantized.
        F16: Half precision, by the pass convert-half.
    """

    U8 = "u8"
    S8 = "s8"
    U16 = "u16"
    S16 = "s16"
    F32 = "f32"
    F16 = "f16"

    @property
    def integers(self) -> IntType | None:
        """The integer type, None for floats."""
        return IntType[self.name] if self not in {Type.F32, Type.F16} else None


@dataclass(frozen=True)
class Setting:
    """The override of one name; None for what it does not set.

    Attributes:
        type: What it is stored as.
        scale: The step between two integers.
        zero_point: The integer that stands for 0.
        low: The lower end of the range.
        high: Its upper end.
    """

    type: Type | None = None
    scale: float | None = None
    zero_point: int | None = None
    low: float | None = None
    high: float | None = None

    @property
    def sets_numbers(self) -> bool:
        """Whether it sets more than a type."""
        return any(number is not None for number in (self.scale, self.zero_point, self.low, self.high))

    @property
    def sets_range(self) -> bool:
        """Whether no range has to be observed: it sets a scale, or both ends of the range."""
        return self.scale is not None or None not in {self.low, self.high}

    def grid(self, usual: Grid) -> Grid:
        """The integers: those of the type, else the usual ones."""
        kind = None if self.type is None else self.type.integers
        return usual if kind is None else replace(usual, type=kind)

    def params(self, name: str, usual: Grid, low: float, high: float) -> QParams:
        """The parameters of a tensor.

        Args:
            name: How errors call it.
            usual: The integers where it sets no type.
            low: The observed lower end of the range.
            high: The observed upper end.

        Raises:
            InputError: The range is empty, or the zero point is none of the integers.
        """
        grid = self.grid(usual)
        least = low if self.low is None else self.low
        most = high if self.high is None else self.high
        if least > most:
            fact = f"the range of '{name}' would be {least:g} to {most:g}"
            raise InputError(fact, note=f"{low:g} to {high:g} was observed", hint="say range: [min, max]")
        if self.scale is None and self.zero_point is None:
            return scheme.params_from_range(least, most, grid)
        middle = grid.symmetry is Symmetry.SYMMETRIC
        zero_point = self.zero_point
        if zero_point is not None and not grid.low <= zero_point <= grid.high:
            fact = f"the zero point {zero_point} of '{name}' is none of its integers"
            raise InputError(fact, hint=f"{grid.type.value}: {grid.low} to {grid.high}")
        if middle and zero_point not in {None, grid.middle}:
            raise InputError(f"the zero point of '{name}' can only be {grid.middle}", note="it is symmetric here")
        if self.scale is None and zero_point is not None:
            scale = _scale_around(zero_point, min(least, 0.0), max(most, 0.0), grid)
        else:
            scale = self.scale or 1.0
        if zero_point is None:
            below = min(least, 0.0) / scale
            zero_point = grid.middle if middle else int(np.clip(np.rint(grid.low - below), grid.low, grid.high))
        return QParams(np.asarray(scale, np.float32), np.asarray(zero_point, grid.type.dtype), grid)


def _scale_around(zero_point: int, low: float, high: float, grid: Grid) -> float:
    """The smallest scale with which the integers below and above a zero point reach both ends of the range."""
    ends = [(high, grid.high - zero_point), (-low, zero_point - grid.low)]
    return max((end / steps for end, steps in ends if steps), default=0.0) or 1.0


class Overrides:
    """Settings by name: an immutable value, compared by its content, that prints as the mapping that made it."""

    def __init__(self, settings: Mapping[str, Setting] | None = None) -> None:
        self._settings = dict(settings or {})

    @classmethod
    def parse(cls, plain: Any) -> Overrides:
        """From a mapping of names to mappings.

        Raises:
            InputError: It is none, a key is unknown, or a value impossible.
        """
        if not isinstance(plain, Mapping):
            raise InputError("overrides are a mapping of names", hint="such as override: {NAME: {type: u16}}")
        return cls({str(name): _setting(str(name), settings) for name, settings in plain.items()})

    @property
    def settings(self) -> Mapping[str, Setting]:
        """By name."""
        return self._settings

    def plain(self) -> dict[str, dict[str, Any]]:
        """As YAML and JSON hold it; `parse` gives equal overrides back."""
        return {name: _plain(setting) for name, setting in self._settings.items()}

    def __bool__(self) -> bool:
        return bool(self._settings)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Overrides) and list(self._settings.items()) == list(other._settings.items())

    def __hash__(self) -> int:
        return hash(tuple(self._settings.items()))

    def __repr__(self) -> str:
        return f"Overrides({self._settings!r})"


def schema() -> dict[str, Any]:
    """A JSON schema of overrides."""
    number = {"type": "number"}
    kinds: dict[str, dict[str, Any]] = {
        "type": {"enum": [kind.value for kind in Type]},
        "scale": {"type": "number", "exclusiveMinimum": 0},
        "zero-point": {"type": "integer"},
        "range": {"type": "array", "items": number, "minItems": 2, "maxItems": 2},
        "min": number,
        "max": number,
    }
    properties = {key: {**kinds[key], "description": text} for key, text in KEYS.items()}
    one = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
    return {"type": "object", "additionalProperties": one}


def split(text: str) -> tuple[str, str]:
    """A name and the text of its settings, from ``NAME: {key: value}``.

    Raises:
        InputError: It is written in another way.
    """
    if len(text) > _MAX_TEXT:
        raise InputError(f"an --override of {len(text)} characters", note=f"the limit is {_MAX_TEXT}")
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InputError(f"--override '{text}' is not NAME: {{key: value}}", hint=_LIKE_THIS)
    name = found["name"].strip()
    quoted = len(name) > 1 and name[0] == name[-1] and name[0] in "\"'"
    return (name[1:-1] if quoted else name), found["settings"]


def _setting(name: str, plain: Any) -> Setting:
    if not isinstance(plain, Mapping) or not plain:
        raise InputError(f"the override of '{name}' is no mapping", hint="such as {type: u16}, or {range: [0, 6]}")
    for key in plain:
        if key not in KEYS:
            hint = did_you_mean(str(key), KEYS) or f"keys: {', '.join(KEYS)}"
            raise InputError(f"the override of '{name}' has an unknown key '{key}'", hint=hint)
    kind = _type(name, plain["type"]) if "type" in plain else None
    if kind in {Type.F32, Type.F16} and len(plain) > 1:
        raise InputError(f"'{name}' is to be {kind.value}, which has no scale and no range", hint="type alone")
    low, high = _range(name, plain)
    return Setting(kind, _scale(name, plain), _zero_point(name, plain.get("zero-point"), kind), low, high)


def _range(name: str, plain: Mapping[str, Any]) -> tuple[float | None, float | None]:
    if "range" in plain and {"min", "max"} & plain.keys():
        raise InputError(f"the override of '{name}' says its range twice", hint="range, or min and max")
    if "range" in plain:
        ends = plain["range"]
        if not isinstance(ends, list | tuple) or len(ends) != 2:
            raise InputError(f"the range of '{name}' is no pair of numbers", hint="range: [0, 6]")
        plain = dict(zip(("min", "max"), ends, strict=True))
    low, high = (_number(name, key, plain[key]) if key in plain else None for key in ("min", "max"))
    if low is not None and high is not None and low >= high:
        raise InputError(f"the range of '{name}' is empty: {low:g} to {high:g}", hint="range: [min, max]")
    return low, high


def _scale(name: str, plain: Mapping[str, Any]) -> float | None:
    if "scale" not in plain:
        return None
    if {"range", "min", "max"} & plain.keys():
        raise InputError(f"the override of '{name}' says a scale and a range", hint="one follows from the other")
    scale = _number(name, "scale", plain["scale"])
    limits = np.finfo(np.float32)
    if not limits.tiny <= scale <= limits.max:
        raise InputError(f"the scale of '{name}' is {scale:g}", hint="a positive number that float32 holds")
    return scale


def _zero_point(name: str, plain: Any, kind: Type | None) -> int | None:
    if plain is None:
        return None
    if not isinstance(plain, int) or isinstance(plain, bool):
        raise InputError(f"the zero point of '{name}' is {plain!r}, not an integer", hint="zero-point: 128")
    integers = None if kind is None else kind.integers
    listed = [IntType.S16, IntType.U16] if integers is None else [integers]
    if not any(np.iinfo(each.value).min <= plain <= np.iinfo(each.value).max for each in listed):
        limits = [f"{each.value}: {np.iinfo(each.value).min} to {np.iinfo(each.value).max}" for each in listed]
        raise InputError(f"the zero point {plain} of '{name}' is none of its integers", hint="; ".join(limits))
    return plain


def _type(name: str, plain: Any) -> Type:
    known = [kind.value for kind in Type]
    if plain not in known:
        hint = did_you_mean(str(plain), known) or f"one of {', '.join(known)}"
        raise InputError(f"the type '{plain}' of '{name}' is none", hint=hint)
    return Type(plain)


def _number(name: str, key: str, plain: Any) -> float:
    if isinstance(plain, bool) or not isinstance(plain, int | float) or not math.isfinite(plain):
        raise InputError(f"the {key} of '{name}' is {plain!r}, not a number", hint=f"{key}: {KEYS[key]}")
    return float(plain)


def _plain(setting: Setting) -> dict[str, Any]:
    found: dict[str, Any] = {} if setting.type is None else {"type": setting.type.value}
    if setting.low is not None and setting.high is not None:
        found["range"] = [setting.low, setting.high]
    numbers = {"scale": setting.scale, "zero-point": setting.zero_point}
    numbers |= {"min": setting.low, "max": setting.high} if "range" not in found else {}
    return found | {key: value for key, value in numbers.items() if value is not None}
