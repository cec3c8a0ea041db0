"""`prune`: the smallest weights become zero, or whole channels, heads and residual blocks are removed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.commands.option_groups import CALIBRATION, checked, data_text, flag_of, given, layout_fields
from modelopt.core.errors import InputError
from modelopt.data.in_memory import DataLike
from modelopt.engine.gates import DEFAULT_MAX_DROP
from modelopt.passes.base import Pass
from modelopt.passes.prune_channels import PruneChannels
from modelopt.pruning.block_importance import BLOCK_NAMES, NEED_DATA_OF_BLOCKS
from modelopt.pruning.importance import NAMES, NEED_DATA
from modelopt.recipe import pipelines
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.recipe import DataSpec, Search, Step, Targets

CALIBRATION_SAMPLES = 256
"""How many samples are calibrated on where `calib_limit` is not given."""

_LAYER = "layer"
_STRUCTURED = ("channel", "head", _LAYER)
_ONLY_STRUCTURED = ("repair", "align", "target_speedup", "target_macs", "keep_opset")
_ONLY_UNSTRUCTURED = ("scope", "update")
_OF_ELEMENTS = ("magnitude", *(name for name in NAMES if name not in {"l1", "l2"}))

_WITH_DATA, _BLOCKS_WITH_DATA = "second-order", "influence"
"""The importance of channels, and of blocks, where there are calibration data."""


@dataclass(frozen=True, kw_only=True)
class PruneOptions(OptimizeOptions):
    """Options of `prune`; None leaves a default of the pass.

    Attributes:
        sparsity: The fraction of weights to set to zero; with `pattern` channel or head the fraction of each group of
            channels to remove, with layer the fraction of the residual blocks. None: 0.5, or what the targets and the
            contract ask for.
        scope: Rank weights within each layer ("layer"), over all of them ("global"), or in each row of weights that one
            output sums over ("row").
        pattern: Where zeros may be: unstructured, 2:4 or 4:8. Or what is removed: channel, head (of attention), or
            layer (whole residual blocks).
        update: Fit the weights that stay to `calib`, so that they make up for those that became zero.
        calib: Calibration data: see `modelopt.data.in_memory.DataLike`.
        calib_limit: Samples to calibrate on. None: `CALIBRATION_SAMPLES`.
        importance: What decides which weights become zero or which channels go: random; or, by `calib`, wanda,
            second-order or stability; or magnitude (of weights), l2 or l1 (of channels). Of blocks random, l2, or by
            `calib` influence. None: magnitude for weights; for channels second-order with calibration data, for blocks
            influence with them, else l2.
        repair: Fit the layers behind what is removed to the original, where there are calibration data.
        target_speedup: How many times as fast as the input the result shall be, with what `pattern` removes.
        target_macs: The fraction of the input's multiply-accumulates that shall be left.
        align: The multiple that numbers of channels are kept at; "auto" measures what this machine's kernels like.
        include: Only nodes and tensors of these names: a glob, re:REGEX, or op:TYPE.
        exclude: Not nodes and tensors of these names.
        keep_opset: Do not convert to a later opset where a fusion needs one.
    """

    sparsity: float | None = None
    scope: str | None = None
    pattern: str | None = None
    update: bool = False
    calib: DataLike | None = None
    calib_limit: int | None = None
    importance: str | None = None
    repair: bool = True
    target_speedup: float | None = None
    target_macs: float | None = None
    align: int | str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    keep_opset: bool = False

    def plan(self) -> Plan:
        """The recipe; where widths are to be found, with a search for them."""
        self._refuse_other_pattern()
        if self.pattern in _STRUCTURED:
            return self._structured()
        asked = self._pass_options("sparsity", "scope", "pattern", "importance")
        step = make_pass("prune-magnitude", asked | ({"update": True} if self.update else {}))
        self._require_calibration(step)
        search = Search.PRUNE if self._searches_sparsity() else None
        return Plan(make_recipe("prune", [step], self, calibration=self._calibration(), search=search), "pruned")

    def calibration_data(self) -> DataLike | None:
        """The data that importance and repair use."""
        return self.calib

    def _require_calibration(self, step: Pass) -> None:
        """Refuse weights chosen by data without data, and data that nothing would read."""
        if self.calib_limit is not None and self.calib is None:
            raise InputError("--calib-limit needs --calib", hint="--calib DATA")
        if step.calibrates() and self.calib is None:
            flag = "--update" if self.importance in {None, "magnitude", "random"} else f"--importance {self.importance}"
            raise InputError(f"{flag} needs calibration data", hint="--calib DATA")
        if self.calib is not None and self.eval is not None and not step.calibrates():
            hint = "--importance second-order --update, or leave out --calib"
            raise InputError("--calib has no use here: weights are chosen by their magnitude", hint=hint)

    def _searches_sparsity(self) -> bool:
        """Whether the largest sparsity is searched that keeps the contract."""
        free = self.sparsity is None and self.pattern in {None, "unstructured"}
        return free and self.max_drop is not None and self._has_data()

    def _structured(self) -> Plan:
        searches = self._searches()
        if self.sparsity is not None and (aims := self._aims()):
            note = "--sparsity removes that share of every group of channels; targets choose a share for each"
            raise InputError(f"--sparsity and {aims[0]} exclude each other", note=note)
        self._refuse_values()
        with_data, by_block = self.calib is not None, self.pattern == _LAYER
        importance = self.importance or ((_BLOCKS_WITH_DATA if by_block else _WITH_DATA) if with_data else None)
        measures = self.align == "auto" and not searches and not by_block
        share = PruneChannels.sparsity if self.sparsity is None else self.sparsity
        asked = {**self._pass_options("sparsity"), "repair": with_data and self.repair}
        asked |= {} if importance is None else {"importance": importance}
        if not by_block:
            asked |= {"kind": self.pattern} | ({} if searches or measures else {"align": self._multiple() or 1})
        exact: list[Step] = [*pipelines.expand("exact", keep_opset=self.keep_opset)]
        behind: list[Step] = [*pipelines.expand("exact", keep_opset=True)]
        steps = [*exact, make_pass("prune-layers" if by_block else "prune-channels", asked), *behind]
        search = Search.PRUNE if searches or measures else None
        recipe = make_recipe("prune", steps, self, calibration=self._calibration(), search=search)
        wanted = {"speedup": self.target_speedup, "macs": self.target_macs, "align": self._multiple()}
        targets = checked(Targets, wanted | {"sparsity": share if measures else None})
        recipe = dataclasses.replace(recipe, targets=targets)
        if searches and self.max_drop is None and self._has_data():
            recipe = dataclasses.replace(recipe, gates=msgspec.structs.replace(recipe.gates, max_drop=DEFAULT_MAX_DROP))
        return Plan(recipe, "pruned")

    def _refuse_values(self) -> None:
        """Refuse values that make no sense for any model, by their flags."""
        if self.target_macs is not None and not 0 < self.target_macs < 1:
            fact = f"--target-macs {self.target_macs:g} is not between 0 and 1"
            raise InputError(fact, hint="--target-macs 50% keeps half of the multiply-accumulates")
        if self.target_speedup is not None and self.target_speedup <= 1:
            fact = f"--target-speedup {self.target_speedup:g} is not above 1"
            raise InputError(fact, hint="--target-speedup 1.5 asks for a model that is 1.5 times as fast")
        if self.target_speedup is not None and not self.bench:
            raise InputError("--target-speedup needs a benchmark", hint="leave out --no-bench")
        if self.importance in NEED_DATA | NEED_DATA_OF_BLOCKS and self.calib is None:
            raise InputError(f"--importance {self.importance} needs calibration data", hint="--calib data/")
        if self.align == "auto" and not self._searches() and not self.bench:
            raise InputError("--align auto needs a benchmark", hint="--align 8 in place of it, or leave out --no-bench")

    def _pass_options(self, *names: str) -> dict[str, Any]:
        asked = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        return asked | {name: list(getattr(self, name)) for name in ("include", "exclude") if getattr(self, name)}

    def _refuse_other_pattern(self) -> None:
        """Refuse options that say nothing for the pattern."""
        others: tuple[str, ...] = _ONLY_UNSTRUCTURED if self.pattern in _STRUCTURED else _ONLY_STRUCTURED
        others += ("align",) if self.pattern == _LAYER else ()
        found = next((name for name in others if name in given(self)), None)
        if found is not None and not (found == "scope" and self.scope == "layer"):
            wanted = "unstructured, 2:4 or 4:8" if self.pattern in _STRUCTURED else "channel, head or layer"
            wanted = "channel or head" if found == "align" else wanted
            raise InputError(
                f"{flag_of(found)} is not for --pattern {self.pattern or 'unstructured'}", hint=f"--pattern {wanted}"
            )
        known: tuple[str, ...] = NAMES if self.pattern in _STRUCTURED else _OF_ELEMENTS
        known = BLOCK_NAMES if self.pattern == _LAYER else known
        if self.importance is not None and self.importance not in known:
            fact = f"--importance {self.importance} is not for --pattern {self.pattern or 'unstructured'}"
            raise InputError(fact, hint=f"--importance {', '.join(known[:-1])} or {known[-1]}")

    def _aims(self) -> list[str]:
        """The flags with which the result is to be found by a search."""
        return [flag_of(name) for name in ("target_speedup", "target_macs") if getattr(self, name) is not None]

    def _searches(self) -> bool:
        """Whether widths are searched: a share of every group was not given, and something says how far to go."""
        limits = self.max_drop is not None or self.max_size is not None
        return self.sparsity is None and (limits or bool(self._aims()) or self._has_data())

    def _has_data(self) -> bool:
        data = self.calib if self.eval is None else self.eval
        return data is not None and not (isinstance(data, str) and data == "random")

    def _multiple(self) -> int | None:
        if self.align is None or self.align == "auto":
            return None
        text = str(self.align)
        if not text.isdecimal() or not int(text):
            raise InputError(f"--align {text} is no multiple", hint="--align 8, or --align auto")
        return int(text)

    def _calibration(self) -> DataSpec | None:
        if self.calib is None:
            return None
        limit = CALIBRATION_SAMPLES if self.calib_limit is None else self.calib_limit
        return checked(DataSpec, {"data": data_text(self.calib, CALIBRATION), "limit": limit, **layout_fields(self)})
