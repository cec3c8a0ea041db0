"""Products x · f(x) behind convolutions: which compute in int8, and which stay in float."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static.activation_params import ActivationType
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.between_convolutions import EVERYWHERE, between, feeds, quantized
from tests.quant_tools import context, kernels, op_types, relative_error, run

EXCITED = "e = Conv (p, w)  r = Sigmoid (e)  s = Mul (e, r)  f = Conv (s, w)"


@pytest.mark.parametrize(
    ("body", "integers", "floats"),
    [
        ("g = Sigmoid (u)  v = Mul (u, g)", {"QLinearSigmoid": 1, "QLinearMul": 1, "QLinearConv": 2}, {}),
        (
            "g = HardSigmoid <alpha = 0.1667, beta = 0.5> (u)  v = Mul (u, g)",
            {"QLinearAdd": 1, "QLinearMul": 1, "QLinearConv": 2},
            {},
        ),
        ("v = HardSwish (u)", {"QLinearAdd": 1, "QLinearMul": 1, "QLinearConv": 2}, {}),
        (
            f"p = GlobalAveragePool (u)  {EXCITED}  g = Sigmoid (f)  v = Mul (g, u)",
            {"QLinearGlobalAveragePool": 1, "QLinearMul": 1, "QLinearConv": 2},
            {"Conv": 2},
        ),
        (
            f"p = ReduceMax <axes = [2, 3]> (u)  {EXCITED}  g = HardSigmoid (f)  v = Mul (u, g)",
            {"ReduceMax": 1, "QLinearMul": 1, "QLinearConv": 2},
            {"Conv": 2},
        ),
    ],
    ids=["SiLU", "hardswish", "HardSwish", "squeeze-and-excite", "with other operators"],
)
def test_a_gate_of_a_convolution_in_int8_multiplies_in_int8(
    runner: WorkerRunner,
    tmp_path: Path,
    body: str,
    integers: dict[str, int],
    floats: dict[str, int],
) -> None:
    net, plain = between(body), between(body)
    quantized(net, runner, QuantizeStatic(everywhere=True, activation=ActivationType.U8))
    ran = kernels(net, tmp_path)
    wanted = integers | floats
    assert {name: ran[name] for name in wanted} == wanted
    assert ran["Mul"] == 0
    assert ran["QuantizeLinear"] == ran["DequantizeLinear"] == (2 if floats else 1)
    assert relative_error(run(plain, feeds()[0])[0], run(net, feeds()[0])[0]) < 0.06


@pytest.mark.parametrize(
    "body",
    [
        "g = Sigmoid (x)  v = Mul (x, g)",
        "t = Tanh (u)  g = Sigmoid (t)  v = Mul (t, g)",
        "d = MatMul (u, square)  g = Sigmoid (d)  v = Mul (d, g)",
        "d = MatMul (u, square)  v = HardSwish (d)",
        "d = MatMul (u, square)  g = Mul (d, third)  v = Mul (g, d)",
        "p = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (u)  g = HardSigmoid (p)  v = Mul (u, g)",
    ],
    ids=["of an input", "of a float", "of a product", "HardSwish", "a number", "of the size of what it multiplies"],
)
def test_a_gate_that_would_be_quantized_for_the_product_alone_stays_float(
    runner: WorkerRunner, tmp_path: Path, body: str
) -> None:
    net = between(body)
    quantized(net, runner)
    ran = kernels(net, tmp_path)
    assert (ran["QLinearMul"], ran["QLinearSigmoid"]) == (0, 0)
    assert ran["QLinearConv"] >= 1


@pytest.mark.parametrize("gate", ["Sigmoid", "HardSigmoid"])
def test_an_activation_stays_whole_for_tensorrt(runner: WorkerRunner, gate: str) -> None:
    net = between(f"g = {gate} (u)  v = Mul (u, g)")
    EVERYWHERE.apply(net, context(runner, feeds(), target="tensorrt"))
    node = next(node for node in net.graph if node.op_type == gate)
    assert [use.node.op_type for use in node.outputs[0].uses()] == ["Mul"]


def test_an_excluded_hardswish_stays_as_it_is(runner: WorkerRunner) -> None:
    net = between("v = HardSwish (u)")
    quantized(net, runner, QuantizeStatic(everywhere=True, exclude=("op:HardSwish",)))
    assert op_types(net)["HardSwish"] == 1
