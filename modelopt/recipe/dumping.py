"""Writes a recipe as YAML."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from enum import Enum
from typing import Any

import msgspec
import yaml

from modelopt.recipe import gate_words, pipelines
from modelopt.recipe.recipe import GROUP, SECTIONS, VERSION, Recipe, Step, UntilStable


def dump(recipe: Recipe, *, in_full: bool = False) -> str:
    """The recipe as YAML; `parsing.parse` makes an equal recipe of it.

    Args:
        recipe: The recipe.
        in_full: List the passes of each pipeline in place of its name. Records of what was done need that: the
            pipeline may hold other passes in another version.
    """
    steps = [_step(step) for step in recipe.steps] if in_full else _steps(recipe.steps)
    plain: dict[str, Any] = {"version": VERSION, "steps": steps}
    for key in SECTIONS:
        value = getattr(recipe, key)
        if value != _default(key):
            plain[key] = _without_defaults(value)
    if "gates" in plain:
        plain["gates"] = gate_words.written(plain["gates"])
    return yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def _steps(steps: Sequence[Step]) -> list[Any]:
    plain: list[Any] = []
    while steps:
        named, count = pipelines.leading(steps) or (_step(steps[0]), 1)
        plain.append(named)
        steps = steps[count:]
    return plain


def _step(step: Step) -> Any:
    if isinstance(step, UntilStable):
        return {GROUP: [_step(one) for one in step.passes]}
    options = step.options()
    return {step.name: options} if options else step.name


class _Dumper(yaml.SafeDumper):
    """Escapes the line ends of Unicode: PyYAML writes them as they are and reads them as spaces."""

    def ignore_aliases(self, data: Any) -> bool:  # `parsing.parse` refuses aliases
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if {*"\x85\u2028\u2029"} & {*data} else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _default(key: str) -> Any:
    (found,) = (f for f in dataclasses.fields(Recipe) if f.name == key)
    return found.default_factory() if found.default_factory is not dataclasses.MISSING else found.default


def _without_defaults(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if not isinstance(value, msgspec.Struct):
        return value
    defaults = {f.encode_name: f.default for f in msgspec.structs.fields(value)}
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return {key: item for key, item in plain.items() if item != defaults[key] and item is not None and item != {}}
