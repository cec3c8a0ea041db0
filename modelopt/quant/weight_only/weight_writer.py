"""Writes matrix products and look-ups with constants in few bits, and tests whether onnxruntime computes them.

There are two forms. onnxruntime's own operators read the packed integers: ``MatMulNBits`` in its inner loop, and
``GatherBlockQuantized`` only the rows that are looked up. The portable form is a blocked DequantizeLinear (opset 21).
Before a MatMul it has the layout ``(K, N)``, which onnxruntime fuses to MatMulNBits. With any other layout onnxruntime
would compute the whole float weight at every run; 1.24 does so where it first fuses a MatMul and an Add to a Gemm.
Behind a Gather it reads the rows found and their scales.

    y = Gather(table, i)   becomes   y = GatherBlockQuantized(integers, i, scale, zero_point)
                           or        y = DequantizeLinear(Gather(integers, i), Gather(scale, i), Gather(zero_point, i))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.errors import Refused
from modelopt.core.runner import Runner
from modelopt.quant.numerics import blocks
from modelopt.quant.numerics.blocks import BlockGrid, BlockParams
from modelopt.quant.weight_only import matmul_nbits
from modelopt.quant.weight_only.matmul_nbits import Group, MatrixUse, Quantized, element

_Tensor = ir.Tensor[np.ndarray]
_FIRST_IR_WITH_INT4 = 10
_PROBE_ROWS = 16
_INT8_ERROR = 0.05  # int8 activations are off by less than 1 %; a kernel that misreads the weight, by more than 50 %


class BlockWriter:
    """Rewrites products of one model.

    Args:
        model: The model, changed in place.
        accuracy_level: Of MatMulNBits: 4 computes in int8, 1 in float32.
    """

    def __init__(self, model: ir.Model, *, accuracy_level: int = 4) -> None:
        self._model = model
        self._names = graph.NameSource(model)
        self._accuracy_level = accuracy_level
        graph.allow_plain_initializers(model)

    def packed(self, group: Group, quantized: Quantized) -> None:
        """Make the products by one weight MatMulNBits, and the look-ups in it GatherBlockQuantized.

        Both read the same bytes. Where there are both, the look-ups read them through a Reshape to a matrix, which
        onnxruntime computes when it loads the model.
        """
        grid, (rows, width) = quantized.grid, quantized.integers.shape
        products = [one for one in group if not one.is_lookup]
        integers = quantized.integers
        arrays = [blocks.pack_blocks(integers, grid) if products else blocks.pack(integers, grid.bits)]
        row_bytes = arrays[0][0].size
        arrays.append(quantized.params.scale.astype(element(group[0]).numpy()))
        if not grid.symmetric:
            arrays.append(blocks.pack(quantized.params.zero_point, grid.bits))
        stored, *others = self._store(group[0], [ir.Tensor(array) for array in arrays])
        attributes = [
            ir.AttrInt64("K", width),
            ir.AttrInt64("N", rows),
            ir.AttrInt64("accuracy_level", self._accuracy_level),
            ir.AttrInt64("bits", grid.bits),
            ir.AttrInt64("block_size", grid.block),
        ]
        for one in products:
            self._replace(one, "MatMulNBits", [one.node.inputs[0], stored, *others], attributes, graph.CONTRIB_DOMAIN)
        if len(products) < len(group):
            table = stored
            if products:
                home = graph.holder_of(stored)
                as_rows = np.array([rows, row_bytes], np.int64)
                shape = graph.add_initializer(home, self._names(f"{stored.name}_shape"), as_rows)
                table = self._insert("Reshape", [stored, shape], [], home[0], f"{stored.name}_rows", stored.dtype)
            for one in group:
                if one.is_lookup:
                    self._look_up(one, [table, one.node.inputs[1], *others], grid, row_bytes * 8 // grid.bits - width)
        graph.import_domain(self._model, graph.CONTRIB_DOMAIN, 1)

    def _look_up(self, found: MatrixUse, inputs: list[ir.Value | None], grid: BlockGrid, padding: int) -> None:
        """Let a Gather look up packed rows; padding at the end of a row is removed."""
        node, weight = found.node, found.weight
        attributes = [
            ir.AttrInt64("bits", grid.bits),
            ir.AttrInt64("block_size", grid.block),
            ir.AttrInt64("gather_axis", 0),
            ir.AttrInt64("quantize_axis", 1),
        ]
        if not padding:
            graph.become(node, "GatherBlockQuantized", inputs, attributes, domain=graph.CONTRIB_DOMAIN)
        else:
            name = f"{node.outputs[0].name}_padded"
            rows = self._insert(
                "GatherBlockQuantized", inputs, attributes, node, name, element(found), domain=graph.CONTRIB_DOMAIN
            )
            ends = [
                self._constant(f"{name}_{part}", at) for part, at in (("start", 0), ("end", -padding), ("axis", -1))
            ]
            graph.become(node, "Slice", [rows, *ends])
        graph.drop_unused_constants([weight])

    def dequantized(self, group: Group, quantized: Quantized) -> None:
        """Let products by one weight, and look-ups in it, read it through a blocked DequantizeLinear.

        A product in the graph of the weight gets a DequantizeLinear of its own, which onnxruntime fuses with it.
        Products in control-flow bodies share one beside the weight: onnxruntime 1.32 does not load a model where it
        fuses one with a weight of an outer graph. Where there are look-ups, rows of 8 bits are stored, which Gather
        can read. Products then read them through a Transpose of the integers, which onnxruntime computes when it loads
        the model.
        """
        self._model.ir_version = max(self._model.ir_version, _FIRST_IR_WITH_INT4)
        by_rows = any(one.is_lookup for one in group)
        inputs = self._store(group[0], _unpacked(quantized, element(group[0]), by_rows=by_rows))
        home, grid = graph.holder_of(inputs[0]), quantized.grid
        by_columns: list[ir.Value] = [] if by_rows else inputs
        shared: ir.Value | None = None
        for one in group:
            if one.is_lookup:
                self._look_up_dequantized(one, inputs, grid)
                continue
            by_columns = by_columns or [self._transposed(value, home) for value in inputs]
            if one.node.graph is home:
                floats = self._dequantize(one, by_columns, grid, one.node)
            else:
                first = home[0] if not by_rows else _after(by_columns)
                shared = floats = shared or self._dequantize(one, by_columns, grid, first)
            self._replace(one, "MatMul", [one.node.inputs[0], floats], [], "")

    def _look_up_dequantized(self, found: MatrixUse, stored: list[ir.Value], grid: BlockGrid) -> None:
        """Dequantize the rows that a Gather finds; as a matrix where the index may be a scalar: blocks need 2 axes."""
        node, indices = found.node, found.node.inputs[1]
        name, width = node.outputs[0].name, matmul_nbits.shape(found)[1]
        flat = not graph.rank(indices)
        parts = zip(stored, ("quantized", "scale", "zero_point"), strict=False)
        if flat:
            all_of_them = self._constant(f"{name}_flat", -1)
            kind = None if indices is None else indices.dtype
            indices = self._insert("Reshape", [indices, all_of_them], [], node, f"{name}_indices", kind)
        rows = [self._insert("Gather", [part, indices], [], node, f"{name}_{kind}", part.dtype) for part, kind in parts]
        attributes = [ir.AttrInt64("axis", -1), ir.AttrInt64("block_size", grid.block)]
        if flat:
            floats = self._insert("DequantizeLinear", rows, attributes, node, f"{name}_rows", element(found))
            shape = self._insert("Shape", [node.inputs[1]], [], node, f"{name}_leading", ir.DataType.INT64)
            ends = [shape, self._constant(f"{name}_width", width)]
            whole = self._insert("Concat", ends, [ir.AttrInt64("axis", 0)], node, f"{name}_shape", ir.DataType.INT64)
            graph.become(node, "Reshape", [floats, whole])
        else:
            graph.become(node, "DequantizeLinear", rows, attributes)
        graph.drop_unused_constants([found.weight])

    def _constant(self, prefix: str, number: int) -> ir.Value:
        return graph.add_initializer(self._model.graph, self._names(prefix), np.array([number], np.int64))

    def _transposed(self, stored: ir.Value, home: ir.Graph) -> ir.Value:
        return self._insert("Transpose", [stored], [], home[0], f"{stored.name}_transposed", stored.dtype)

    def _dequantize(self, found: MatrixUse, inputs: list[ir.Value], grid: BlockGrid, before: ir.Node) -> ir.Value:
        attributes = [ir.AttrInt64("axis", 0), ir.AttrInt64("block_size", grid.block)]
        name = f"{found.weight.name}_dequantized"
        return self._insert("DequantizeLinear", inputs, attributes, before, name, element(found))

    def _insert(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: list[ir.Attr],
        before: ir.Node,
        prefix: str,
        dtype: ir.DataType | None,
        domain: str = "",
    ) -> ir.Value:
        """The output of a new node before another one."""
        out = ir.Value(name=self._names(prefix), type=None if dtype is None else ir.TensorType(dtype))
        node = ir.Node(domain, op_type, inputs, attributes, outputs=[out], name=out.name)
        graph.scope_of(before).insert_before(before, [node])
        return out

    def _replace(
        self, found: MatrixUse, op_type: str, inputs: list[ir.Value | None], attributes: list[ir.Attr], domain: str
    ) -> None:
        node = found.node
        bias = graph.input_at(node, 2) if node.op_type == "Gemm" else None
        read = node.inputs[found.index]
        if bias is None:
            graph.become(node, op_type, inputs, attributes, domain=domain)
        else:
            name = f"{node.outputs[0].name}_product"
            out = self._insert(op_type, inputs, attributes, node, name, element(found), domain=domain)
            graph.become(node, "Add", [out, bias])
        transpose = None if read is None else read.producer()
        if transpose is not None and transpose.op_type == "Transpose":
            graph.remove_with_constants(transpose)
        graph.drop_unused_constants([read, found.weight])

    def _store(self, first: MatrixUse, tensors: list[_Tensor]) -> list[ir.Value]:
        """Initializers in the graph that held the float weight, where all its readers can read them."""
        home = graph.holder_of(first.weight)
        values = []
        for held, part in zip(tensors, ("quantized", "scale", "zero_point"), strict=False):
            held.name = self._names(f"{first.weight.name}_{part}")
            value = graph.stored_value(held)
            home.register_initializer(value)
            values.append(value)
        return values


def why_not_multiply(grid: BlockGrid, dtype: ir.DataType, runner: Runner) -> str | None:
    """Why the installed onnxruntime does not compute MatMulNBits with such blocks, else None; found by a run."""
    integers, params = _probe(grid)
    x = ir.Value(name="x", shape=ir.Shape((1, grid.block)), type=ir.TensorType(dtype))
    weight = blocks.dequantize(integers, params, grid)
    held = ir.Value(name="w", const_value=ir.tensor(weight.astype(dtype.numpy()), name="w"))
    node = ir.node("Gemm", [x, held], {"transB": 1})
    feed = np.linspace(-1, 1, grid.block, dtype=np.float32)[None]
    group = [MatrixUse(node, held, transposed=True)]
    feeds = {"x": feed.astype(dtype.numpy())}
    return _why_not(group, Quantized(integers, params, grid), feeds, feed @ weight.T, runner)


def why_not_look_up(grid: BlockGrid, dtype: ir.DataType, runner: Runner) -> str | None:
    """Why the installed onnxruntime does not compute GatherBlockQuantized with such blocks, else None."""
    integers, params = _probe(grid)
    i = ir.Value(name="i", shape=ir.Shape((2,)), type=ir.TensorType(ir.DataType.INT64))
    table = blocks.dequantize(integers, params, grid)
    held = ir.Value(name="w", const_value=ir.tensor(table.astype(dtype.numpy()), name="w"))
    node = ir.node("Gather", [held, i], {"axis": 0})
    feed = np.array([_PROBE_ROWS - 1, 0])
    group = [MatrixUse(node, held, transposed=True)]
    return _why_not(group, Quantized(integers, params, grid), {"i": feed}, table[feed], runner)


def _probe(grid: BlockGrid) -> tuple[np.ndarray, BlockParams]:
    integers = np.random.default_rng(0).integers(0, grid.high + 1, (_PROBE_ROWS, grid.block)).astype(np.uint8)
    return integers, BlockParams(
        np.ones((_PROBE_ROWS, 1), np.float32), np.full((_PROBE_ROWS, 1), grid.middle, np.uint8)
    )


def _why_not(
    group: Group, quantized: Quantized, feeds: dict[str, np.ndarray], expected: np.ndarray, runner: Runner
) -> str | None:
    """Why onnxruntime does not compute the expected result of one node written with its own operators, else None."""
    node, held = group[0].node, group[0].weight
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape(expected.shape), ir.TensorType(element(group[0]))
    given = [value for value in node.inputs if value is not None and value is not held]
    scope = ir.Graph(given, [y], nodes=[node], initializers=[held], opset_imports={"": 17}, name="probe")
    model = ir.Model(scope, ir_version=8)
    BlockWriter(model).packed(group, quantized)
    try:
        ((found,),) = runner.run(model, [feeds])
    except Refused as refusal:
        return refusal.note or refusal.fact
    off = float(np.abs(found.astype(np.float32) - expected).max() / np.abs(expected).max())
    return None if off < _INT8_ERROR else f"its answer is {100 * off:.0f} % off"


def _unpacked(quantized: Quantized, scales: ir.DataType, *, by_rows: bool) -> list[_Tensor]:
    """Integers, scales, and zero points if there are any, as DequantizeLinear reads them: ``(K, N)``, or ``(N, K)``."""
    grid, params = quantized.grid, quantized.params
    signed = grid.symmetric
    if grid.bits == 4:
        dtype = ir.DataType.INT4 if signed else ir.DataType.UINT4
    else:
        dtype = ir.DataType.INT8 if signed else ir.DataType.UINT8
    integers = (quantized.integers - np.uint8(grid.middle)).view(np.int8) if signed else quantized.integers
    arrays = [(integers, dtype), (params.scale, scales)]
    if not signed:
        arrays.append((params.zero_point, dtype))
    return [_tensor(array if by_rows else array.T, kind) for array, kind in arrays]


def _tensor(array: np.ndarray, dtype: ir.DataType) -> _Tensor:
    return ir.Tensor(np.array(array, order="C").astype(dtype.numpy()), dtype=dtype)


def _after(values: Sequence[ir.Value]) -> ir.Node:
    """The first node behind those that make `values`, which are at the beginning of their graph."""
    makers = {value.producer() for value in values}
    scope = graph.holder_of(values[0])
    return next(node for node in scope if node not in makers)
