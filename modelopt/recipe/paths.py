"""A recipe as it may travel with a model: without the folders of the machine that it was run on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import PurePath
from typing import TypeVar

import msgspec

from modelopt.data.preprocess_config import config_file
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Recipe, each_metric

_PATHS = ("data", "labels", "tokenizer")

_Data = TypeVar("_Data", bound=DataSpec)


def without_folders(recipe: Recipe) -> Recipe:
    """The recipe with file names in place of paths: the names of folders may be private.

    It runs again where files of these names are beside it.
    """
    return dataclasses.replace(
        recipe,
        calibration=None if recipe.calibration is None else _data(recipe.calibration),
        evaluate=None if recipe.evaluate is None else _data(recipe.evaluate),
        bench=None if recipe.bench is None else _bench(recipe.bench),
        gates=msgspec.structs.replace(recipe.gates, metric=each_metric(recipe.gates.metric, _metric)),
    )


def _data(spec: _Data) -> _Data:
    said: Mapping[str, object] = {name: getattr(spec, name, None) for name in _PATHS}
    changes: dict[str, object] = {name: _name(text) for name, text in said.items() if isinstance(text, str)}
    if spec.preprocess is not None and config_file(spec.preprocess) is not None:
        changes["preprocess"] = _name(spec.preprocess)
    if isinstance(spec, EvaluateSpec):
        changes["metric"] = each_metric(spec.metric, _metric)
    return msgspec.structs.replace(spec, **changes)


def _metric(text: str) -> str:
    """``OUTPUT=NAME`` as it is: the name of an output may look like a path."""
    return text if "=" in text and ".py:" not in text else _name(text)


def _bench(spec: BenchSpec) -> BenchSpec:
    options = {key: _name(text) for key, text in spec.provider_options.items()}
    return msgspec.structs.replace(spec, provider_options=options)


def _name(text: str) -> str:
    """The last part of a path; ``file.py:function`` has one too."""
    return PurePath(text).name or text
