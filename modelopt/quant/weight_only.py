"""Matrix products whose weight is in few bits and whose activations stay in float: what can be, and the rewriting.

Two forms. ``MatMulNBits`` of onnxruntime's own domain reads the packed weight in its inner loop. The portable one is a
blocked DequantizeLinear (opset 21) before a MatMul, in the layout ``(K, N)`` that onnxruntime fuses to MatMulNBits;
with any other layout it would write out the whole float weight at every run, as 1.24 does where it first makes a Gemm
of a MatMul and an Add of two axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.errors import Refused
from modelopt.passes._rewrite import CONTRIB
from modelopt.passes.base import Runner, Skip
from modelopt.quant import blocks
from modelopt.quant.blocks import BlockGrid, BlockParams
from modelopt.quant.storage import STORED, is_stored

PRODUCTS = frozenset({"MatMul", "Gemm"})
IN_FUNCTION = "inside a function, which cannot hold an initializer"
_Tensor = ir.Tensor[np.ndarray]
_FIRST_IR_WITH_PLAIN_INITIALIZERS = 4
_FIRST_IR_WITH_INT4 = 10
_PROBE_ROWS = 16
_INT8_ERROR = 0.05  # int8 activations are off by less than 1 %; a kernel that misreads the weight, by more than 50 %


@dataclass(frozen=True)
class Product:
    """A MatMul or Gemm by a constant matrix.

    Attributes:
        node: The node.
        weight: Its second input.
        transposed: The weight is stored as ``(N, K)``, a row for each output; else as ``(K, N)``.
    """

    node: ir.Node
    weight: ir.Value
    transposed: bool


Group = list[Product]
"""Products of one weight in one layout; never empty."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight's integers: uint8 of shape ``(N, K)``, and how they are read."""

    integers: np.ndarray
    params: BlockParams
    grid: BlockGrid


def product(node: ir.Node) -> Product | str:
    """What `node` is when its weight can be stored in few bits, else why it cannot."""
    if node.op_type == "MatMulNBits":
        return STORED
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return "an input is missing"
    weight = node.inputs[1]
    tensor = graph.constant_tensor(weight)
    if tensor is None:
        return STORED if is_stored(weight) else "its second input is an activation, not a constant weight"
    if len(tensor.shape) != 2:
        return f"its weight has {len(tensor.shape)} axes, not 2"
    if tensor.dtype != ir.DataType.FLOAT:
        return f"its weight is {tensor.dtype.name.lower()}, not float32"
    if graph.constant_tensor(node.inputs[0]) is not None:
        return "its first input is a constant"
    if node.op_type == "Gemm":
        if graph.attribute_int(node, "transA", 0):
            return "its activation is transposed (transA)"
        if graph.attribute_float(node, "alpha", 1.0) != 1.0 or graph.attribute_float(node, "beta", 1.0) != 1.0:
            return "alpha or beta is not 1"
    return Product(node, weight, node.op_type == "Gemm" and bool(graph.attribute_int(node, "transB", 0)))


def is_candidate(node: ir.Node) -> bool:
    """Whether `node` is a matrix product, quantized already or not."""
    if node.domain in graph.STANDARD_DOMAINS:
        return node.op_type in PRODUCTS
    return node.domain == CONTRIB and node.op_type == "MatMulNBits"


def grouped(verdicts: Mapping[ir.Node, Product | str]) -> tuple[list[Group], list[Skip]]:
    """Products by weight and layout, and the refusals.

    A weight that somebody else reads in float stays float for all: the file would hold both.
    """
    groups: dict[tuple[ir.Value, bool], Group] = {}
    skipped: list[Skip] = []
    for node, verdict in verdicts.items():
        if isinstance(verdict, Product):
            reader = _float_reader(verdict.weight, verdicts)
            if reader is None:
                groups.setdefault((verdict.weight, verdict.transposed), []).append(verdict)
                continue
            verdict = f"{reader} reads its weight in float, and the file would hold both"
        skipped.append(Skip(graph.label(node), verdict))
    return list(groups.values()), skipped


def _float_reader(weight: ir.Value, verdicts: Mapping[ir.Node, Product | str]) -> str | None:
    if weight.is_graph_output():
        return "a graph output"
    for use in weight.uses():
        found = verdicts.get(use.node)
        if use.idx != 1 or not isinstance(found, Product):
            return graph.label(use.node)
    return None


def shape(found: Product) -> tuple[int, int]:
    """(N, K): how many outputs the weight has, and how many inputs each sums over."""
    tensor = graph.constant_tensor(found.weight)
    if tensor is None:
        raise ValueError("the weight is not constant")
    first, second = tensor.shape.numpy()
    return (first, second) if found.transposed else (second, first)


def matrix(found: Product) -> np.ndarray:
    """The weight as float32 of shape ``(N, K)``; a view where it is stored so."""
    array = graph.constant(found.weight)
    if array is None:
        raise ValueError("the weight is not constant")
    return array if found.transposed else array.T


def stored_bytes(of_shape: tuple[int, ...], grid: BlockGrid) -> int:
    """Bytes of a quantized weight of shape ``(N, K)``: integers, float32 scales, and zero points if there are any."""
    rows, width = of_shape
    count = rows * grid.blocks(width)
    zero_points = 0 if grid.symmetric else rows * -(-grid.blocks(width) * grid.bits // 8)
    return count * grid.block * grid.bits // 8 + 4 * count + zero_points


class Writer:
    """Rewrites products of one model.

    Args:
        model: The model, changed in place.
        accuracy_level: Of MatMulNBits: 4 computes in int8, 1 in float32.
    """

    def __init__(self, model: ir.Model, *, accuracy_level: int = 4) -> None:
        self._model = model
        self._names = graph.NameSource(model)
        self._accuracy_level = accuracy_level
        model.ir_version = max(model.ir_version, _FIRST_IR_WITH_PLAIN_INITIALIZERS)

    def packed(self, products: Group, quantized: Quantized) -> None:
        """Make products of one weight MatMulNBits."""
        grid, (rows, width) = quantized.grid, quantized.integers.shape
        arrays = [blocks.pack_blocks(quantized.integers, grid), quantized.params.scale]
        if not grid.symmetric:
            arrays.append(blocks.pack(quantized.params.zero_point, grid.bits))
        inputs = self._store(products[0], [ir.Tensor(array) for array in arrays])
        attributes = [
            ir.AttrInt64("K", width),
            ir.AttrInt64("N", rows),
            ir.AttrInt64("accuracy_level", self._accuracy_level),
            ir.AttrInt64("bits", grid.bits),
            ir.AttrInt64("block_size", grid.block),
        ]
        for one in products:
            self._replace(one, "MatMulNBits", [one.node.inputs[0], *inputs], attributes, CONTRIB)
        graph.import_domain(self._model, CONTRIB, 1)

    def dequantized(self, products: Group, quantized: Quantized) -> None:
        """Let products of one weight read it through a blocked DequantizeLinear.

        Where weight and product are in one graph each product gets its own, which onnxruntime fuses with it. Those in
        bodies share one beside the weight: fusing it with a weight of an outer graph, onnxruntime 1.32 does not load.
        """
        self._model.ir_version = max(self._model.ir_version, _FIRST_IR_WITH_INT4)
        grid, params = quantized.grid, quantized.params
        if grid.symmetric:
            dtype = ir.DataType.INT4 if grid.bits == 4 else ir.DataType.INT8
            tensors = [_tensor((quantized.integers - np.uint8(grid.middle)).view(np.int8).T, dtype)]
        else:
            dtype = ir.DataType.UINT4 if grid.bits == 4 else ir.DataType.UINT8
            tensors = [_tensor(quantized.integers.T, dtype)]
        tensors.append(_tensor(params.scale.T, ir.DataType.FLOAT))
        if not grid.symmetric:
            tensors.append(_tensor(params.zero_point.T, dtype))
        inputs = self._store(products[0], tensors)
        holder = _holder(products[0])
        shared: ir.Value | None = None
        for one in products:
            if one.node.graph is holder:
                floats = self._dequantize(one, inputs, grid, one.node)
            else:
                shared = floats = shared or self._dequantize(one, inputs, grid, holder[0])
            self._replace(one, "MatMul", [one.node.inputs[0], floats], [], "")

    def _dequantize(self, found: Product, inputs: list[ir.Value], grid: BlockGrid, before: ir.Node) -> ir.Value:
        floats = self._value(f"{found.weight.name}_dequantized")
        attributes = [ir.AttrInt64("axis", 0), ir.AttrInt64("block_size", grid.block)]
        node = ir.Node("", "DequantizeLinear", inputs, attributes, outputs=[floats], name=floats.name)
        _scope(before).insert_before(before, [node])
        return floats

    def _replace(
        self, found: Product, op_type: str, inputs: list[ir.Value | None], attributes: list[ir.Attr], domain: str
    ) -> None:
        node, weight = found.node, found.weight
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        if bias is None:
            graph.become(node, op_type, inputs, attributes, domain=domain)
        else:
            out = self._value(f"{node.outputs[0].name}_product")
            made = ir.Node(domain, op_type, inputs, attributes, outputs=[out], name=out.name)
            _scope(node).insert_before(node, [made])
            graph.become(node, "Add", [out, bias])
        graph.drop_if_unused(weight)

    def _store(self, first: Product, tensors: list[_Tensor]) -> list[ir.Value]:
        """Initializers in the scope that held the float weight, so that all who saw it see them."""
        holder = _holder(first)
        values = []
        for held, part in zip(tensors, ("quantized", "scale", "zero_point"), strict=False):
            name = self._names(f"{first.weight.name}_{part}")
            held.name = name
            value = ir.Value(name=name, shape=ir.Shape(held.shape), type=ir.TensorType(held.dtype), const_value=held)
            holder.register_initializer(value)
            values.append(value)
        return values

    def _value(self, stem: str) -> ir.Value:
        return ir.Value(name=self._names(stem), type=ir.TensorType(ir.DataType.FLOAT))


def why_not_run(grid: BlockGrid, runner: Runner) -> str | None:
    """Why the installed onnxruntime does not compute MatMulNBits with such blocks, else None; it is asked to."""
    integers = np.random.default_rng(0).integers(0, grid.high + 1, (_PROBE_ROWS, grid.block)).astype(np.uint8)
    params = BlockParams(np.ones((_PROBE_ROWS, 1), np.float32), np.full((_PROBE_ROWS, 1), grid.middle, np.uint8))
    x = ir.Value(name="x", shape=ir.Shape((1, grid.block)), type=ir.TensorType(ir.DataType.FLOAT))
    weight = blocks.dequantize(integers, params, grid)
    held = ir.Value(name="w", const_value=ir.tensor(weight, name="w"))
    node = ir.node("Gemm", [x, held], {"transB": 1})
    y = node.outputs[0]
    y.name, y.shape, y.type = "y", ir.Shape((1, _PROBE_ROWS)), ir.TensorType(ir.DataType.FLOAT)
    scope = ir.Graph([x], [y], nodes=[node], initializers=[held], opset_imports={"": 17}, name="probe")
    model = ir.Model(scope, ir_version=8)
    Writer(model).packed([Product(node, held, transposed=True)], Quantized(integers, params, grid))
    feed = np.linspace(-1, 1, grid.block, dtype=np.float32)[None]
    try:
        ((found,),) = runner.run(model, [{"x": feed}])
    except Refused as refusal:
        return refusal.note or refusal.fact
    expected = feed @ weight.T
    off = float(np.abs(found - expected).max() / np.abs(expected).max())
    return None if off < _INT8_ERROR else f"its answer is {100 * off:.0f} % off"


def _tensor(array: np.ndarray, dtype: ir.DataType) -> _Tensor:
    return ir.Tensor(np.array(array, order="C").astype(dtype.numpy()), dtype=dtype)


def _holder(found: Product) -> ir.Graph:
    producer = found.weight.producer()
    holder = found.weight.graph if producer is None else producer.graph
    if not isinstance(holder, ir.Graph):
        raise ValueError("the weight belongs to no graph")
    return holder


def _scope(node: ir.Node) -> ir.Graph | ir.Function:
    if node.graph is None:
        raise ValueError("the node belongs to no graph")
    return node.graph
