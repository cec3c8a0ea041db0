"""Passes that are wrong on purpose, among passes that are not: verification has to catch each and name it.

python -m tests.campaigns.planted
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from modelopt import graph, passes
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.passes.base import Pass, option
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
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
from tests.campaigns.planted_reach import REACH
from tests.campaigns.site import Site

# The model that they are planted in: one of each pattern. Names are those of the nodes.


class _Zoo:
    def __init__(self) -> None:
        self._rng = np.random.default_rng(7)
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []

    def numbers(self, *shape: int, scale: float = 1.0, positive: bool = False) -> np.ndarray:
        drawn = self._rng.normal(size=shape) * scale
        return np.asarray(np.abs(drawn) + 0.5 if positive else drawn, np.float32)

    def add(self, op_type: str, name: str, *inputs: str | np.ndarray | list[int], **attributes: Any) -> str:
        """Add a node whose output has its name; arrays and lists become initializers."""
        names = []
        for index, given in enumerate(inputs):
            if isinstance(given, str):
                names.append(given)
                continue
            array = np.array(given, np.int64) if isinstance(given, list) else given
            self.stored.append(numpy_helper.from_array(array, f"{name}.{index}"))
            names.append(f"{name}.{index}")
        self.nodes.append(helper.make_node(op_type, names, [name], name=name, **attributes))
        return name

    def norm(self, name: str, x: str, channels: int, epsilon: float = 1e-5) -> str:
        parameters = [self.numbers(channels) for _ in range(3)]
        variance = self.numbers(channels, positive=True)
        return self.add("BatchNormalization", name, x, *parameters, variance, epsilon=epsilon)


def _number(value: float) -> np.ndarray:
    return np.array(value, np.float32)


def zoo() -> onnx.ModelProto:
    """The model: x float (batch, 4, 8, 8); outputs that have something of every branch."""
    z = _Zoo()
    n = z.numbers
    number = _number
    z.add("Conv", "conv1", "x", n(6, 4, 3, 3, scale=0.2), n(6), pads=[1, 0, 0, 1])
    z.norm("bn1", "conv1", 6)
    z.add("Relu", "relu1", "bn1")
    z.add("Conv", "conv2", "relu1", n(6, 1, 3, 3, scale=0.4), n(6), pads=[1, 1, 1, 1], group=6)
    z.add("Mul", "mul2", "conv2", n(6, 1, 1, positive=True))
    z.add("Add", "add2", "mul2", n(6, 1, 1))
    z.add("Add", "plus3", "add2", number(3))
    z.add("Clip", "clip", "plus3", number(0), number(6))
    z.add("Mul", "gated", "add2", "clip")
    z.add("Div", "hardswish", "gated", number(6))
    z.add("Add", "res", "hardswish", "relu1")
    z.add("Sub", "sub3", n(6, 1, 1), "res")
    z.add("Div", "div3", "sub3", n(6, 1, 1, positive=True))
    z.add("Conv", "conv3", "div3", n(6, 6, 1, 1, scale=0.4), n(6))
    z.norm("bn3", "conv3", 6, 1e-3)
    z.add("Neg", "neg3", "conv3")
    z.add("Add", "both3", "bn3", "neg3")
    z.add("Conv", "conv4", "both3", n(6, 6, 3, 3, scale=0.2), n(6), pads=[1, 1, 1, 1], dilations=[1, 1])
    z.norm("bn4", "conv4", 6)
    z.add("Add", "branches", "bn4", "both3")
    z.add("ConvTranspose", "up", "branches", n(6, 6, 2, 2, scale=0.4), strides=[1, 1])
    z.norm("bn_up", "up", 6)
    angles = np.tile(np.outer(np.arange(1, 9), [0.5, 0.2, 0.1, 0.05]), 2).astype(np.float32)
    z.add("Slice", "rope_low", "bn_up", [0], [4], [3])
    z.add("Slice", "rope_high", "bn_up", [4], [8], [3])
    z.add("Neg", "rope_neg", "rope_high")
    z.add("Concat", "rope_turned", "rope_neg", "rope_low", axis=3)
    z.add("Mul", "rope_cos", "bn_up", np.cos(angles))
    z.add("Mul", "rope_sin", "rope_turned", np.sin(angles))
    z.add("Add", "rope", "rope_cos", "rope_sin")
    z.add("Transpose", "t1", "rope", perm=[0, 2, 3, 1])
    z.add("Transpose", "t2", "t1", perm=[0, 3, 2, 1])
    z.add("Pad", "padded", "t2", [0, 0, 1, 0, 0, 0, 0, 1], number(0))
    z.add("AveragePool", "pooled", "padded", kernel_shape=[2, 2], count_include_pad=1, pads=[0, 1, 1, 0])
    z.add("MaxPool", "max", "pooled", kernel_shape=[2, 2], strides=[2, 2])
    z.add("ReduceMean", "mean", "max", axes=[3], keepdims=0)
    z.add("Reshape", "flat", "mean", [0, -1])
    z.add("MatMul", "fc", "flat", n(24, 8, scale=0.2))
    z.add("Add", "fc_bias", "fc", n(8))
    z.add("Mul", "half", "fc_bias", number(0.5))
    z.add("Div", "rooted", "fc_bias", number(2**0.5))
    z.add("Erf", "erf", "rooted")
    z.add("Add", "one_more", "erf", number(1))
    z.add("Mul", "gelu", "half", "one_more")
    z.add("Gemm", "gemm", "gelu", n(8, 8, scale=0.4), n(8), transB=1, alpha=0.5, beta=2.0)
    z.add("LayerNormalization", "ln", "gemm", n(8), n(8), axis=-1, epsilon=1e-3)
    z.add("Cast", "wide", "ln", to=TensorProto.DOUBLE)
    z.add("Cast", "narrow", "wide", to=TensorProto.FLOAT)
    z.add("Slice", "left", "narrow", [0], [3], [1])
    z.add("Slice", "right", "narrow", [3], [8], [1])
    z.add("Concat", "swapped", "right", "left", axis=1)
    z.add("Gather", "picked", "swapped", [7, 1, 2, 5, 4, 3, 0, 6], axis=1)
    z.add("Gather", "again", "picked", [2, 0, 1, 4, 3, 7, 5, 6], axis=1)
    z.add("Exp", "table", n(8))
    z.add("Mul", "scaled", "again", "table")
    z.add("Softmax", "probabilities", "scaled", axis=1)
    branch = [
        helper.make_graph(
            [helper.make_node("Mul", ["scaled", held], [f"{side}_mul"], name=f"{side}_mul")],
            side,
            [],
            [helper.make_tensor_value_info(f"{side}_mul", TensorProto.FLOAT, [None, 8])],
        )
        for side, held in (("then", "captured"), ("else", "fc_bias"))
    ]
    z.stored += [numpy_helper.from_array(n(8), "captured"), numpy_helper.from_array(np.ones((), bool), "yes")]
    z.stored.append(numpy_helper.from_array(n(8), "lookalike"))
    z.nodes.append(helper.make_node("If", ["yes"], ["either"], "either", then_branch=branch[0], else_branch=branch[1]))
    z.add("Add", "offset", "either", "lookalike")
    z.add("Identity", "logits", "offset")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 8])
        for name in ("logits", "probabilities", "gelu")
    ]
    whole = helper.make_graph(z.nodes, "zoo", inputs, outputs, z.stored)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


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
    "gelu-constant-rounded": Bug(weight("rooted", 1, lambda array: _number(1.414))),
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


@dataclass(frozen=True, kw_only=True)
class Planted(Pass):
    """Claims to be exact and is not."""

    name: ClassVar[str] = "planted"
    effect: ClassVar[Effect] = Effect.EXACT

    bug: str = option("", "which of BUGS or REACH")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        bug = BUGS[self.bug] if self.bug in BUGS else Bug(REACH[self.bug].edit)
        bug.edit(model)
        rewrites = 1
        if bug.honest is not None:
            rewrites += passes.find(bug.honest)().apply(model, ctx).rewrites
        return Changes(rewrites)


@dataclass(frozen=True)
class Catch:
    """What verification said of a bug.

    Attributes:
        bug: Its name.
        caught: Whether it failed.
        named: Whether it named the planted pass.
        message: What it said.
    """

    bug: str
    caught: bool
    named: bool
    message: str


def plant(site: Site, name: str) -> Catch:
    """Plant one bug among good passes."""
    before = [passes.find(each)() for each in ("eliminate-dead", "dedup-initializers")]
    after = [passes.find(each)() for each in ("fuse-conv-bn", "fuse-matmul-add", "merge-cast", "eliminate-dead")]
    planted = Planted(bug=name)
    message = site.check([*before, planted, *after])
    return Catch(name, message is not None, f"the pass {planted} " in (message or ""), message or "")


def names() -> list[str]:
    """All bugs."""
    return [*BUGS, *REACH]


def campaign(chosen: Sequence[str]) -> list[Catch]:
    """Plant each of the bugs called `chosen`.

    Raises:
        AssertionError: Verification fails where nothing is planted.
    """
    with tempfile.TemporaryDirectory(prefix="modelopt-planted-") as folder, Worker() as worker:
        runner = WorkerRunner()
        sites: dict[Callable[[], onnx.ModelProto], Site] = {}
        try:
            return [plant(_site_of(name, sites, Path(folder), runner, worker), name) for name in chosen]
        finally:
            runner.close()


def _site_of(
    name: str, sites: dict[Callable[[], onnx.ModelProto], Site], folder: Path, runner: WorkerRunner, worker: Worker
) -> Site:
    """The site of a bug, made once for all bugs in the same model, after a check that nothing is wrong there yet."""
    make = zoo if name in BUGS else REACH[name].model
    if make not in sites:
        sites[make] = Site(make(), folder / str(len(sites)) / "model.onnx", runner, worker)
        honest = [passes.find(each)() for each in ("eliminate-dead", "fuse-conv-bn", "fuse-conv-affine", "merge-cast")]
        alarm = sites[make].check(honest)
        if alarm is not None:
            raise AssertionError(f"a false alarm: {alarm}")
    return sites[make]


def main() -> int:
    """Run the campaign and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bugs", nargs="*", default=names())
    found = campaign(parser.parse_args().bugs)
    for catch in found:
        state = "named" if catch.named else "caught, another named" if catch.caught else "ESCAPED"
        print(f"{catch.bug:<34}{state:<24}{catch.message[:110]}")
    share_ = sum(catch.named for catch in found) / len(found)
    print(
        f"{len(found)} bugs, {sum(c.caught for c in found)} caught, {sum(c.named for c in found)} named: {share_:.1%}"
    )
    return 0 if share_ >= 0.98 else 1


if __name__ == "__main__":
    sys.exit(main())
