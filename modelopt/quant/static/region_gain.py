"""Which integer kernels are worth their Q/DQ, by an estimate; the engine measures the result.

A kernel saves time on its products and loses some on rescaling its result. Where integers meet floats somebody converts
every element. So a convolution alone between float activations must be large to pay, while the same one amid others
pays when small, and a depthwise convolution never pays alone but does where it keeps a chain whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from modelopt import graph
from modelopt.quant import stem
from modelopt.quant.plan import Choice, Plan, Role
from modelopt.runtime.cpu import TargetKind

_LANES = 16


@dataclass(frozen=True)
class Costs:
    """Nanoseconds of one core; only their ratios matter.

    Attributes:
        saved_per_mac: Time of a float multiply-add less that of an integer one, in products.
        saved_in_conv: The same in dense convolutions, whose float kernels are better.
        product_rescale: For each element that a product writes.
        rescale: For each element that a convolution writes.
        depthwise: What each element of a depthwise convolution costs more than in float.
        gather: For each tap and pixel of a convolution with a window: integers are gathered before they are multiplied.
        ragged_saved_in_conv: `saved_in_conv` where channels do not come in fours, on which the fast kernels insist.
        ragged_rescale: `rescale` there.
        ragged_gather: `gather` there.
        convert: For each element quantized, and for each dequantized, per reader.
        launch: For each Q or DQ that runs, whatever its size.
    """

    saved_per_mac: float
    product_rescale: float
    saved_in_conv: float
    rescale: float
    depthwise: float
    gather: float
    ragged_saved_in_conv: float
    ragged_rescale: float
    ragged_gather: float
    convert: float
    launch: float


# Fitted by tests/bench/fit_costs.py with onnxruntime 1.32, one thread, to 16 products, 24 and 18 convolutions and 18
# depthwise ones: with VNNI the mean of Sapphire Rapids and Zen 4, which differ by up to a factor of two; without it
# Zen 4 with its later instructions hidden. Arm with dot products is taken to be like VNNI: no machine was at hand.
_VNNI = Costs(
    saved_per_mac=0.014,
    product_rescale=0.24,
    saved_in_conv=0.011,
    rescale=0.06,
    depthwise=0.2,
    gather=0.8,
    ragged_saved_in_conv=0.0125,
    ragged_rescale=0.75,
    ragged_gather=2.0,
    convert=0.16,
    launch=700.0,
)
_AVX2 = Costs(
    saved_per_mac=0.0117,
    product_rescale=0.47,
    saved_in_conv=0.0098,
    rescale=0.0,
    depthwise=0.17,
    gather=0.0,
    ragged_saved_in_conv=0.0136,
    ragged_rescale=1.19,
    ragged_gather=1.9,
    convert=0.14,
    launch=500.0,
)
_COSTS: Mapping[TargetKind, Costs] = {
    TargetKind.X86_VNNI: _VNNI,
    TargetKind.X86_AVX2: _AVX2,
    TargetKind.ARM64: _VNNI,
}


def costs_of(kind: TargetKind) -> Costs | None:
    """The estimate for a target; None where the compiler of the target decides by itself (TensorRT)."""
    return _COSTS.get(kind)


def unprofitable(
    plan: Plan,
    elements: Callable[[ir.Value], float],
    costs: Costs,
    executions: Callable[[ir.Value], float] = lambda _value: 1.0,
) -> set[ir.Node]:
    """The kernels of `plan` that would cost more in int8 than they save.

    A connected region of integers is judged as a whole: dropping its losing kernels one by one from the rim erodes the
    gain further in, which pays for them.

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
        plan: Plan,
        elements: Callable[[ir.Value], float],
        costs: Costs,
        executions: Callable[[ir.Value], float],
    ) -> None:
        self._elements = elements
        self._executions = executions
        self._costs = costs
        self._all = {choice.node for choice in plan.choices}
        self._makers = {value: choice.node for choice in plan.choices for value in choice.written}

    def gain(self, region: Iterable[Choice]) -> float:
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

    def _saved(self, choice: Choice) -> float:
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
        regrouped = stem.taps_of(choice.node, shape)
        ragged = shape[0] % 4 != 0 or (shape[1] % 4 != 0 and regrouped is None)
        saved, gather, rescale = (
            (costs.ragged_saved_in_conv, costs.ragged_gather, costs.ragged_rescale)
            if ragged
            else (costs.saved_in_conv, costs.gather, costs.rescale)
        )
        gathered = gather * (regrouped or taps) if taps > 1 else 0.0
        computed = tensor.size / shape[0] * (-(-shape[0] // _LANES) * _LANES)  # both pad channels to the vector's width
        return float(written * ((computed * saved - gathered) / shape[0] - rescale))


def _regions(plan: Plan) -> list[list[Choice]]:
    """The choices in groups that touch the same quantized activations."""
    group_of: dict[ir.Value, list[Choice]] = {}
    for choice in plan.choices:
        merged = [choice]
        for value in _touched(choice):
            merged += [other for other in group_of.get(value, []) if not any(other is known for known in merged)]
        for member in merged:
            group_of.update(dict.fromkeys(_touched(member), merged))
    return list({id(group): group for group in group_of.values()}.values())


def _touched(choice: Choice) -> tuple[ir.Value, ...]:
    return (*choice.inputs, *choice.written)
