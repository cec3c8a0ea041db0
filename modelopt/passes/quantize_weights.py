"""See `QuantizeWeights`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.errors import InputError, Refused
from modelopt.passes._opset import upgraded
from modelopt.passes.base import Changes, Context, Effect, Pass, Skip, option
from modelopt.quant import filters, weight_only
from modelopt.quant.blocks import BlockGrid
from modelopt.quant.weight_only import Group, Product
from modelopt.quant.weight_rounding import Rounding, round_weights
from modelopt.runtime.cpu import TargetKind

_BLOCKED_OPSET = 21  # DequantizeLinear with block_size, and the types int4 and uint4
_BITS = (2, 4, 8)
_BLOCKS = (16, 32, 64, 128, 256)
_INT8, _FLOAT32 = 4, 1  # accuracy levels of MatMulNBits


class Form(Enum):
    """How a model holds the weights.

    Attributes:
        AUTO: blocked for TensorRT, which has no operators of onnxruntime's; else matmulnbits.
        MATMULNBITS: onnxruntime's MatMulNBits.
        BLOCKED: DequantizeLinear with a block size (opset 21) before a MatMul.
    """

    AUTO = "auto"
    MATMULNBITS = "matmulnbits"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Store weights of matrix products in 2, 4 or 8 bits, a scale for each block; activations stay in float.

    A weight that several nodes share is stored once, in the scope that held it; one that another node reads in float
    stays, for the file would then hold both. Papers and algebra: `modelopt.quant.hqq` and `modelopt.quant.gptq`. Only
    the form matmulnbits, which is the default, needs onnxruntime. Products of few rows (decoding) become faster, those
    of many rows need not.
    """

    name: ClassVar[str] = "quantize-weights"
    effect: ClassVar[Effect] = Effect.APPROXIMATE
    contrib: ClassVar[bool] = True

    bits: int = option(4, "2, 4 or 8")
    block_size: int | None = option(
        None, "weights that share a scale: a power of two from 16 to 256; default: 32, with 8 bits 128"
    )
    symmetric: bool | None = option(None, "no zero points; default: only with 8 bits")
    method: Rounding = option(  # noqa: RUF009 - it is dataclasses.field
        Rounding.RTN, "how to round: rtn (to nearest), hqq (forgives outliers) or gptq (feeds errors back; needs data)"
    )
    form: Form = option(  # noqa: RUF009 - it is dataclasses.field
        Form.AUTO, "auto (by target), matmulnbits (onnxruntime only) or blocked (opset 21)"
    )
    clip: bool = option(default=True, text="search the range of each block for the least squared error")
    int8_compute: bool | None = option(
        None, "form matmulnbits: activations to 8 bits inside the product, much faster on CPUs; default: yes"
    )
    min_elements: int = option(1024, "leave weights with fewer elements alone")
    include: tuple[str, ...] = option((), "only these nodes: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")

    def __post_init__(self) -> None:
        """Refuse options that cannot be or contradict each other."""
        if self.bits not in _BITS:
            raise InputError(f"{self.bits} bits are not possible", hint="2, 4 or 8")
        if self.block_size not in (None, *_BLOCKS):
            raise InputError(f"block size {self.block_size} is not possible", hint=f"one of {_BLOCKS}")
        if self.form is Form.BLOCKED and self.bits == 2:
            raise InputError("the blocked form holds 4 or 8 bits, not 2", hint="form matmulnbits holds 2 as well")
        if self.form is Form.BLOCKED and self.int8_compute is not None:
            raise InputError("in the blocked form the runtime chooses how to compute", hint="drop int8-compute")

    def leaves_contrib(self) -> bool:
        """See `Pass.leaves_contrib`."""
        return self.form is not Form.BLOCKED

    def calibrates(self) -> bool:
        """GPTQ weighs the errors of weights by what calibration data multiply them with."""
        return self.method is Rounding.GPTQ

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node, or gptq has no data.
            Refused: onnxruntime does not compute with such blocks, or the model's opset is too old and cannot be
                converted.
        """
        filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        groups, skipped = self._choose(model)
        if not groups:
            return Changes(skipped=tuple(skipped))
        form = self._form(ctx)
        if form is Form.BLOCKED and graph.opset(model) < _BLOCKED_OPSET:
            graph.replace_contents(model, upgraded(model, _BLOCKED_OPSET, ctx.runner))
            groups, skipped = self._choose(model)  # the same nodes: the converter only rewrites what changed meaning
        grids = [self._grid(weight_only.shape(group[0])[1]) for group in groups]
        if form is Form.MATMULNBITS:
            _check_kernels(set(grids), ctx)
        before = sum(4 * rows * width for rows, width in (weight_only.shape(group[0]) for group in groups))
        integers = round_weights(model, groups, grids, ctx, method=self.method, clip=self.clip)
        writer = weight_only.Writer(model, accuracy_level=_FLOAT32 if self.int8_compute is False else _INT8)
        write = writer.dequantized if form is Form.BLOCKED else writer.packed
        for group, quantized in zip(groups, integers, strict=True):
            write(group, quantized)
        after = sum(weight_only.stored_bytes(q.integers.shape, q.grid) for q in integers)
        nodes = sum(len(group) for group in groups)
        facts = {"nodes_quantized": nodes, "nodes_kept_float": len(skipped), "form": form.value}
        return Changes(nodes, tuple(skipped), {**facts, "weights_before_bytes": before, "weights_after_bytes": after})

    def _form(self, ctx: Context) -> Form:
        if self.form is not Form.AUTO:
            return self.form
        portable = ctx.target.kind is TargetKind.TENSORRT and self.bits != 2
        return Form.BLOCKED if portable and self.int8_compute is None else Form.MATMULNBITS

    def _grid(self, width: int) -> BlockGrid:
        """Blocks longer than a row would only add padding."""
        wanted = self.block_size or (128 if self.bits == 8 else 32)
        block = next((size for size in _BLOCKS if size >= min(width, wanted)), wanted)
        return BlockGrid(self.bits, block, self.bits == 8 if self.symmetric is None else self.symmetric)

    def _choose(self, model: ir.Model) -> tuple[list[Group], list[Skip]]:
        verdicts: dict[ir.Node, Product | str] = {}
        for scope, _, in_function in graph.scopes(model):
            for node in scope:
                if weight_only.is_candidate(node):
                    verdicts[node] = weight_only.IN_FUNCTION if in_function else self._verdict(node)
        return weight_only.grouped(verdicts)

    def _verdict(self, node: ir.Node) -> Product | str:
        reason = filters.why_left_out(node, self.include, self.exclude)
        found = weight_only.product(node)
        if reason is not None or isinstance(found, str):
            return reason or found
        rows, width = weight_only.shape(found)
        if rows * width < self.min_elements:
            return f"its weight has {rows * width} elements, fewer than min-elements"
        if weight_only.stored_bytes((rows, width), self._grid(width)) >= 4 * rows * width:
            return "its blocks would take no less than the float weight"
        return found if np.isfinite(weight_only.matrix(found)).all() else "its weight holds NaN or Inf"


def _check_kernels(grids: set[BlockGrid], ctx: Context) -> None:
    for grid in sorted(grids, key=str):
        reason = weight_only.why_not_run(grid, ctx.runner)
        if reason is not None:
            raise Refused(
                f"onnxruntime does not compute with {grid.bits} bits in blocks of {grid.block}",
                note=reason,
                hint="other bits, or form blocked",
            )
