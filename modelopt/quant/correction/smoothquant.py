"""SmoothQuant (Xiao et al. 2022, arXiv:2211.10438): the scale of outlier channels moves from activations to weights.

A product stays the same if column j of its input is divided by s_j and row j of its weight is multiplied by s_j:

    X · W = (X · S⁻¹) · (S · W),    s_j = max|X_j| ** alpha / max|W_j| ** (1 - alpha)

S⁻¹ is put into the node that makes X: the scale and bias of a normalization, or the output channels of another product.
All readers of X share one S. As in `cross_layer_equalization`, s_j is a power of two, so that no rounding changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.calibrate import MASK
from modelopt.calibration.context import Context
from modelopt.graph import match
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT32_FLOAT64
from modelopt.patterns.gemm import is_product
from modelopt.quant.correction import kernel_pairs
from modelopt.quant.correction.cross_layer_equalization import LinearLayer, as_layer

_LEAST = 0.75  # rounding an exponent leaves at most 0.5 of it: so a second run changes nothing
_SCALED_INPUTS: Mapping[tuple[str, str], tuple[int, ...]] = {
    ("", "LayerNormalization"): (1, 2),
    ("", "RMSNormalization"): (1,),
    (graph.CONTRIB_DOMAIN, "SkipLayerNormalization"): (2, 3),
}
_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "PRelu"})


@dataclass(eq=False)
class SmoothableActivation:
    """An activation X that only products read.

    Attributes:
        value: X, shape (…, K).
        constants: The constants to divide along their last axis, K; no other node reads them.
        source: The product whose output channels are divided, where a product makes X.
        readers: The products that read X.
    """

    value: ir.Value
    constants: tuple[ir.Value, ...]
    source: LinearLayer | None
    readers: tuple[LinearLayer, ...]

    @property
    def width(self) -> int:
        """K."""
        return int(self.readers[0].weight.shape[2])

    def exponents(self, largest: np.ndarray, alpha: float) -> np.ndarray:
        """The powers of two of S for these maxima of |X_j|, int64 of shape (K,)."""
        weights = np.max([reader.input_ranges() for reader in self.readers], axis=0).astype(np.float64)
        alive = (largest > 0) & (weights > 0)
        wanted = alpha * np.log2(np.where(alive, largest, 1)) - (1 - alpha) * np.log2(np.where(alive, weights, 1))
        return np.where(np.abs(wanted) > _LEAST, np.rint(wanted), 0).astype(np.int64)

    def move(self, exponents: np.ndarray) -> bool:
        """Divide X and multiply the weights by 2 ** exponents, unless a number would leave its dtype's range."""
        arrays = [np.asarray(graph.constant(value)) for value in self.constants]
        parts = [(array, np.ldexp(array, -exponents), exponents) for array in arrays]
        rows = -exponents.reshape(1, 1, -1, 1)
        parts += [(reader.weight, reader.scaled_inputs(exponents), rows) for reader in self.readers]
        weight = bias = None
        if self.source is not None:
            weight, bias = self.source.scaled_outputs(-exponents)
            parts.append((self.source.weight, weight, exponents.reshape(1, -1, 1, 1)))
            parts += [] if bias is None else [(np.asarray(self.source.bias), bias, exponents)]
        if not all(np.array_equal(np.ldexp(new, back), old) for old, new, back in parts):
            return False
        for value, (_, new, _) in zip(self.constants, parts, strict=False):
            graph.set_constant(value, new)
        for reader, (_, new, _) in zip(self.readers, parts[len(self.constants) :], strict=False):
            reader.weight, reader.changed = new, True
            reader.store()
        if self.source is not None and weight is not None:
            self.source.weight, self.source.bias, self.source.changed = weight, bias, True
            self.source.store()
        return True


def smoothable(value: ir.Value, layers: dict[ir.Node, LinearLayer]) -> SmoothableActivation | Mismatch:
    """`value` as an activation that can be smoothed, or why it cannot.

    Args:
        value: An activation.
        layers: The layers known so far; new ones are added.
    """
    products = _products(value)
    if isinstance(products, Mismatch):
        return products
    readers = [_layer(node, layers) for node in products]
    for reader in readers:
        if isinstance(reader, Mismatch):
            return reader
    found = tuple(reader for reader in readers if isinstance(reader, LinearLayer))
    channels = {reader.weight.shape[2] for reader in found}
    if len(channels) != 1:
        return Mismatch("its readers disagree on its width")
    made = _source(value, channels.pop(), layers)
    return made if isinstance(made, Mismatch) else SmoothableActivation(value, *made, found)


def _layer(node: ir.Node, layers: dict[ir.Node, LinearLayer]) -> LinearLayer | Mismatch:
    if node not in layers:
        layer = as_layer(node)
        if isinstance(layer, Mismatch):
            return Mismatch(f"{graph.label(node)}: {layer.reason}")
        layers[node] = layer
    return layers[node]


def _products(value: ir.Value) -> list[ir.Node] | Mismatch:
    """The products that read `value` as their left operand, also through Reshapes that keep its last axis.

    It is a mismatch if any other node reads it.
    """
    if value.is_graph_output():
        return Mismatch("it is also a graph output")
    found: dict[ir.Node, None] = {}
    for use in value.uses():
        node = use.node
        multiplies = is_product(node) and use.idx == 0
        if node.graph is not value.graph or not (multiplies or _keeps_columns(node)):
            return Mismatch(f"{graph.label(node)} reads it too")
        further = [node] if multiplies else _products(node.outputs[0])
        if isinstance(further, Mismatch):
            return further
        found |= dict.fromkeys(further)
    return list(found) or Mismatch("nothing reads it")


def _keeps_columns(node: ir.Node) -> bool:
    """Whether `node` is a Reshape that leaves the last axis as it is."""
    if not graph.is_standard(node, "Reshape") or graph.makes_empty(node):
        return False
    target, data = graph.constant(node.inputs[1], max_bytes=64), node.inputs[0]
    width = None if data is None or not data.shape else data.shape[-1]
    return target is not None and target.size > 0 and isinstance(width, int) and target[-1] == width


def _source(
    value: ir.Value, width: int, layers: dict[ir.Node, LinearLayer]
) -> tuple[tuple[ir.Value, ...], LinearLayer | None] | Mismatch:
    """The constants that scale the columns of `value`, or the product that makes it."""
    node = value.producer()
    if node is None:
        return Mismatch("it is an input of the model")
    positions = _SCALED_INPUTS.get(graph.operator_of(node))
    if positions is not None:
        if value is not node.outputs[0] or graph.attribute_int(node, "axis", -1) not in {
            -1,
            (graph.rank(value) or 0) - 1,
        }:
            return Mismatch(f"{graph.label(node)} does not normalize its last axis alone")
        read = [node.inputs[i] for i in positions if i < len(node.inputs)]
        return _own([constant for constant in read if constant is not None], width)
    factors = _factors(node, value)
    if factors:
        return _own(factors, width)
    layer = _product_before(value, layers)
    if isinstance(layer, LinearLayer) and layer.outputs != width:
        return Mismatch("its maker has another width")
    return ((), layer) if isinstance(layer, LinearLayer) else layer


def _factors(node: ir.Node, value: ir.Value) -> list[ir.Value]:
    """The constants of x · g or x · g + b, as decomposed normalizations end; empty when `node` is no such thing."""
    operands = match.split_constant(node)
    if operands is None:
        return []
    if graph.is_standard(node, "Mul"):
        return [operands[1]]
    before = operands[0].producer()
    if not graph.is_standard(node, "Add") or before is None or before.graph is not value.graph:
        return []
    inner = match.split_constant(before) if graph.is_standard(before, "Mul") else None
    alone = graph.sole_consumer(before.outputs[0]) is node
    return [inner[1], operands[1]] if inner is not None and alone else []


def _own(constants: Sequence[ir.Value], width: int) -> tuple[tuple[ir.Value, ...], None] | Mismatch:
    """`constants` if each is one float per column and has no other reader."""
    for value in constants:
        tensor = graph.constant_tensor(value)
        if tensor is None or tensor.dtype not in FLOAT32_FLOAT64:
            return Mismatch(f"{value.name} is not a constant of floats")
        if tensor.size != width or tensor.shape[-1] != width:
            return Mismatch(f"{value.name} is not one number per column")
        if len(value.uses()) > 1 or value.is_graph_output():
            return Mismatch(f"other nodes use {value.name} too")
    return (tuple(constants), None) if constants else Mismatch("its maker has no scale")


def _product_before(value: ir.Value, layers: dict[ir.Node, LinearLayer]) -> LinearLayer | Mismatch:
    """The product that makes `value`, through positively homogeneous functions."""
    node = value.producer()
    while node is not None and node.op_type in _RECTIFIERS and node.domain in graph.STANDARD_DOMAINS:
        read = node.inputs[0]
        if read is None or graph.sole_consumer(read) is None or read.graph is not value.graph:
            return Mismatch(f"what {graph.label(node)} reads is needed as it is")
        value, node = read, read.producer()
    if node is not None and graph.is_standard(node, "Add"):
        operands = match.split_constant(node)
        node = None if operands is None else operands[0].producer()
    if node is None or not is_product(node):
        return Mismatch("what makes it has no scale for each column")
    layer = _layer(node, layers)
    if isinstance(layer, LinearLayer) and layer.end is not value:
        return Mismatch(f"what {graph.label(node)} computes is needed as it is")
    return layer


def column_maxima(model: ir.Model, values: Sequence[ir.Value], ctx: Context) -> Mapping[str, np.ndarray]:
    """max|X_j| of each value over all samples, float64 of shape (K,); NaN for NaN, infinities and masks.

    Raises:
        Refused: onnxruntime does not run the model.
    """
    names = [value.name or "" for value in values]
    found: dict[str, np.ndarray | float] = dict.fromkeys(names, 0.0)
    feeds = kernel_pairs.feeds(ctx, len(ctx.calibration or ()), "measuring columns")
    for arrays in ctx.runner.run(model, feeds, outputs=names):
        for name, array in zip(names, arrays, strict=True):
            rows = array.reshape(-1, array.shape[-1])
            found[name] = np.maximum(found[name], np.abs(rows).max(axis=0, initial=0).astype(np.float64))
    return {name: np.where(np.asarray(most) < MASK, most, np.nan) for name, most in found.items()}
