"""Passes that are wrong on purpose, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx import TensorProto

from modelopt import graph
from tests.campaigns.edits import (
    Edit,
    attribute,
    bypass,
    drop_input,
    input_of,
    node_of,
    operator,
    rewire,
    share,
    swap_inputs,
    weight,
)
from tests.campaigns.planted_zoo import scalar

# How they are wrong. Some change what an honest pass reads and then run it; others change the model themselves.


def _lose_output_name(model: ir.Model) -> None:
    model.graph.outputs[0].name = "logits_replaced"


def _swap_outputs(model: ir.Model) -> None:
    outputs = list(model.graph.outputs)
    model.graph.outputs[0], model.graph.outputs[1] = outputs[1], outputs[0]


def _drop_captured(model: ir.Model) -> None:
    model.graph.initializers.pop("captured")


def _unsorted(model: ir.Model) -> None:
    node = model.graph[0]
    model.graph.remove(node)
    model.graph.append(node)


def _hardsigmoid(alpha: float, beta: float) -> Edit:
    def edit(model: ir.Model) -> None:
        last = node_of(model, "hardswish")
        x = input_of(model, "plus3", 0)
        gate = ir.node("HardSigmoid", [x], {"alpha": alpha, "beta": beta}, name="gate")
        gate.outputs[0].name = "gate"
        last.prepend(gate)
        graph.become(last, "Mul", [x, gate.outputs[0]])

    return edit


def _fixed_batch(model: ir.Model) -> None:
    graph.set_constant(input_of(model, "flat", 1), np.array([1, -1]))


def _wrong_branch(model: ir.Model) -> None:
    graph.set_constant(model.graph.initializers["yes"], np.zeros((), bool))


def _gathers_swapped(model: ir.Model) -> None:
    """As if gather(gather(x, j), i) were gather(x, i[j])."""
    first, second = input_of(model, "picked", 1), input_of(model, "again", 1)
    node_of(model, "picked").replace_input_with(1, second)
    node_of(model, "again").replace_input_with(1, first)


def _fold_across_fan_out(model: ir.Model) -> None:
    node_of(model, "neg3").replace_input_with(0, node_of(model, "bn3").outputs[0])


def _merge_transposes(perm: Sequence[int]) -> Edit:
    def edit(model: ir.Model) -> None:
        node = node_of(model, "t2")
        graph.become(node, "Transpose", [input_of(model, "t1", 0)], [ir.AttrInt64s("perm", perm)])

    return edit


def _one_channel(factor: float, index: int = 2) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] *= factor
        return array

    return change


def _ulps(count: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array + count * np.spacing(np.abs(array))


def _float64(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64)


def _add_relu(model: ir.Model) -> None:
    node_of(model, "bn4").op_type = "BatchNormalization"
    node = node_of(model, "branches")
    relu = ir.node("Relu", [node.inputs[0]], name="late")
    relu.outputs[0].name = "late"
    node.prepend(relu)
    node.replace_input_with(0, relu.outputs[0])


@dataclass(frozen=True)
class Bug:
    """One way to be wrong.

    Attributes:
        edit: What goes wrong.
        honest: The pass that then runs on what it left; None for none.
    """

    edit: Edit
    honest: str | None = None


BN, CONV, GEMM = "fuse-conv-bn", "fuse-conv-affine", "fuse-matmul-add"


BUGS: dict[str, Bug] = {
    "bn-epsilon-tenfold": Bug(attribute("bn1", "epsilon", 1e-4), BN),
    "bn-epsilon-ignored": Bug(attribute("bn3", "epsilon", 0.0), BN),
    "bn-epsilon-default": Bug(attribute("bn3", "epsilon", 1e-5), BN),
    "bn-mean-dropped": Bug(weight("bn1", 3, np.zeros_like), BN),
    "bn-mean-sign": Bug(weight("bn1", 3, np.negative), BN),
    "bn-bias-dropped": Bug(weight("bn4", 2, np.zeros_like), BN),
    "bn-scale-dropped": Bug(weight("bn1", 1, np.ones_like), BN),
    "bn-variance-not-rooted": Bug(weight("bn1", 4, np.square), BN),
    "bn-scale-of-one-channel": Bug(weight("bn1", 1, _one_channel(1.01)), BN),
    "bn-channels-reversed": Bug(weight("bn_up", 1, lambda array: array[::-1]), BN),
    "bn-scale-and-bias-swapped": Bug(rewire("bn4", 2, "bn4.1"), BN),
    "bn-fold-across-fan-out": Bug(_fold_across_fan_out),
    "bn-before-relu": Bug(_add_relu, BN),
    "bn-removed": Bug(bypass("bn_up")),
    "conv-bias-dropped": Bug(drop_input("conv1", 2), BN),
    "conv-bias-not-scaled": Bug(weight("conv1", 2, lambda array: array * 1.5), BN),
    "conv-pads-order": Bug(attribute("conv1", "pads", [1, 1, 0, 0])),
    "conv-pads-reversed": Bug(attribute("conv1", "pads", [0, 1, 1, 0])),
    "conv-pads-dropped-keeping-size": Bug(attribute("conv4", "pads", [2, 0, 0, 2])),
    "conv-kernel-transposed": Bug(weight("conv1", 1, lambda array: array.swapaxes(2, 3))),
    "conv-kernel-flipped": Bug(weight("conv1", 1, lambda array: array[:, :, ::-1, ::-1])),
    "conv-channels-transposed": Bug(weight("conv3", 1, lambda array: array.swapaxes(0, 1)), BN),
    "conv-tap-lost": Bug(weight("conv4", 1, _one_channel(0.0, (1, 1, 0, 0)))),  # type: ignore[arg-type]
    "conv-depthwise-scaled-wrong": Bug(weight("conv2", 1, lambda array: array[::-1])),
    "conv-transpose-axes": Bug(weight("up", 1, lambda array: array.swapaxes(0, 1)), BN),
    "affine-sub-operands": Bug(swap_inputs("sub3"), CONV),
    "affine-div-as-mul": Bug(operator("div3", "Mul"), CONV),
    "affine-sub-as-add": Bug(operator("sub3", "Add"), CONV),
    "affine-shift-negated": Bug(weight("add2", 1, np.negative), CONV),
    "affine-scale-dropped": Bug(bypass("mul2"), CONV),
    "affine-shift-dropped": Bug(bypass("sub3", 1), CONV),
    "affine-one-channel": Bug(weight("mul2", 1, _one_channel(1.001)), CONV),
    "hardsigmoid-default-alpha": Bug(_hardsigmoid(0.2, 0.5)),
    "hardsigmoid-alpha-and-beta": Bug(_hardsigmoid(0.5, 1 / 6)),
    "hardsigmoid-alpha-rounded": Bug(_hardsigmoid(0.1667, 0.5)),
    "hardsigmoid-of-something-else": Bug(rewire("gated", 0, "conv2")),
    "clip-bound": Bug(weight("clip", 2, lambda array: array - 1)),
    "relu-removed": Bug(bypass("relu1")),
    "branch-lost": Bug(bypass("branches")),
    "gemm-transposed": Bug(attribute("gemm", "transB", 0)),
    "gemm-alpha-ignored": Bug(attribute("gemm", "alpha", 1.0)),
    "gemm-beta-ignored": Bug(attribute("gemm", "beta", 1.0)),
    "gemm-bias-dropped": Bug(weight("fc_bias", 1, np.zeros_like), GEMM),
    "gemm-weight-row": Bug(weight("fc", 1, _one_channel(1.002)), GEMM),
    "transposes-in-the-wrong-order": Bug(_merge_transposes([0, 3, 2, 1])),
    "transposes-inverted": Bug(_merge_transposes([0, 2, 1, 3])),
    "pad-order": Bug(weight("padded", 1, lambda array: array[[0, 1, 3, 2, 4, 5, 7, 6]])),
    "pad-value": Bug(weight("padded", 2, lambda array: array + 0.1)),
    "pool-counts-no-pads": Bug(attribute("pooled", "count_include_pad", 0)),
    "pool-pads-order": Bug(attribute("pooled", "pads", [1, 0, 0, 1])),
    "pool-of-another-kind": Bug(operator("max", "AveragePool")),
    "mean-of-the-wrong-axis": Bug(attribute("mean", "axes", [2])),
    "reshape-zero-as-copy": Bug(_fixed_batch),
    "gelu-constant-rounded": Bug(weight("rooted", 1, lambda array: scalar(1.414))),
    "gelu-half-lost": Bug(bypass("half")),
    "layer-norm-epsilon": Bug(attribute("ln", "epsilon", 1e-5)),
    "layer-norm-bias-dropped": Bug(drop_input("ln", 2)),
    "cast-through-half": Bug(attribute("wide", "to", int(TensorProto.FLOAT16))),
    "slice-off-by-one": Bug(weight("left", 1, lambda array: array + 1)),
    "concat-order": Bug(swap_inputs("swapped")),
    "gather-off-by-one": Bug(weight("picked", 1, lambda array: (array + 1) % 8)),
    "gather-of-gather-order": Bug(_gathers_swapped, "fold-gather"),
    "gather-of-gather-off-by-one": Bug(weight("again", 1, lambda array: (array + 1) % 8), "fold-gather"),
    "rotary-sine-negated": Bug(weight("rope_sin", 1, np.negative), "fuse-rotary"),
    "rotary-position-off-by-one": Bug(weight("rope_cos", 1, lambda array: np.roll(array, 1, axis=0)), "fuse-rotary"),
    "rotary-half-not-negated": Bug(bypass("rope_neg")),
    "rotary-halves-swapped": Bug(swap_inputs("rope_turned")),
    "softmax-axis": Bug(attribute("probabilities", "axis", 0)),
    "fold-wrong-operator": Bug(operator("table", "Abs"), "fold-constants"),
    "fold-thousand-ulps": Bug(weight("table", 0, _ulps(1000)), "fold-constants"),
    "fold-wrong-dtype": Bug(weight("offset", 1, _float64)),
    "fold-wrong-branch": Bug(_wrong_branch, "fold-constants"),
    "fold-wrong-shape": Bug(weight("offset", 1, lambda array: array[:4])),
    "dedup-of-unequal-tensors": Bug(share("offset", 1, "captured")),
    "dedup-of-other-norm": Bug(share("bn4", 4, "bn3.4")),
    "dead-code-that-is-captured": Bug(_drop_captured),
    "output-name-lost": Bug(_lose_output_name),
    "outputs-swapped": Bug(_swap_outputs),
    "identity-that-is-none": Bug(bypass("scaled")),
    "nodes-out-of-order": Bug(_unsorted),
    "operator-unknown": Bug(operator("relu1", "Reluu")),
    "operator-of-another-opset": Bug(attribute("relu1", "alpha", 0.5)),
}
