"""Which kernels save more time in int8 than their QuantizeLinear and DequantizeLinear cost, by the cost model.

The engine measures the result. A kernel saves time on its products and loses some on rescaling its result. Each
boundary between int8 and float costs one QuantizeLinear or DequantizeLinear over the whole tensor. So a convolution
between float activations must be large to pay. The same convolution between int8 ones pays when it is small. A
depthwise convolution never pays alone, but it does where without it a chain of int8 kernels would fall into two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import onnx_ir as ir

from modelopt import graph
from modelopt.quant.numerics.cost_model import StaticCosts
from modelopt.quant.static import first_convolution
from modelopt.quant.static.plan import NodeChoice, QuantizationPlan, Role

_LANES = 16


def unprofitable(
    plan: QuantizationPlan,
    elements: Callable[[ir.Value], float],
    costs: StaticCosts,
    executions: Callable[[ir.Value], float] = lambda _value: 1.0,
) -> set[ir.Node]:
    """The kernels of `plan` that would cost more in int8 than they save.

    A connected region of int8 nodes is judged as a whole. Its kernels at the boundary may each lose time; the kernels
    inside gain it back, and would lose their int8 inputs if the ones at the boundary were dropped one by one.

    Args:
        plan: The candidates.
        elements: How many elements an activation of the plan has, per run.
        costs: The target's.
        executions: How often an activation is made per run: other than once in the body of a Loop, Scan or If.
    """
    model = _Estimate(plan, elements, costs, executions)
    dropped: set[ir.Node] = set()
    for region in _regions(plan):
        if model.gain(region) < 0:
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
        """What computing `region` in int8 saves, all else in the plan being int8; negative when it costs."""
        listed = list(region)
        saved = sum(self._saved(choice) for choice in listed)
        touched = dict.fromkeys(value for choice in listed for value in _touched(choice))
        without = self._all - {choice.node for choice in listed}
        more = sum(self._conversions(value, self._all) - self._conversions(value, without) for value in touched)
        return saved - more

    def _conversions(self, value: ir.Value, integers: set[ir.Node]) -> float:
        """The cost of quantizing and dequantizing `value` when the nodes `integers` compute in int8."""
        readers = [use.node for use in value.uses()]
        in_float = sum(node not in integers for node in readers) + value.is_graph_output()
        made_in_integers = self._makers.get(value) in integers
        times = in_float if made_in_integers else int(any(node in integers for node in readers))
        return times * (self._costs.launch * self._executions(value) + self._costs.convert * self._elements(value))

    def _saved(self, choice: NodeChoice) -> float:
        tensor = graph.constant_tensor(choice.weight)
        if choice.role is not Role.KERNEL or tensor is None:
            return 0.0
        costs, shape = self._costs, tensor.numpy().shape
        if choice.node.op_type != "Conv":
            depth = tensor.size // shape[choice.weight_axis if choice.weight_axis is not None else -1]
            rows = self._elements(choice.inputs[0]) / max(depth, 1)
            return float(
                rows * (tensor.size * costs.saved_per_mac - tensor.size / max(depth, 1) * costs.product_rescale)
            )
        if choice.output is None:
            return 0.0
        written = self._elements(choice.output)
        if shape[1] == 1 and graph.attribute_int(choice.node, "group", 1) > 1:
            return -written * costs.depthwise
        taps = tensor.size // (shape[0] * shape[1])
        regrouped = first_convolution.taps_of(choice.node, shape)
        ragged = shape[0] % 4 != 0 or (shape[1] % 4 != 0 and regrouped is None)
        saved, gather, rescale = (
            (costs.ragged_saved_in_conv, costs.ragged_gather, costs.ragged_rescale)
            if ragged
            else (costs.saved_in_conv, costs.gather, costs.rescale)
        )
        gathered = gather * (regrouped or taps) if taps > 1 else 0.0
        computed = tensor.size / shape[0] * (-(-shape[0] // _LANES) * _LANES)  # both pad channels to the vector's width
        return float(written * ((computed * saved - gathered) / shape[0] - rescale))


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
