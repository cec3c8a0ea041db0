"""Which kernels save more time in int8 than their QuantizeLinear and DequantizeLinear cost, by the cost model.

The engine measures the result. A kernel saves time on its products and loses some on rescaling its result. Each
boundary between int8 and float costs one QuantizeLinear or DequantizeLinear over the whole tensor. So a convolution
between float activations must be large to pay. The same convolution between int8 ones pays when it is small. A
depthwise convolution never pays alone, but it does where without it a chain of int8 kernels would fall into two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.numerics.cost_model import StaticCosts
from modelopt.quant.static import first_convolution
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan, Role

_VECTOR = 16  # float and int8 kernels compute so many output channels at once, and pad to it


def unprofitable(
    plan: QuantizationPlan,
    elements: Callable[[ir.Value], float],
    costs: StaticCosts,
    executions: Callable[[ir.Value], float] = lambda _value: 1.0,
) -> set[ir.Node]:
    """The kernels of `plan` that would cost more time in int8 than they save.

    A connected region of int8 nodes is judged as a whole. Its kernels at the boundary may each lose time; the kernels
    inside gain it back, and would lose their int8 inputs if the ones at the boundary were dropped one by one.

    Args:
        plan: The candidates.
        elements: How many elements an activation of the plan has, per run.
        costs: The costs on the target.
        executions: How often an activation is made per run: not once in the body of a Loop, Scan or If.
    """
    estimate = _Estimate(plan, elements, costs, executions)
    dropped: set[ir.Node] = set()
    for region in _regions(plan):
        if estimate.gain(region) < 0:
            dropped.update(choice.node for choice in region if choice.role is Role.KERNEL)
    return dropped


class _Estimate:
    def __init__(
        self,
        plan: QuantizationPlan,
        elements: Callable[[ir.Value], float],
        costs: StaticCosts,
        executions: Callable[[ir.Value], float],
    ) -> None:
        self._elements = elements
        self._executions = executions
        self._costs = costs
        self._all = {choice.node for choice in plan.choices}
        self._makers = {value: choice.node for choice in plan.choices for value in choice.written}

    def gain(self, region: Iterable[NodeChoice]) -> float:
        """The time that computing `region` in int8 saves while the rest of the plan is int8; negative for a loss."""
        listed = list(region)
        saved = sum(self._saved(choice) for choice in listed)
        touched = dict.fromkeys(value for choice in listed for value in _touched(choice))
        without = self._all - {choice.node for choice in listed}
        more = sum(self._conversions(value, self._all) - self._conversions(value, without) for value in touched)
        return saved - more

    def _conversions(self, value: ir.Value, integers: set[ir.Node]) -> float:
        """The time for quantizing and dequantizing `value` when the nodes `integers` compute in int8."""
        readers = [use.node for use in value.uses()]
        if self._makers.get(value) in integers:  # one DequantizeLinear for each reader in float
            count = sum(node not in integers for node in readers) + value.is_graph_output()
        else:  # one QuantizeLinear for all readers in int8
            count = int(any(node in integers for node in readers))
        return count * (self._costs.launch * self._executions(value) + self._costs.convert * self._elements(value))

    def _saved(self, choice: NodeChoice) -> float:
        """The time that the node itself saves: its activations are int8 already."""
        tensor = graph.constant_tensor(choice.weight)
        if choice.role is not Role.KERNEL or tensor is None:
            return 0.0
        shape = tensor.numpy().shape
        if choice.node.op_type == "Conv":
            return 0.0 if choice.output is None else self._saved_by_conv(choice.node, shape, choice.output)
        costs, axis = self._costs, -1 if choice.weight_axis is None else choice.weight_axis
        depth = max(tensor.size // shape[axis], 1)
        rows = self._elements(choice.inputs[0]) / depth
        return float(rows * (tensor.size * costs.saved_per_mac - tensor.size / depth * costs.product_rescale))

    def _saved_by_conv(self, conv: ir.Node, shape: tuple[int, ...], output: ir.Value) -> float:
        """Multiply-adds saved, less gathering the input of a kernel of several positions, less rescaling the output."""
        costs, written = self._costs, self._elements(output)
        outputs, inputs = shape[:2]
        if inputs == 1 and graph.attribute_int(conv, "group", 1) > 1:
            return -written * costs.depthwise
        size = math.prod(shape)
        positions = size // (outputs * inputs)
        rewritten = first_convolution.window_positions(conv, shape)
        if outputs % 4 or (inputs % 4 and rewritten is None):
            saved, gather, rescale = costs.unaligned_saved_in_conv, costs.unaligned_gather, costs.unaligned_rescale
        else:
            saved, gather, rescale = costs.saved_in_conv, costs.gather, costs.rescale
        gathered = gather * (rewritten or positions) if positions > 1 else 0.0
        computed = size / outputs * (-(-outputs // _VECTOR) * _VECTOR)
        return float(written * ((computed * saved - gathered) / outputs - rescale))


def _regions(plan: QuantizationPlan) -> list[list[NodeChoice]]:
    """The choices in groups that touch the same quantized activations."""
    group_of: dict[ir.Value, list[NodeChoice]] = {}
    for choice in plan.choices:
        merged = [choice]
        for value in _touched(choice):
            merged += [other for other in group_of.get(value, []) if not any(other is known for known in merged)]
        for member in merged:
            group_of.update(dict.fromkeys(_touched(member), merged))
    return list({id(group): group for group in group_of.values()}.values())


def _touched(choice: NodeChoice) -> tuple[ir.Value, ...]:
    return (*choice.inputs, *choice.written)
