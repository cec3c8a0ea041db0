"""See `QuantizeWeights`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Skip
from modelopt.core.errors import InputError, Refused
from modelopt.core.targets import TargetKind
from modelopt.graph import node_filters
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass, option
from modelopt.quant.numerics.blocks import BlockGrid
from modelopt.quant.weight_only import matmul_nbits, weight_writer
from modelopt.quant.weight_only.matmul_nbits import Group, MatrixUse
from modelopt.quant.weight_only.rounding import BlockRounding, round_weights

_BLOCKED_OPSET = 21  # DequantizeLinear with block_size, and the types int4 and uint4
_LOOKUP_OPSET = 11  # Reshape with a computed shape, Slice with negative axes
_COMMON_OPSET = 17
_BITS = (2, 4, 8)
_BLOCKS = (16, 32, 64, 128, 256)
_NO_GAIN = "its blocks would take no less than the float weight"
_INT8, _FLOAT32 = 4, 1  # accuracy levels of MatMulNBits


class WeightFormat(Enum):
    """How a model holds the weights.

    Attributes:
        AUTO: blocked for TensorRT, which has no operators of onnxruntime's; else matmulnbits.
        MATMULNBITS: onnxruntime's MatMulNBits, and GatherBlockQuantized for tables.
        BLOCKED: DequantizeLinear with a block size (opset 21) before a MatMul or behind a Gather.
    """

    AUTO = "auto"
    MATMULNBITS = "matmulnbits"
    BLOCKED = "blocked"


@dataclass(frozen=True, kw_only=True)
class QuantizeWeights(Pass):
    """Store weights of matrix products and tables in 2, 4 or 8 bits by blocks; activations stay in float.

    Each block has a scale. Tables are those whose rows Gather looks up. A weight that several nodes share is stored
    once, in the graph that held it, also where an output head shares the embedding. A weight that another node reads in
    float stays in float, for the file would hold both. The blocked form holds tables in 8 bits: Gather takes no fewer.
    Papers and algebra: `quant.numerics.hqq` and `quant.numerics.gptq`. Only the form matmulnbits, which is the default,
    needs onnxruntime. Products of few rows (decoding) become faster, those of many rows often do not.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    shrinks: ClassVar[bool] = True
    contrib: ClassVar[bool] = True

    bits: int = option(4, "2, 4 or 8")
    table_bits: int | None = option(
        None, "bits of tables that are looked up, with the products tied to them: 2, 4 or 8; default: as bits"
    )
    block_size: int | None = option(
        None, "weights that share a scale: a power of two from 16 to 256; default: 32, with 8 bits 128"
    )
    symmetric: bool | None = option(None, "no zero points; default: only with 8 bits")
    method: BlockRounding = option(  # noqa: RUF009 - it is dataclasses.field
        BlockRounding.RTN,
        "how to round: rtn (to nearest), hqq (outliers count less) or gptq (error feedback; needs data)",
    )
    form: WeightFormat = option(  # noqa: RUF009 - it is dataclasses.field
        WeightFormat.AUTO, "auto (by target), matmulnbits (onnxruntime only) or blocked (opset 21)"
    )
    clip: bool = option(default=True, text="search the range of each block for the least squared error")
    int8_compute: bool | None = option(
        None,
        "form matmulnbits: activations to 8 bits inside the product, much faster on CPUs; no: float32; default: yes",
    )
    min_elements: int = option(1024, "leave weights with fewer elements alone")
    include: tuple[str, ...] = option((), "only these nodes: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float: globs, re:EXPRESSION or op:TYPE")

    def __post_init__(self) -> None:
        """Refuse options that are impossible or contradict each other."""
        for bits in (self.bits, self.table_bits):
            if bits not in (None, *_BITS):
                raise InputError(f"{bits} bits are not possible", hint="2, 4 or 8")
        if self.block_size not in (None, *_BLOCKS):
            raise InputError(f"block size {self.block_size} is not possible", hint=f"one of {_BLOCKS}")
        if self.form is WeightFormat.BLOCKED and self.bits == 2:
            raise InputError("the blocked form holds 4 or 8 bits, not 2", hint="form matmulnbits holds 2 as well")
        if self.form is WeightFormat.BLOCKED and self.int8_compute is not None:
            raise InputError(
                "in the blocked form the runtime chooses how to compute",
                hint="leave out --weight-compute (in a recipe: int8-compute)",
            )

    def leaves_contrib(self) -> bool:
        """See `Pass.leaves_contrib`."""
        return self.form is not WeightFormat.BLOCKED

    def calibrates(self) -> bool:
        """Gptq weights the rounding errors by the activations of calibration data."""
        return self.method is BlockRounding.GPTQ

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node, or gptq has no data.
            Refused: onnxruntime does not compute with such blocks, or the model's opset is too old and cannot be
                converted.
        """
        node_filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        groups, skipped, forms = self._formats(model, ctx)
        if not groups:
            return Changes(skipped=tuple(skipped))
        grids = [self._grid(matmul_nbits.shape(group[0])[1], forms, is_table=_has_lookup(group)) for group in groups]
        written = [forms.of(group) for group in groups]
        multiplied = [any(not one.is_lookup for one in group) for group in groups]
        elements = [matmul_nbits.element(group[0]) for group in groups]
        kinds = zip(grids, elements, written, multiplied, strict=True)
        _check_kernels(
            {(grid, kind) for grid, kind, form, used in kinds if form is WeightFormat.MATMULNBITS and used}, ctx
        )
        tables = sum(map(_has_lookup, groups))
        before = sum(matmul_nbits.float_bytes(group[0]) for group in groups)
        integers = round_weights(model, groups, grids, ctx, method=self.method, clip=self.clip)
        writer = weight_writer.BlockWriter(model, accuracy_level=_FLOAT32 if self.int8_compute is False else _INT8)
        for group, quantized, form in zip(groups, integers, written, strict=True):
            write = writer.dequantized if form is WeightFormat.BLOCKED else writer.packed
            write(group, quantized)
        after = sum(
            matmul_nbits.stored_bytes(each.integers.shape, each.grid, kind)
            for each, kind in zip(integers, elements, strict=True)
        )
        nodes = sum(len(group) for group in groups)
        facts = {"nodes_quantized": nodes, "nodes_kept_float": len(skipped), "form": forms.products.value}
        facts |= {"tables_quantized": tables} if tables else {}
        return Changes(nodes, tuple(skipped), {**facts, "weights_before_bytes": before, "weights_after_bytes": after})

    def _formats(self, model: ir.Model, ctx: Context) -> tuple[list[Group], list[Skip], _WeightFormats]:
        """What to quantize and in which formats, after converting `model` to the opset that they need.

        The selection is repeated after the conversion, for the nodes are other objects then.
        """
        forms = _WeightFormats(self._form(ctx), self._form(ctx))
        groups, skipped = self._choose(model, forms)
        looked_up = [group[0] for group in groups if _has_lookup(group)]
        tables = {
            (self._grid(matmul_nbits.shape(one)[1], forms, is_table=True), matmul_nbits.element(one))
            for one in looked_up
        }
        if forms.tables is WeightFormat.MATMULNBITS and any(
            weight_writer.why_not_look_up(*each, ctx.runner) for each in tables
        ):
            forms = replace(forms, tables=WeightFormat.BLOCKED)
            groups, skipped = self._choose(model, forms)
        least = max((forms.least_opset(group) for group in groups), default=0)
        if graph.opset(model) >= least:
            return groups, skipped, forms
        try:
            graph.replace_contents(model, upgraded(model, max(least, _COMMON_OPSET), ctx.runner))
        except Refused as refusal:
            if forms.products is WeightFormat.BLOCKED:
                raise
            forms = replace(forms, against_tables=f"it needs opset {least}: {refusal.fact}")
        return *self._choose(model, forms), forms

    def _form(self, ctx: Context) -> WeightFormat:
        if self.form is not WeightFormat.AUTO:
            return self.form
        portable = ctx.target.kind is TargetKind.TENSORRT and self.bits != 2
        return WeightFormat.BLOCKED if portable and self.int8_compute is None else WeightFormat.MATMULNBITS

    def _grid(self, width: int, forms: _WeightFormats, *, is_table: bool) -> BlockGrid:
        """The blocks of a weight; they are not longer than a row, which would only add padding."""
        bits = (self.table_bits or self.bits) if is_table else self.bits
        if is_table and forms.tables is WeightFormat.BLOCKED:
            bits = 8
        wanted = self.block_size or (128 if bits == 8 else 32)
        block = next((size for size in _BLOCKS if size >= min(width, wanted)), wanted)
        return BlockGrid(bits, block, bits == 8 if self.symmetric is None else self.symmetric)

    def _choose(self, model: ir.Model, forms: _WeightFormats) -> tuple[list[Group], list[Skip]]:
        verdicts: dict[ir.Node, MatrixUse | str] = {}
        for scope, _, in_function in graph.scopes(model):
            for node in scope:
                if matmul_nbits.is_candidate(node):
                    verdicts[node] = matmul_nbits.IN_FUNCTION if in_function else self._verdict(node, forms)
        groups, skipped = matmul_nbits.grouped(verdicts)
        shapes = [(matmul_nbits.shape(group[0])[1], _has_lookup(group)) for group in groups]
        grids = [self._grid(width, forms, is_table=is_table) for width, is_table in shapes]
        too_large = matmul_nbits.takes_as_much(zip(groups, grids, strict=True))
        left_out = [one.node for group in groups for one in group if one.weight in too_large]
        skipped += [Skip(graph.label(node), _NO_GAIN) for node in left_out]
        return [group for group in groups if group[0].weight not in too_large], skipped

    def _verdict(self, node: ir.Node, forms: _WeightFormats) -> MatrixUse | str:
        reason = node_filters.why_left_out(node, self.include, self.exclude)
        found = matmul_nbits.product(node)
        if reason is not None or isinstance(found, str):
            return reason or found
        if found.is_lookup and forms.against_tables is not None:
            return forms.against_tables
        rows, width = matmul_nbits.shape(found)
        if rows * width < self.min_elements:
            return f"its weight has {rows * width} elements, fewer than min-elements"
        grid = self._grid(width, forms, is_table=found.is_lookup)
        if matmul_nbits.stored_bytes((rows, width), grid, matmul_nbits.element(found)) >= matmul_nbits.float_bytes(
            found
        ):
            return _NO_GAIN
        return found if np.isfinite(matmul_nbits.matrix(found)).all() else "its weight holds NaN or Inf"


@dataclass(frozen=True)
class _WeightFormats:
    """How a model holds its weights.

    Attributes:
        products: The format of weights that only products read.
        tables: The format of tables.
        against_tables: Why tables cannot be quantized; None where they can.
    """

    products: WeightFormat
    tables: WeightFormat
    against_tables: str | None = None

    def of(self, group: Group) -> WeightFormat:
        """The format of the weight of `group`."""
        return self.tables if _has_lookup(group) else self.products

    def least_opset(self, group: Group) -> int:
        """The opset that writing `group` needs; onnxruntime's own operators for products need none."""
        if self.of(group) is WeightFormat.BLOCKED:
            return _BLOCKED_OPSET
        return _LOOKUP_OPSET if _has_lookup(group) else 0


def _has_lookup(group: Group) -> bool:
    return any(one.is_lookup for one in group)


def _check_kernels(wanted: set[tuple[BlockGrid, ir.DataType]], ctx: Context) -> None:
    for grid, dtype in sorted(wanted, key=str):
        reason = weight_writer.why_not_multiply(grid, dtype, ctx.runner)
        if reason is not None:
            raise Refused(
                f"onnxruntime does not compute {dtype.name.lower()} with {grid.bits} bits in blocks of {grid.block}",
                note=reason,
                hint="other bits, or form blocked",
            )
