"""`run`: a recipe, with the options that were given in place of what it says."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from modelopt.commands.contract_options import gate_fields
from modelopt.commands.execution import OptimizeOptions, Plan
from modelopt.commands.option_groups import (
    CALIBRATION,
    EVALUATION,
    checked,
    data_text,
    flag_of,
    given,
    metric_field,
    timing_fields,
)
from modelopt.core.errors import InputError
from modelopt.data.in_memory import DataLike
from modelopt.recipe import shipped_recipes, trust
from modelopt.recipe.parsing import load
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Gates, Recipe
from modelopt.recipe.trust import Trust

_REPLACED = "random"
_LAYOUT = ("batch_axis", "whole_files", "label_column", "tokenizer")
_EVALUATE = {"eval_limit": "limit", "labels": "labels", "metric": "metric", "preprocess": "preprocess"}


@dataclass(frozen=True, kw_only=True)
class _RecipeOption:
    recipe: str | Path | Recipe = field(kw_only=False)


@dataclass(frozen=True, kw_only=True)
class RunOptions(OptimizeOptions, _RecipeOption):
    """Options of `run`; what is not given stays as the recipe says.

    Attributes:
        recipe: A recipe file, the name of a recipe that comes with modelopt, or a recipe.
        calib: Calibration data, in place of the recipe's.
        allow_code: Run the Python functions that a recipe file names. Those that are named here run in any case.
        allow_paths: Let a recipe file name files outside its own folder.
    """

    calib: DataLike | None = None
    allow_code: bool = False
    allow_paths: bool = False

    def plan(self) -> Plan:
        """The recipe with its overrides."""
        return Plan(self._overridden(), self._loaded.suffix())

    def calibration_data(self) -> DataLike | None:
        """The data that passes calibrate on, where they are given here."""
        return self.calib

    def recipe_file(self) -> Path | None:
        """The file of the recipe; None for a recipe in memory."""
        return None if isinstance(self.recipe, Recipe) else shipped_recipes.path_of(str(self.recipe))

    @cached_property
    def _loaded(self) -> Recipe:
        if isinstance(self.recipe, Recipe):  # the program that made it has named its files and its code
            return self.recipe
        path = shipped_recipes.path_of(str(self.recipe))
        return trust.placed(self._kept(load(path)), path, Trust(self.allow_code, self.allow_paths))

    def _kept(self, recipe: Recipe) -> Recipe:
        """The recipe without what the options take the place of: nobody has to allow that."""
        calibration, evaluate, gates, bench = recipe.calibration, recipe.evaluate, recipe.gates, recipe.bench
        if calibration is not None and self.calib is not None:
            calibration = msgspec.structs.replace(calibration, data=_REPLACED)
        if calibration is not None and self.preprocess is not None:
            calibration = msgspec.structs.replace(calibration, preprocess=None)
        if calibration is not None and self.tokenizer is not None:
            calibration = msgspec.structs.replace(calibration, tokenizer=None)
        if evaluate is not None:
            if self.eval is not None:
                evaluate = msgspec.structs.replace(evaluate, data=_REPLACED, labels=None)
            if self.labels is not None:
                evaluate = msgspec.structs.replace(evaluate, labels=None)
            if self.preprocess is not None:
                evaluate = msgspec.structs.replace(evaluate, preprocess=None)
            if self.tokenizer is not None:
                evaluate = msgspec.structs.replace(evaluate, tokenizer=None)
            if self.metric is not None:
                evaluate = msgspec.structs.replace(evaluate, metric=None)
        if self.metric is not None:
            gates = msgspec.structs.replace(gates, metric=None)
        if bench is not None and self.provider not in {None, bench.provider}:  # another provider has other options
            bench = msgspec.structs.replace(bench, provider_options={})
        bench = bench if self.bench else None
        return dataclasses.replace(recipe, calibration=calibration, evaluate=evaluate, gates=gates, bench=bench)

    def _overridden(self) -> Recipe:
        recipe, names = self._loaded, given(self).keys()
        calibration = self._calibration(recipe.calibration, names)
        evaluate = self._evaluate(recipe.evaluate, names, has_calibration=calibration is not None)
        if calibration is None and evaluate is None:
            for name in ("preprocess", *_LAYOUT):
                if name in names:
                    raise InputError(f"{flag_of(name)} needs data", hint="--calib DATA or --eval DATA")
        return dataclasses.replace(
            recipe,
            calibration=calibration,
            evaluate=evaluate,
            bench=self._bench(recipe.bench),
            gates=self._gates(recipe.gates, names, is_evaluated=evaluate is not None),
            verify=recipe.verify and self.verify,
            seed=recipe.seed if self.seed is None else self.seed,
        )

    def _calibration(self, spec: DataSpec | None, names: Collection[str]) -> DataSpec | None:
        if self.calib is not None:
            data = data_text(self.calib, CALIBRATION)
            spec = DataSpec(data=data) if spec is None else msgspec.structs.replace(spec, data=data)
        if spec is not None and self.preprocess is not None:
            spec = msgspec.structs.replace(spec, preprocess=self.preprocess)
        return spec if spec is None else msgspec.structs.replace(spec, **self._layout(names))

    def _layout(self, names: Collection[str]) -> dict[str, Any]:
        said = {
            "batch_axis": dict(self.batch_axis),
            "whole_files": self.whole_files,
            "label_column": self.label_column,
            "tokenizer": None if self.tokenizer is None else str(self.tokenizer),
        }
        return {name: value for name, value in said.items() if name in names}

    def _evaluate(
        self, spec: EvaluateSpec | None, names: Collection[str], *, has_calibration: bool
    ) -> EvaluateSpec | None:
        changes = {name_: getattr(self, name) for name, name_ in _EVALUATE.items() if name in names}
        changes |= self._layout(names)
        if self.metric is not None:
            changes["metric"] = metric_field(self.metric)
        if self.labels is not None:
            changes["labels"] = str(self.labels)
        if self.eval is not None:
            spec = EvaluateSpec(data="") if spec is None else spec
            return msgspec.structs.replace(
                spec, **{"data": data_text(self.eval, EVALUATION), "labels": None, **changes}
            )
        if spec is None:
            for name in ("labels", "metric", "eval_limit"):
                if name in names and not (name == "metric" and has_calibration):
                    raise InputError(f"{flag_of(name)} needs --eval", hint="--eval DATA")
            return None
        return msgspec.structs.replace(spec, **changes)

    def _bench(self, spec: BenchSpec | None) -> BenchSpec | None:
        if not self.bench:
            return None
        changes = timing_fields(self)
        options = dict(self.provider_options)
        if not changes and not options:
            return spec
        old = BenchSpec() if spec is None else spec
        is_same = changes.get("provider", old.provider) == old.provider  # another provider has other options
        options = {**(old.provider_options if is_same else {}), **options}
        return checked(BenchSpec, {**msgspec.structs.asdict(old), **changes, "provider_options": options})

    def _gates(self, gates: Gates, names: Collection[str], *, is_evaluated: bool) -> Gates:
        changes = gate_fields(self)
        if "require_verified" in names:
            changes["require_verified"] = self.require_verified
        if self.metric is not None and not is_evaluated:
            changes["metric"] = metric_field(self.metric)
        return checked(Gates, {**msgspec.structs.asdict(gates), **changes})
