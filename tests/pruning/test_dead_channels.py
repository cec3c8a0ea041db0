"""Planted dead channels of every kind go, near misses stay, and the outputs stay the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt.calibration.context import Context
from modelopt.core.errors import InputError
from modelopt.passes.prune_dead_channels import PruneDeadChannels
from tests.fusion_tools import run
from tests.pruning.dead_channel_cases import CASES, Planted

ACTIVATIONS = (
    *("Relu", "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Gelu", "Softplus", "Elu", "Selu", "LeakyRelu"),
    *("Mish", "Erf", "Exp", "Abs", "Neg", "Celu"),
)


def removed(model: onnx.ModelProto, context: Context, shape: tuple[int, ...], align: int = 1) -> int:
    """How many channels go; the outputs must be equal, and a second run must change nothing."""
    onnx.checker.check_model(model, full_check=True)
    pruned, one = ir.from_proto(model), PruneDeadChannels(align=align)
    changes = one.apply(pruned, context)
    assert one.apply(pruned, context).rewrites == 0
    onnx.checker.check_model(ir.to_proto(pruned), full_check=True)
    rng = np.random.default_rng(9)
    for scale in (1, 8):
        feeds = {"x": (scale * rng.standard_normal(shape)).astype(np.float32)}
        (before,), (after,) = run(ir.from_proto(model), feeds), run(pruned, feeds)
        np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(before).max())))
    return changes.rewrites


@pytest.mark.parametrize("name", CASES)
def test_planted(name: str, context: Context) -> None:
    dead, shape, build = CASES[name]
    net = Planted(seed=3, shape=shape)
    assert removed(net.model(build(net)), context, shape) == dead


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_number_behind_an_activation_goes_into_the_next_bias(activation: str, context: Context) -> None:
    net = Planted()
    x = net.op(activation, net.conv("x", (3, 5), zero=(1,), bias=-0.7))
    assert removed(net.model(net.conv(x, (5, 2), 3)), context, net.shape) == 1


@pytest.mark.parametrize(("dead", "gone"), [(15, 0), (16, 16), (20, 16), (48, 32)])
def test_widths_stay_multiples_of_what_kernels_like(dead: int, gone: int, context: Context) -> None:
    """Of 48 channels 32 or 16 stay, also where all are dead."""
    net = Planted()
    x = net.conv("x", (3, 48), zero=range(dead))
    assert removed(net.model(net.conv(x, (48, 2), 3)), context, net.shape, align=16) == gone


@pytest.mark.parametrize("seed", range(25))
def test_random_nets_with_planted_zeros(seed: int, context: Context) -> None:
    """Layers at random, each with zero filters, closed activations and zero weights at random."""
    net = Planted(seed=seed)
    rng, x, width = net.rng, "x", 3
    for _ in range(int(rng.integers(2, 6))):
        made = int(rng.integers(2, 7))
        kind = rng.choice(["conv", "depthwise", "residual", "concat"])
        zero = rng.permutation(made)[: rng.integers(0, made)].tolist()
        pad = int(rng.integers(0, 2))
        first = net.conv(x, (width, made), 1 + 2 * pad, zero, float(rng.choice([-1, 0, 1])), pads=[pad] * 4)
        if kind == "depthwise":
            first = net.conv(first, (made, made), 3, zero[:1], group=made, pads=[1] * 4)
        if kind in {"residual", "concat"}:
            second = net.op("Clip", net.conv(x, (width, made), 1, zero[1:]))
            first = net.op("Add", first, second) if kind == "residual" else net.op("Concat", first, second, axis=1)
            made *= 1 if kind == "residual" else 2
        x, width = net.op(str(rng.choice(["Relu", "Sigmoid", "HardSwish", "Identity"])), first), made
    x = net.conv(x, (width, 2))
    net.weights[f"w{len(net.weights) - 2}"][:, : width // 2] *= rng.integers(0, 2)
    removed(net.model(x), context, net.shape, align=int(rng.choice([1, 4])))


def test_half_precision_bounds_are_wider(context: Context) -> None:
    """What float32 proves to be negative may be positive in float16."""
    net = Planted(shape=(2, 6))
    x = net.op("Sigmoid", "x")
    weight, bias = np.full((6, 3), 0.1, np.float32), np.array([0, -0.601, 0], np.float32)
    x = net.op("Relu", net.op("Gemm", x, net.stored(weight), net.stored(bias)))
    model = net.model(net.gemm(x, (3, 2)))
    assert removed(model, context, net.shape) == 1
    half = ir.from_proto(model)
    for value in half.graph.initializers.values():
        assert value.const_value is not None
        value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    half.graph.inputs[0].type = half.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT16)
    assert PruneDeadChannels(align=1).apply(half, context).rewrites == 0


def test_a_bias_that_would_overflow_stays(context: Context) -> None:
    net = Planted(shape=(2, 6))
    x = net.gemm("x", (6, 3), zero=(1,), bias=1e30)
    y = net.gemm(x, (3, 2))
    found = ir.from_proto(net.model(y))
    changes = PruneDeadChannels(align=1).apply(found, context)
    assert changes.rewrites == 0
    assert any("does not hold a bias" in skip.reason for skip in changes.skipped)


def test_channels_that_meet_a_vector(context: Context) -> None:
    """Constants stay there: nothing is added to the product that could take their share. Those before it go."""
    net = Planted(shape=(2, 6))
    x = net.op("Relu", net.gemm("x", (6, 4), zero=(1, 2)))
    x = net.op("Relu", net.gemm(x, (4, 5), zero=(3,)))
    np.abs(net.weights["w2"], out=net.weights["w2"])  # so that no Relu is closed
    model = net.model(net.op("MatMul", x, net.stored(np.ones(5, np.float32))))
    assert removed(model, context, net.shape) == 2


def test_weights_that_do_not_fit_are_left_to_the_runtime(context: Context) -> None:
    """onnx's inference does not compare the channels of a convolution with those of its input."""
    net = Planted()
    found = ir.from_proto(net.model(net.conv(net.conv("x", (3, 5), zero=(1,)), (7, 2))))
    assert PruneDeadChannels(align=1).apply(found, context).rewrites == 0


def test_a_wrong_option_is_refused() -> None:
    with pytest.raises(InputError, match="align 0 is below 1"):
        PruneDeadChannels(align=0)
