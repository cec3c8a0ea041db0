"""Bounds hold for what onnxruntime computes, and are not wider than they need be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.pruning import interval_rules
from modelopt.pruning.interval_functions import BINARY, UNARY
from modelopt.pruning.interval_sums import unread, weighted_sums
from modelopt.pruning.value_intervals import Bounds, value_bounds
from tests.fusion_tools import run
from tests.pruning.dead_channel_cases import Planted

EPSILON = float(np.finfo(np.float32).eps)
RANGES = [(-6.0, 6.0), (-2.0, -0.5), (0.25, 3.0), (-0.5, 0.125), (1.5, 1.5)]


def bounds(model: ir.Model, name: str) -> Bounds:
    """The bounds of a value, which must have some."""
    (value,) = (out for node in model.graph for out in node.outputs if out.name == name)
    return value_bounds(model, interval_rules.RULES)[value]


def clipped(op_type: str, second: np.ndarray | None = None, domain: str = "") -> ir.Model:
    """x between stored ends, then an operator: values ``c`` and ``y`` of shape (5, 801), with bounds along axis 0."""
    ends = [np.array([[pair[end]] for pair in RANGES], np.float32) for end in (0, 1)]
    stored = {"low": ends[0], "high": ends[1]} | ({} if second is None else {"s": second})
    nodes = [
        helper.make_node("Max", ["x", "low"], ["m"]),
        helper.make_node("Min", ["m", "high"], ["c"]),
        helper.make_node(op_type, ["c"] if second is None else ["c", "s"], ["y"], domain=domain),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [5, 801]) for name in ("x", "y", "m", "c")]
    graph = helper.make_graph(nodes, "g", info[:1], info[1:2], [], value_info=info[2:])
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in stored.items())
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def assert_holds(model: ir.Model, tightness: float) -> None:
    """No output is outside, and the bounds are at most `tightness` times as wide as the outputs."""
    x = np.broadcast_to(np.linspace(-7, 7, 801, dtype=np.float32), (5, 801))
    (y,) = run(model, {"x": x})
    found = bounds(model, "y")
    low, high = (np.broadcast_to(end, 5) for end in found.range)
    is_point = low == high
    np.testing.assert_array_equal(is_point, np.ptp(y, axis=1) == 0)
    np.testing.assert_allclose(y[is_point, 0], low[is_point], rtol=1e-5, atol=1e-6)
    assert (y.min(1) >= low)[~is_point].all()
    assert (y.max(1) <= high)[~is_point].all()
    assert (high - low <= tightness * np.ptp(y, axis=1) + 0.5).all()


@pytest.mark.parametrize(("domain", "op_type"), [each for each in UNARY if each[1] not in {"Cast", "Clip"}])
def test_functions(domain: str, op_type: str) -> None:
    assert_holds(clipped(op_type, domain=domain), 1.1)


@pytest.mark.parametrize("op_type", [op_type for op_type in BINARY if op_type not in {"Sum", "Pow"}])
def test_operators_with_stored_operands(op_type: str) -> None:
    second = np.array([[2], [-1.5], [0.5], [-3], [0.25]], np.float32)
    assert_holds(clipped(op_type, second), 2.1)


@pytest.mark.parametrize("power", [2, 3])
def test_powers(power: int) -> None:
    assert_holds(clipped("Pow", np.array(power, np.float32)), 2.1)


def test_a_divisor_around_zero_leaves_no_bounds() -> None:
    model = clipped("Reciprocal")
    assert model.graph[-1].outputs[0] not in value_bounds(model, interval_rules.RULES)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("openness", [0.0, 0.1, 1.0])
def test_sums_hold(groups: int, openness: float) -> None:
    """Random inputs within bounds that are open at random, constants among them."""
    rng = np.random.default_rng(groups)
    weight = rng.standard_normal((24, 40, 3)) * (rng.random((24, 40, 3)) < 0.3)
    weight[0], weight[9], weight[17] = 0, np.abs(weight[9]), -np.abs(weight[17])
    low = rng.standard_normal((groups, 40))
    high = low + rng.random((groups, 40)) * (rng.random((groups, 40)) < 0.5)
    inputs = rng.uniform(low, high, (50, groups, 40))
    low[rng.random(low.shape) < openness] = -np.inf if openness < 1 else low.min()
    high[rng.random(high.shape) < openness] = np.inf
    bias = rng.standard_normal(24)
    found = weighted_sums(weight.astype(np.float32), low, high, (bias, bias), EPSILON)
    rows = inputs[:, np.arange(24) // (24 // groups)]
    sums = np.einsum("rik,nri->nr", weight.astype(np.float32), rows.astype(np.float32)) + bias
    assert (sums >= found[0] - 1e-5).all()
    assert (sums <= found[1] + 1e-5).all()
    assert found[0][0] == found[1][0] == bias[0]
    if openness == 1:
        assert np.isposinf(found[1][9])
        assert np.isfinite(found[1][17])
        assert np.isneginf(found[0][17])


def test_a_row_of_constants_is_a_constant() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 600, 1)).astype(np.float32)
    numbers = np.random.default_rng(1).standard_normal((1, 600))
    low, high = weighted_sums(weight, numbers, numbers, (np.zeros(4), np.zeros(4)), EPSILON)
    np.testing.assert_array_equal(low, high)
    np.testing.assert_allclose(low, weight[:, :, 0] @ numbers[0])


@pytest.mark.parametrize("at", [0, 1, 250, 599])
def test_one_weight_is_found_wherever_it_is(at: int) -> None:
    """Samples of the weights decide nothing where all that they see is zero."""
    weight = np.zeros((600, 600, 1), np.float32)
    weight[at, at] = 1
    assert np.flatnonzero(~unread(weight)).tolist() == [at]
    open_ends = np.full((1, 600), np.inf)
    low, high = weighted_sums(weight, -open_ends, open_ends, (np.zeros(600), np.zeros(600)), EPSILON)
    assert np.flatnonzero(np.isinf(low) & np.isinf(high)).tolist() == [at]


def test_weights_of_nan_leave_no_bounds() -> None:
    weight = np.array([[[np.nan]], [[1.0]]], np.float32)
    net = Planted(shape=(2, 1))
    net.op("MatMul", net.op("Sigmoid", "x"), net.stored(weight[:, 0].T))
    model = ir.from_proto(net.model("v1"))
    for node in model.graph:
        node.outputs[0].shape, node.outputs[0].type = ir.Shape([2, 2]), ir.TensorType(ir.DataType.FLOAT)
    found = bounds(model, "v1")
    assert np.isinf([found.low[0], found.high[0]]).all()
    assert 1 <= found.high[1] < 1.001


@pytest.mark.parametrize(
    ("op_type", "attributes", "axis", "size"),
    [
        ("Transpose", {"perm": [1, 0, 2, 3]}, 0, 4),
        ("Flatten", {}, 1, 100),
        ("MaxPool", {"kernel_shape": [2, 2]}, 1, 4),
        ("GlobalAveragePool", {}, 1, 4),
        ("ReduceMax", {}, None, 1),
        ("InstanceNormalization", {}, 1, 4),
        ("DepthToSpace", {"blocksize": 2}, None, 0),
    ],
)
def test_the_axis_of_the_bounds(op_type: str, attributes: dict[str, object], axis: int | None, size: int) -> None:
    """What is constant along channels stays so behind operators that move or summarize elements."""
    net = Planted(shape=(1, 3, 5, 5))
    x = net.op("Relu", net.conv("x", (3, 4), zero=(1, 2)))
    more = [net.stored(np.array([1, 0, 2, 3], np.float32))] * 2 if op_type == "InstanceNormalization" else []
    name = net.op(op_type, x, *more, **attributes)
    model = ir.from_proto(net.model(name))
    for node in model.graph:
        node.outputs[0].shape = ir.Shape([1, 100] if node.op_type == "Flatten" else [1, 4, 5, 5])
    if not size:
        assert model.graph[-2].outputs[0] not in value_bounds(model, interval_rules.RULES)
        return
    found = bounds(model, name)
    assert (found.axis, len(found.low)) == (axis, size)
    constants = np.count_nonzero(found.low == found.high)
    assert constants == {"ReduceMax": 0, "InstanceNormalization": 1}.get(op_type, size // 2)
