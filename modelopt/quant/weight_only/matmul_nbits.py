"""Which matrix products and look-ups can have their constant in few bits, with activations in float.

A table whose rows are looked up and a weight stored as ``(N, K)`` are the same matrix, with the same blocks along a
row. So a model whose output head shares the embedding keeps one table. The head may read it through a Transpose, by
transB, or as a transposed copy of the same numbers. `weight_only.weight_writer` writes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Skip
from modelopt.graph.types import FLOAT16_FLOAT32
from modelopt.quant.numerics.blocks import BlockGrid, BlockParams
from modelopt.quant.weight_only.storage import STORED, is_stored

PRODUCTS = frozenset({"MatMul", "Gemm"})
IN_FUNCTION = "inside a function, which cannot hold an initializer"
_IN_FEW_BITS = frozenset({"MatMulNBits", "GatherBlockQuantized"})


@dataclass(frozen=True)
class MatrixUse:
    """A MatMul or Gemm by a constant matrix, or a Gather of rows of one.

    Attributes:
        weight: The constant that it reads, directly or through a Transpose.
        transposed: The weight is stored as ``(N, K)``, a row for each output, or for each index that may be looked up;
            else as ``(K, N)``.
    """

    node: ir.Node
    weight: ir.Value
    transposed: bool

    @property
    def is_lookup(self) -> bool:
        """Whether it is a Gather."""
        return self.node.op_type == "Gather"

    @property
    def index(self) -> int:
        """Which input of the node is the matrix."""
        return 0 if self.is_lookup else 1


Group = list[MatrixUse]
"""Products and look-ups of one weight in one layout; never empty."""


@dataclass(frozen=True, eq=False)
class Quantized:
    """A weight's integers, uint8 of shape ``(N, K)``, with their parameters."""

    integers: np.ndarray
    params: BlockParams
    grid: BlockGrid


def product(node: ir.Node) -> MatrixUse | str:
    """`node` with its constant, or why that cannot be stored in few bits."""
    if node.op_type in _IN_FEW_BITS:
        return STORED
    if node.op_type == "Gather":
        return _lookup(node)
    if len(node.inputs) < 2 or node.inputs[0] is None or node.inputs[1] is None:
        return "an input is missing"
    through = _behind_transpose(node.inputs[1])
    weight = node.inputs[1] if through is None else through
    tensor = graph.constant_tensor(weight)
    if tensor is None:
        return STORED if is_stored(weight) else "its second input is an activation, not a constant weight"
    if len(tensor.shape) != 2:
        return f"its weight has {len(tensor.shape)} axes, not 2"
    if tensor.dtype not in FLOAT16_FLOAT32:
        return f"its weight is {tensor.dtype.name.lower()}, not float32 or float16"
    if graph.constant_tensor(node.inputs[0]) is not None:
        return "its first input is a constant"
    if node.op_type == "Gemm":
        if graph.attribute_int(node, "transA", 0):
            return "its activation is transposed (transA)"
        if graph.attribute_float(node, "alpha", 1.0) != 1.0 or graph.attribute_float(node, "beta", 1.0) != 1.0:
            return "alpha or beta is not 1"
    by_columns = node.op_type == "Gemm" and bool(graph.attribute_int(node, "transB", 0))
    return MatrixUse(node, weight, by_columns is (through is None))


def _lookup(node: ir.Node) -> MatrixUse | str:
    table = node.inputs[0]
    tensor = graph.constant_tensor(table)
    if table is None or tensor is None or len(node.inputs) < 2 or node.inputs[1] is None:
        return "an input is missing"
    if len(tensor.shape) != 2:
        return f"its table has {len(tensor.shape)} axes, not 2"
    if graph.attribute_int(node, "axis", 0) % 2:
        return "it looks up columns of its table, not rows"
    return MatrixUse(node, table, transposed=True)


def _behind_transpose(value: ir.Value) -> ir.Value | None:
    """The constant matrix whose Transpose is `value`."""
    producer = value.producer()
    source = None if producer is None or not graph.is_standard(producer, "Transpose") else producer.inputs[0]
    tensor = graph.constant_tensor(source)
    if producer is None or tensor is None or len(tensor.shape) != 2:
        return None
    return source if graph.attribute_ints(producer, "perm") in {None, (1, 0)} else None


def is_candidate(node: ir.Node) -> bool:
    """Whether `node` is a matrix product or a look-up in a table of floats; also one that is quantized already."""
    if node.domain == graph.CONTRIB_DOMAIN:
        return node.op_type in _IN_FEW_BITS
    if graph.is_standard(node, "Gather"):
        table = graph.constant_tensor(node.inputs[0])
        return table is not None and table.dtype in FLOAT16_FLOAT32 and len(table.shape) > 1
    return node.domain in graph.STANDARD_DOMAINS and node.op_type in PRODUCTS


def grouped(verdicts: Mapping[ir.Node, MatrixUse | str]) -> tuple[list[Group], list[Skip]]:
    """Products and look-ups by weight and layout, and the refusals.

    A weight that another node reads in float stays in float: the file would hold both. A product by a transposed copy
    of a table counts as one by the table.
    """
    verdicts = _tied(verdicts)
    groups: dict[tuple[ir.Value, bool], Group] = {}
    skipped: list[Skip] = []
    for node, verdict in verdicts.items():
        if isinstance(verdict, MatrixUse):
            reader = _float_reader(verdict.weight, verdicts)
            if reader is None:
                groups.setdefault((verdict.weight, verdict.transposed), []).append(verdict)
                continue
            verdict = f"{reader} reads its weight in float, and the file would hold both"
        skipped.append(Skip(graph.label(node), verdict))
    return list(groups.values()), skipped


def _float_reader(weight: ir.Value, verdicts: Mapping[ir.Node, MatrixUse | str]) -> str | None:
    if weight.is_graph_output():
        return "a graph output"
    for use in weight.uses():
        read = use.node.outputs[0] if graph.is_standard(use.node, "Transpose") else None
        if read is not None and read.is_graph_output():
            return "a graph output"
        for reader, index in [(use.node, use.idx)] if read is None else read.uses():
            found = verdicts.get(reader)
            if not isinstance(found, MatrixUse) or index != found.index:
                return graph.label(reader)
    return None


def _tied(verdicts: Mapping[ir.Node, MatrixUse | str]) -> dict[ir.Node, MatrixUse | str]:
    """The verdicts, with products by transposed copies of tables as products by the tables."""
    found = [verdict for verdict in verdicts.values() if isinstance(verdict, MatrixUse)]
    tables = list(dict.fromkeys(one.weight for one in found if one.is_lookup))
    copies: dict[ir.Value, ir.Value] = {}
    for weight in dict.fromkeys(one.weight for one in found if not one.transposed and one.weight not in tables):
        table = next((table for table in tables if _is_transposed_copy(weight, table)), None)
        if table is not None and _float_reader(weight, verdicts) is None and _float_reader(table, verdicts) is None:
            copies[weight] = table
    return {
        node: replace(verdict, weight=copies[verdict.weight], transposed=not verdict.transposed)
        if isinstance(verdict, MatrixUse) and verdict.weight in copies
        else verdict
        for node, verdict in verdicts.items()
    }


def _is_transposed_copy(weight: ir.Value, table: ir.Value) -> bool:
    copy, original = graph.constant_tensor(weight), graph.constant_tensor(table)
    if copy is None or original is None or graph.holder_of(weight) is not graph.holder_of(table):
        return False
    if copy.dtype != original.dtype or copy.shape.numpy() != original.shape.numpy()[::-1]:
        return False
    return np.array_equal(copy.numpy(), original.numpy().T)


def shape(found: MatrixUse) -> tuple[int, int]:
    """(N, K): how many outputs the weight has, and how many inputs each sums over."""
    first, second = _tensor(found).shape.numpy()
    return (first, second) if found.transposed else (second, first)


def matrix(found: MatrixUse) -> np.ndarray:
    """The weight as float32 of shape ``(N, K)``; a view where it is stored so."""
    array = _tensor(found).numpy()
    return np.asarray(array if found.transposed else array.T, np.float32)


def element(found: MatrixUse) -> ir.DataType:
    """The type of the weight, which the activation has too."""
    return _tensor(found).dtype


def _tensor(found: MatrixUse) -> ir.TensorProtocol:
    tensor = graph.constant_tensor(found.weight)
    if tensor is None:
        raise ValueError("the weight is not constant")
    return tensor


def float_bytes(found: MatrixUse) -> int:
    """Bytes of the weight as it is."""
    rows, width = shape(found)
    return int(element(found).itemsize) * rows * width


def stored_bytes(of_shape: tuple[int, ...], grid: BlockGrid, dtype: ir.DataType) -> int:
    """Bytes of a quantized weight of shape ``(N, K)``: integers, scales, and zero points if there are any."""
    rows, width = of_shape
    count = rows * grid.blocks(width)
    zero_points = 0 if grid.symmetric else rows * -(-grid.blocks(width) * grid.bits // 8)
    return count * grid.block * grid.bits // 8 + int(dtype.itemsize) * count + zero_points


def takes_as_much(groups: Iterable[tuple[Group, BlockGrid]]) -> set[ir.Value]:
    """The weights that would take no fewer bytes than in float, with all the layouts in which they are read."""
    found: dict[ir.Value, int] = {}
    floats: dict[ir.Value, int] = {}
    for group, grid in groups:
        weight = group[0].weight
        found[weight] = found.get(weight, 0) + stored_bytes(shape(group[0]), grid, element(group[0]))
        floats[weight] = float_bytes(group[0])
    return {weight for weight, stored in found.items() if stored >= floats[weight]}
