"""`quantize`: int8, half precision, or weights of few bits, after exact folding and fusing."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from modelopt.commands import quantize_modes
from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.commands.option_groups import CALIBRATION, checked, data_text, given, layout_fields
from modelopt.commands.quantize_modes import HALF_MODES, INTEGER_MODES, PASSES, WIDENED, OverrideLike
from modelopt.core.errors import InputError
from modelopt.data.in_memory import DataLike
from modelopt.engine.gates import DEFAULT_MAX_DROP
from modelopt.recipe import pipelines
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.recipe import DataSpec, Search, Step

CALIBRATION_SAMPLES = 128
"""How many samples are calibrated on where `calib_limit` is not given."""


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions(OptimizeOptions):
    """Options of `quantize`; None leaves a default of the mode's pass.

    Attributes:
        calib: Calibration data: see `modelopt.data.in_memory.DataLike`.
        calib_limit: Samples to calibrate on. None: `CALIBRATION_SAMPLES`.
        calib_cache: A JSON file that keeps what calibration observed.
        mode: static, dynamic, fp16, bf16, fp32, weights, storage, int8 (static with calibration data, else dynamic)
            or int4 (weights with 4 bits).
        activation: The type of activations: auto, u8, s8, u16 or s16.
        per_channel: Whether each channel of a weight has a scale of its own.
        method: How ranges follow from what was observed: minmax, moving-average, percentile, entropy or mse.
        weight_range: How far the integers of int8 weights reach: max or mse.
        format: qdq, or qoperator (QLinearConv and QLinearMatMul where they exist).
        integer_io: Inputs and outputs become integers where they are quantized.
        target: The machine that the result is for: auto, x86-vnni, x86-avx2, arm64, tensorrt or cuda.
        include: Only nodes of these names: a glob, re:REGEX, or op:TYPE.
        exclude: Not nodes of these names.
        override: Types and ranges of tensors and nodes: {"logits": {"type": "u16"}}.
        everywhere: Also where int8 is estimated not to pay.
        bits: Of weights: 2, 4 or 8.
        table_bits: Of tables that are looked up.
        block_size: How many weights share a scale.
        weight_method: How weights are rounded: rtn, hqq or gptq.
        weight_form: auto, matmulnbits or blocked.
        weight_compute: What products compute in: float32 or int8.
        keep_io_types: Whether inputs and outputs stay float32 in half precision.
        only: Do not fold and fuse first.
        keep_opset: Do not convert to a later opset where a fusion needs one.
        search: Try other ways to quantize, and the float model, and keep the best.
    """

    calib: DataLike | None = None
    calib_limit: int | None = None
    calib_cache: str | Path | None = None
    mode: str = "static"
    activation: str | None = None
    per_channel: bool | None = None
    method: str | None = None
    weight_range: str | None = None
    format: str | None = None
    integer_io: bool = False
    target: str | None = None
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    override: OverrideLike = ()
    everywhere: bool = False
    bits: int | None = None
    table_bits: int | None = None
    block_size: int | None = None
    weight_method: str | None = None
    weight_form: str | None = None
    weight_compute: str | None = None
    keep_io_types: bool | None = None
    only: bool = False
    keep_opset: bool = False
    search: bool = True

    def plan(self) -> Plan:
        """The recipe of the mode, with a search for a better one where it can be judged."""
        mode, chosen = self._mode, given(self)
        quantize_modes.refuse_other_modes(mode, chosen, self.mode)
        overrides = quantize_modes.overrides_of(mode, self.override)
        calibration = self._calibration()
        step = make_pass(PASSES[mode], quantize_modes.pass_options(mode, chosen, overrides))
        steps: list[Step] = [] if self.only else [*pipelines.expand("exact", keep_opset=self.keep_opset)]
        halves = quantize_modes.halves(overrides)
        steps += [make_pass("convert-half", {"include": halves}), step] if halves else [step]
        if mode in WIDENED:
            steps.insert(0, make_pass("convert-float", WIDENED[mode]))
        # In half precision, the search also finds the nodes that onnxruntime takes only in float32: without data, too.
        has_search = self._tries_others or (mode in HALF_MODES and self.search)
        search = Search.QUANTIZE if has_search else None
        recipe = make_recipe("quantize", steps, self, calibration=calibration, target=self.target, search=search)
        if self._tries_others and self.max_drop is None:
            gates = msgspec.structs.replace(recipe.gates, max_drop=self._default_contract)
            recipe = dataclasses.replace(recipe, gates=gates)
        return Plan(recipe, self._suffix)

    def calibration_data(self) -> DataLike | None:
        """The data that passes calibrate on."""
        return self.calib

    def calibration_cache(self) -> Path | None:
        """The file in which calibrations are kept; None for none."""
        return None if self.calib_cache is None else Path(self.calib_cache)

    @cached_property
    def _mode(self) -> str:
        return quantize_modes.mode_of(self.mode, bits=self.bits, has_calibration=self.calib is not None)

    def _calibration(self) -> DataSpec | None:
        if self.calib is None and self._mode == "static":
            raise InputError(
                "static quantization needs calibration data",
                note="ranges of activations come from real inputs",
                hint="--calib data/, or --mode dynamic, or --calib random to try without",
            )
        if self.calib is None and self.weight_method == "gptq":
            hint = "--calib data/, or --weight-method hqq, which needs none"
            raise InputError("gptq needs calibration data", hint=hint)
        if self.calib is None and self.calib_cache:
            raise InputError("--calib-cache keeps what calibration observes", hint="--calib DATA")
        if self.calib is None:
            return None
        limit = CALIBRATION_SAMPLES if self.calib_limit is None else self.calib_limit
        return checked(DataSpec, {"data": data_text(self.calib, CALIBRATION), "limit": limit, **layout_fields(self)})

    @property
    def _suffix(self) -> str:
        if self._mode in {*HALF_MODES, "fp32"}:
            return self._mode
        return f"int{self.bits or 4}" if self._mode == "weights" else "int8"

    @property
    def _tries_others(self) -> bool:
        """Whether other recipes are tried and measured too."""
        measures = self.eval is not None or self.verify or self.bench
        has_contract = self.max_drop is not None or self._default_contract is not None
        is_tried = self._mode != "fp32" and (self._mode in INTEGER_MODES or has_contract)
        return measures and self.search and not self.everywhere and is_tried

    @property
    def _default_contract(self) -> float | None:
        """What accuracy may fall by where the user did not say it; None without data to measure it on."""
        data = self.calib if self.eval is None else self.eval
        return None if data is None or (isinstance(data, str) and data == "random") else DEFAULT_MAX_DROP
