"""Reading Gemm and MatMul by a constant matrix, for the passes that compute with their weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import IEEE_FLOATS
from modelopt.patterns.convolution import MAX_COPY_BYTES, is_huge


@dataclass(frozen=True)
class Product:
    """``x · weight + bias``.

    Attributes:
        node: Gemm or MatMul.
        weight: float64, shape (K, N), scaled by alpha and transposed as `node` says.
        bias: float64, shape (N,), scaled by beta; None where there is none.
        dtype: The type of the stored weight.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray | None
    dtype: np.dtype


def is_product(node: ir.Node | None) -> bool:
    """Whether `node` is Gemm or MatMul."""
    return node is not None and (graph.is_standard(node, "Gemm") or graph.is_standard(node, "MatMul"))


def as_product(node: ir.Node, opset: int) -> Product | Mismatch:
    """`node` as a product by a constant matrix."""
    weight = graph.constant_tensor(node.inputs[1])
    if weight is None or graph.constant_tensor(node.inputs[0]) is not None:
        return Mismatch("it does not multiply by a constant matrix from the right")
    if weight.dtype not in IEEE_FLOATS or len(weight.shape) != 2:
        return Mismatch(f"its weight is {weight.dtype.name.lower()} of rank {len(weight.shape)}")
    dtype = weight.dtype.numpy()
    if node.op_type == "MatMul":
        return Product(node, weight.numpy().astype(np.float64), None, dtype)
    if opset < 7:
        return Mismatch(f"Gemm of opset {opset} broadcasts by an attribute")
    if graph.attribute_int(node, "transA", 0):
        return Mismatch("it transposes its input")
    wide = weight.numpy().astype(np.float64) * graph.attribute_float(node, "alpha", 1.0)
    wide = wide.T if graph.attribute_int(node, "transB", 0) else wide
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return Product(node, wide, None, dtype)
    bias = graph.constant(node.inputs[2])
    if bias is None or bias.size not in {1, wide.shape[1]} or any(dim != 1 for dim in bias.shape[:-1]):
        return Mismatch("its bias is not one constant number per column")
    row = np.broadcast_to(bias.reshape(-1), wide.shape[1]).astype(np.float64)
    return Product(node, wide, row * graph.attribute_float(node, "beta", 1.0), dtype)


def rounded(wide: np.ndarray, dtype: np.dtype) -> np.ndarray | Mismatch:
    """`wide` rounded to `dtype`, unless it overflows there, or sums of it may in one order and not in another."""
    with np.errstate(over="ignore", under="ignore"):
        narrow = wide.astype(dtype)
    return (
        narrow
        if np.isfinite(narrow).all() and not is_huge(wide, dtype)
        else Mismatch(f"{dtype} does not hold the new weights")
    )


def why_not_store(product: Product) -> str | None:
    """Why new weights for `product` would make the file grow."""
    value = product.node.inputs[1]
    size = product.weight.size * product.dtype.itemsize
    if value is not None and len(value.uses()) > 1 and size > MAX_COPY_BYTES:
        return f"other nodes use its weight too, and a copy would add {size} bytes"
    return None


def store(
    names: graph.NameSource,
    node: ir.Node,
    head: ir.Node,
    like: Product,
    weight: np.ndarray | None,
    bias: np.ndarray | None,
) -> None:
    """Turn `node`, which uses the product `head`, into the product of the input of `head` by `weight`, (K, N).

    The new constants are stored the way those of `like` are, transposed where they are; without a weight those of
    `like` stay.
    """
    x, old = head.inputs[0], like.node.inputs[1]
    if old is None:
        raise ValueError(f"{graph.label(like.node)} has no weight")
    transposed = graph.attribute_int(like.node, "transB", 0)
    inputs = [x, old]
    if weight is not None:
        stored = np.array(weight.T if transposed else weight, order="C")
        inputs[1] = graph.constant_beside(old, node, names(f"{old.name}_fused"), stored)
    if bias is not None:
        inputs.append(graph.constant_beside(old, node, names(f"{old.name}_bias"), bias))
    op_type = "Gemm" if bias is not None or transposed else "MatMul"
    graph.become(node, op_type, inputs, [ir.AttrInt64("transB", 1)] if transposed else [])


def product_before(value: ir.Value | None) -> ir.Node | None:
    """The Gemm or MatMul that makes `value`."""
    return match.producer(value, "Gemm") or match.producer(value, "MatMul")
