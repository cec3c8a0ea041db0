"""A recipe as it may travel with a model: without the folders of the machine that it was run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeVar

import msgspec

from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Recipe, metric_names

_PATHS = ("data", "labels")

_Data = TypeVar("_Data", bound=DataSpec)


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with file names in place of paths that lead out of the working directory: they may be private.

    It runs again where files of these names are in the working directory.
    """
    return dataclasses.replace(
        recipe,
        calibration=None if recipe.calibration is None else _data(recipe.calibration),
        evaluate=None if recipe.evaluate is None else _data(recipe.evaluate),
        bench=None if recipe.bench is None else _bench(recipe.bench),
    )


def _data(spec: _Data) -> _Data:
    said: Mapping[str, object] = {name: getattr(spec, name, None) for name in _PATHS}
    changes: dict[str, object] = {name: _name(text) for name, text in said.items() if isinstance(text, str)}
    if isinstance(spec, EvaluateSpec):
        named = tuple(map(_metric, metric_names(spec.metric)))
        changes["metric"] = None if spec.metric is None else named[0] if isinstance(spec.metric, str) else named
    return msgspec.structs.replace(spec, **changes)


def _metric(text: str) -> str:
    """``OUTPUT=NAME`` as it is: the name of an output may look like a path."""
    return text if "=" in text and ".py:" not in text else _name(text)


def _bench(spec: BenchSpec) -> BenchSpec:
    options = {key: _name(text) for key, text in spec.provider_options.items()}
    return msgspec.structs.replace(spec, provider_options=options)


def _name(text: str) -> str:
    """The last part of a path that is absolute, or starts in another folder; ``file.py:function`` has one too."""
    path = PurePath(text)
    leads_out = path.is_absolute() or text.startswith("~") or ".." in path.parts
    return path.name if leads_out and path.name else text
