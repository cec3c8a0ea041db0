"""Cross-layer equalization (Nagel et al. 2019, arXiv:1906.04721, section 4.1), by powers of two.

Between two layers stands a positively homogeneous function f: f(s · x) = s · f(x) for s > 0. Then output channel i of
the first layer may be divided by s_i, and input channel i of the second multiplied by s_i:

    W2 · f(W1 · x + b1)  =  (W2 · S) · f(S⁻¹ · W1 · x + S⁻¹ · b1)

The paper's s_i = sqrt(r1_i / r2_i) makes the ranges of both sides equal. Here s_i is a power of two: every product and
sum is the same number with another exponent, so the outputs are the same to the last bit.

The range r1_i includes the bias. Otherwise a channel with weights near zero and an ordinary bias would be multiplied
until its weights are as large as the others', and its activations would become very large.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch
from modelopt.graph.types import FLOAT32_FLOAT64
from modelopt.quant.correction.kernel_pairs import is_stored_by_output

_ROUNDS = 32  # a limit: most models settle in a few


@dataclass(eq=False)
class LinearLayer:
    """A Conv, Gemm or MatMul with constants of its own.

    Attributes:
        weight: A copy of its weight, shape (groups, outputs / groups, inputs / groups, positions).
        bias: A copy of its bias, flat; None where there is none.
        bias_value: Where the bias is stored: an input of the node, or of the Add behind a MatMul.
        end: Its result, with the bias added.
        changed: Whether the copies differ from what the model stores.
    """

    node: ir.Node
    weight: np.ndarray
    bias: np.ndarray | None
    bias_value: ir.Value | None
    end: ir.Value
    changed: bool = False

    @property
    def outputs(self) -> int:
        """How many output channels it has."""
        return int(self.weight.shape[0] * self.weight.shape[1])

    def output_ranges(self) -> np.ndarray:
        """The largest weight or bias of each output channel, as a magnitude, shape (outputs,)."""
        ranges = np.asarray(np.abs(self.weight).max(axis=(2, 3), initial=0).reshape(-1))
        return ranges if self.bias is None else np.maximum(ranges, np.abs(self.bias))

    def input_ranges(self) -> np.ndarray:
        """The largest weight of each input channel, as a magnitude, shape (inputs,)."""
        return np.asarray(np.abs(self.weight).max(axis=(1, 3), initial=0).reshape(-1))

    def scaled_outputs(self, exponents: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight and bias with output channel i times 2 ** exponents[i]."""
        bias = None if self.bias is None else np.ldexp(self.bias, exponents)
        return np.ldexp(self.weight, exponents.reshape(*self.weight.shape[:2], 1, 1)), bias

    def scaled_inputs(self, exponents: np.ndarray) -> np.ndarray:
        """The weight with input channel i times 2 ** exponents[i]."""
        return np.asarray(np.ldexp(self.weight, exponents.reshape(self.weight.shape[0], 1, -1, 1)))

    def store(self) -> None:
        """Write the copies into the model."""
        value = self.node.inputs[1]
        if value is None or not self.changed:
            return
        shape = graph.constant_tensor(value).shape.numpy()  # type: ignore[union-attr]
        by_output = is_stored_by_output(self.node)
        graph.set_constant(value, self.weight.reshape(shape) if by_output else self.weight.reshape(shape[::-1]).T)
        if self.bias is not None and self.bias_value is not None:
            old = graph.constant_tensor(self.bias_value).shape.numpy()  # type: ignore[union-attr]
            graph.set_constant(self.bias_value, self.bias.reshape(old))


@dataclass(eq=False)
class LayerPair:
    """Two layers with only positively homogeneous functions between them.

    Attributes:
        first: The layer whose output channels are divided.
        second: The layer whose input channels are multiplied.
        exponents: The powers of two for this, so far.
    """

    first: LinearLayer
    second: LinearLayer
    exponents: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.exponents = np.zeros(self.first.outputs, np.int64)

    def step(self) -> bool:
        """Equalize the two ranges of each channel if they differ by a factor of 4 or more."""
        ranges = self.first.output_ranges().astype(np.float64), self.second.input_ranges().astype(np.float64)
        alive = (ranges[0] > 0) & (ranges[1] > 0)
        wanted = np.zeros(len(alive))
        np.log2(ranges[0], out=wanted, where=alive)
        wanted -= np.log2(ranges[1], out=np.zeros(len(alive)), where=alive)
        steps = np.where(np.abs(wanted) >= 2, np.rint(wanted / 2), 0).astype(np.int64)
        return bool(steps.any()) and self.move(steps)

    def move(self, steps: np.ndarray) -> bool:
        """Divide and multiply by 2 ** steps, unless a number would leave its dtype's range; returns whether it did."""
        first, second = self.first, self.second
        weight, bias = first.scaled_outputs(-steps)
        later = second.scaled_inputs(steps)
        before = LinearLayer(first.node, weight, bias, None, first.end).scaled_outputs(steps)
        exact = np.array_equal(before[0], first.weight) and np.array_equal(
            LinearLayer(second.node, later, None, None, second.end).scaled_inputs(-steps), second.weight
        )
        if not exact or (bias is not None and not np.array_equal(before[1], first.bias)):  # type: ignore[arg-type]
            return False
        first.weight, first.bias, second.weight = weight, bias, later
        first.changed = second.changed = True
        self.exponents += steps
        return True


def settle(pairs: list[LayerPair]) -> None:
    """Equalize all pairs in turn until none changes: a layer in the middle of a chain is in two pairs."""
    for _ in range(_ROUNDS):
        if not any([pair.step() for pair in pairs]):  # noqa: C419 - each pair takes its step
            break
    for pair in pairs:
        pair.first.store()
        pair.second.store()


def as_layer(node: ir.Node, inputs: int | None = None) -> LinearLayer | Mismatch:
    """`node` as a layer whose constants may change.

    Args:
        node: A Conv, Gemm or MatMul.
        inputs: How many channels it reads; a flattened image has several columns for each.
    """
    value = node.inputs[1]
    weight = graph.constant_tensor(value)
    if value is None or weight is None:
        return Mismatch("its weight is not constant")
    if weight.dtype not in FLOAT32_FLOAT64:  # float16 activations could leave their range
        return Mismatch(f"its weight is {weight.dtype.name.lower()}")
    if len(value.uses()) > 1 or value.is_graph_output():
        return Mismatch("its weight is shared")
    view = _view(node, weight, inputs)
    if isinstance(view, Mismatch):
        return view
    end, bias_value = _bias(node)
    if bias_value is None:
        return LinearLayer(node, view, None, None, end)
    outputs, bias = view.shape[0] * view.shape[1], graph.constant(bias_value)
    if bias is None or bias.size != outputs or bias.shape[-1] != outputs:
        return Mismatch("its bias is not one constant number per channel")
    if len(bias_value.uses()) > 1 or bias_value.is_graph_output():
        return Mismatch("its bias is shared")
    return LinearLayer(node, view, np.array(bias.reshape(-1)), bias_value, end)


def _view(node: ir.Node, weight: ir.TensorProtocol, inputs: int | None) -> np.ndarray | Mismatch:
    """A copy of the weight, shape (groups, outputs / groups, inputs / groups, positions)."""
    array = weight.numpy()
    if not np.isfinite(array).all() or array.size == 0:
        return Mismatch("its weight is empty, or holds NaN or infinity")
    if node.op_type == "Conv":
        groups = graph.attribute_int(node, "group", 1)
        if array.ndim < 3 or groups < 1 or array.shape[0] % groups or inputs not in {None, groups * array.shape[1]}:
            return Mismatch(f"a weight of shape {array.shape} is none for {groups} groups and {inputs} channels")
        return np.array(array.reshape(groups, array.shape[0] // groups, array.shape[1], -1), order="C")
    if array.ndim != 2 or graph.attribute_int(node, "transA", 0):
        return Mismatch("it is not a product by a matrix from the right")
    rows = array if is_stored_by_output(node) else array.T
    if rows.shape[1] % (inputs or 1):
        return Mismatch(f"{inputs} channels are not its {rows.shape[1]} rows")
    return np.array(rows.reshape(1, rows.shape[0], inputs or rows.shape[1], -1), order="C")


def _bias(node: ir.Node) -> tuple[ir.Value, ir.Value | None]:
    """The result of `node` with its bias added, and the bias; that of a MatMul is in the Add behind it."""
    output = node.outputs[0]
    if node.op_type != "MatMul":
        return output, graph.input_at(node, 2)
    add = graph.sole_consumer(output)
    if add is None or add.graph is not node.graph or not graph.is_standard(add, "Add"):
        return output, None
    other = add.inputs[1] if add.inputs[0] is output else add.inputs[0]
    return (output, None) if graph.constant_tensor(other) is None else (add.outputs[0], other)
