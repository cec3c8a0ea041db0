"""What follows kernels into int8, what does not, tables, and scaled products: on onnxruntime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantFormat, QuantizeStatic
from modelopt.quant.numerics.range_methods import Method
from modelopt.quant.numerics.weight_range import WeightRange
from modelopt.quant.static.activation_params import ActivationType
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.between_convolutions import EVERYWHERE, between, feeds, quantized
from tests.quant_tools import context, kernels, model, op_types, relative_error, run

MOVED = [
    ("Resize", 'v = Resize <mode = "nearest"> (u, , by)'),
    ("Expand", "m = ReduceMax <axes = [2, 3]> (u)  v = Expand (m, two)"),
    ("ReduceMin", "v = ReduceMin <axes = [2, 3]> (u)"),
    ("Tile", "v = Tile (u, two)"),
    ("DepthToSpace", "t = Tile (u, chans)  v = DepthToSpace <blocksize = 2> (t)"),
    ("Gather", "t = Gather <axis = 2> (u, rows)  v = Gather <axis = 3> (t, rows)"),
    ("GatherElements", "v = GatherElements <axis = 1> (u, places)"),
    ("Split", "l, r = Split <axis = 2> (u)  v = Concat <axis = 2> (r, l)"),
]


@pytest.mark.parametrize("activation", [ActivationType.U8, ActivationType.S8])
@pytest.mark.parametrize(("op_type", "body"), MOVED, ids=[op_type for op_type, _ in MOVED])
def test_what_only_moves_numbers_moves_integers(
    runner: WorkerRunner, tmp_path: Path, op_type: str, body: str, activation: ActivationType
) -> None:
    net, plain = (between(body) for _ in range(2))
    quantized(net, runner, QuantizeStatic(everywhere=True, activation=activation))
    ran = kernels(net, tmp_path)
    assert ran[op_type] >= 1
    assert (ran["QuantizeLinear"], ran["DequantizeLinear"], ran["QLinearConv"]) == (1, 1, 2)
    assert relative_error(run(plain, feeds()[0])[0], run(net, feeds()[0])[0]) < 0.06


@pytest.mark.parametrize(
    ("kernel", "body"),
    [
        ("QLinearWhere", "n = Sigmoid (u)  some = Greater (x, small)  v = Where (some, u, n)"),
        ("QLinearSoftmax", "v = Softmax <axis = 1> (u)"),
        ("QLinearSigmoid", "v = Sigmoid (u)"),
        ("QLinearLeakyRelu", "v = LeakyRelu (u)"),
        ("QLinearGlobalAveragePool", "v = GlobalAveragePool (u)"),
        ("QLinearAdd", "v = HardSigmoid <alpha = 0.3> (u)"),
        ("QLinearAdd", "v = Add (third, u)"),
        ("QLinearAdd", "v = Add (u, zero)"),
        ("QLinearMul", "v = Mul (u, third)"),
    ],
)
def test_what_has_an_integer_kernel_uses_it(runner: WorkerRunner, tmp_path: Path, kernel: str, body: str) -> None:
    net, plain = between(body), between(body)
    quantized(net, runner)
    ran = kernels(net, tmp_path)
    assert (ran[kernel], ran["QLinearConv"]) == (1, 2)
    assert relative_error(run(plain, feeds()[0])[0], run(net, feeds()[0])[0]) < 0.06


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ('v = Resize <mode = "linear"> (u, , by)', "onnxruntime interpolates in float"),
        ("v = Pad (u, pads)", "no integer kernel for Pad"),
        ("v = Tanh (u)", "no integer kernel for Tanh"),
        ("v = HardSigmoid <alpha = -1.0> (u)", "its slope is -1"),
        ("v = HardSigmoid <beta = 1.5> (u)", "its value at 0 is 1.5"),
        ("v = ReduceMean <axes = [2, 3]> (u)", "no integer kernel for ReduceMean"),
        ("r = Relu (u)  v = Concat <axis = 0> (r, u)", "no integer kernel for Relu"),
        ("k = Mul (u, big)  s = Conv (k, w)  v = Softmax <axis = 1> (s)", "a step of its input would change"),
    ],
)
def test_what_has_none_stays_float_and_says_so(runner: WorkerRunner, tmp_path: Path, body: str, reason: str) -> None:
    net = between(body)
    changes = quantized(net, runner)
    assert any(reason in skip.reason for skip in changes.skipped), changes.skipped
    assert kernels(net, tmp_path)["QLinearConv"] >= 2


def test_a_relu_fused_to_its_kernel_is_no_refusal(runner: WorkerRunner) -> None:
    assert not quantized(between("v = Relu (u)"), runner).skipped


def test_every_result_of_a_split_is_quantized_alike(runner: WorkerRunner, tmp_path: Path) -> None:
    body = "l, r = Split <axis = 2> (u)  t = Tanh (l)  v = Concat <axis = 2> (r, r)"
    net = between(body)
    changes = quantized(net, runner)
    ran = kernels(net, tmp_path)
    assert (ran["Split"], ran["QLinearConcat"], ran["QLinearConv"]) == (1, 1, 2)
    assert changes.rewrites == 4
    split = next(node for node in net.graph if node.op_type == "Split")
    readers = [next(iter(output.uses())).node for output in split.outputs]
    assert [reader.op_type for reader in readers] == ["QuantizeLinear"] * 2
    assert len({(reader.inputs[1], reader.inputs[2]) for reader in readers}) == 1


TABLE = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[n] ids) => (float[n,32] y, float[n,32] z)
{ y = Gather (table, ids)  z = Gather (table, ids) }
"""
ROWS = np.random.default_rng(3).standard_normal((200, 32)).astype(np.float32) * np.geomspace(
    0.01, 10, 32, dtype=np.float32
)


def test_a_table_is_stored_once_in_int8_with_a_scale_for_each_column(runner: WorkerRunner) -> None:
    net = model(TABLE, table=ROWS)
    ids = {"ids": np.array([0, 5, 199])}
    changes = EVERYWHERE.apply(net, context(runner, [ids]))
    assert changes.facts["tables_quantized"] == 2
    assert [v.dtype for v in net.graph.initializers.values() if v.shape == (200, 32)] == [ir.DataType.INT8]
    assert op_types(net)["QuantizeLinear"] == 0
    for reference, candidate in zip(run(model(TABLE, table=ROWS), ids), run(net, ids), strict=True):
        steps = np.abs(ROWS).max(axis=0) / 127
        assert (np.abs(reference - candidate) <= steps * 0.501).all()
    assert EVERYWHERE.apply(net, context(runner, [ids])).rewrites == 0


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_table_is_looked_up_along_any_axis(runner: WorkerRunner, axis: int) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[2,2] ids) => (float[a,b,c] y) {{ y = Gather <axis = {axis}> (table, ids) }}
    """
    net, ids = model(text, table=ROWS), {"ids": np.array([[0, 5], [-1, 3]])}
    EVERYWHERE.apply(net, context(runner, [ids]))
    assert relative_error(run(model(text, table=ROWS), ids)[0], run(net, ids)[0]) < 0.03


def test_a_table_that_is_also_a_weight_is_stored_once(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n] ids) => (float[n,200] y) { h = Gather (table, ids)  g = Tanh (h)  y = Gemm <transB = 1> (g, table) }
    """
    table = np.random.default_rng(3).standard_normal((200, 32)).astype(np.float32)
    net, ids = model(text, table=table), {"ids": np.arange(20)}
    changes = EVERYWHERE.apply(net, context(runner, [ids]))
    assert (changes.facts["tables_quantized"], changes.facts["kernels_quantized"]) == (1, 1)
    assert [v.dtype for v in net.graph.initializers.values() if v.shape == (200, 32)] == [ir.DataType.INT8]
    assert relative_error(run(model(text, table=table), ids)[0], run(net, ids)[0]) < 0.03


def test_tables_obey_include_and_exclude(runner: WorkerRunner) -> None:
    ids = {"ids": np.array([0, 5])}
    excluded = QuantizeStatic(exclude=("op:Gather",)).apply(model(TABLE, table=ROWS), context(runner, [ids]))
    assert (excluded.rewrites, excluded.skipped[0].reason) == (0, "excluded")


GEMM = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[5,8] x) => (float[5,6] y, float[5,6] z)
{ y = Gemm <alpha = 0.25, beta = 3.0> (x, w, b)  z = Gemm (x, w, b) }
"""


def test_alpha_and_beta_go_into_the_constants(runner: WorkerRunner, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    constants = {"w": rng.standard_normal((8, 6)).astype(np.float32), "b": rng.standard_normal(6).astype(np.float32)}
    net, samples = model(GEMM, **constants), [{"x": rng.standard_normal((5, 8)).astype(np.float32)} for _ in range(4)]
    assert EVERYWHERE.apply(net, context(runner, samples)).facts["kernels_quantized"] == 2
    assert kernels(net, tmp_path)["QGemm"] == 2
    assert not {"w", "b"} & set(net.graph.initializers)
    for reference, candidate in zip(run(model(GEMM, **constants), samples[0]), run(net, samples[0]), strict=True):
        assert relative_error(reference, candidate) < 0.03


def test_dynamic_quantization_still_refuses_them(runner: WorkerRunner) -> None:
    constants = {"w": np.ones((8, 6), np.float32), "b": np.ones(6, np.float32)}
    changes = QuantizeDynamic(everywhere=True).apply(model(GEMM, **constants), context(runner))
    assert "alpha or beta is not 1" in {skip.reason for skip in changes.skipped}


def test_weight_ranges_by_search_are_nearer(runner: WorkerRunner) -> None:
    rng = np.random.default_rng(5)
    weight = np.clip(rng.standard_normal((3000, 4)), -3, 3).astype(np.float32)
    weight[0] = 5
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[2,3000] x) => (float[2,4] y) { y = MatMul (x, w) }'
    samples = [{"x": rng.standard_normal((2, 3000)).astype(np.float32)} for _ in range(4)]
    distance = {}
    for weight_range in WeightRange:
        net = model(text, w=weight)
        changes = QuantizeStatic(everywhere=True, weight_range=weight_range).apply(net, context(runner, samples))
        stored = next(node for node in net.graph if node.inputs[0] and node.inputs[0].name == "w_quantized")
        integers, scale = (graph.constant(stored.inputs[i]) for i in (0, 1))
        assert integers is not None
        assert scale is not None
        distance[weight_range] = np.square(integers * scale - weight).sum()
        assert ("mse" in str(changes.facts["weights"])) == (weight_range is WeightRange.MSE)
    assert distance[WeightRange.MSE] < distance[WeightRange.MAX]


@pytest.mark.parametrize(("activation", "kind"), [(ActivationType.U16, "UINT16"), (ActivationType.S16, "INT16")])
def test_activations_of_16_bits_load_and_are_nearer(
    runner: WorkerRunner, activation: ActivationType, kind: str
) -> None:
    body = "p = MaxPool <kernel_shape = [1, 1]> (u)  s = Add (p, u)  v = Relu (s)"
    errors = {}
    for one in (ActivationType.U8, activation):
        net = between(body)
        quantized(net, runner, QuantizeStatic(everywhere=True, activation=one, method=Method.MINMAX))
        errors[one] = relative_error(run(between(body), feeds()[0])[0], run(net, feeds()[0])[0])
    assert graph.opset(net) == 21
    points = [node.inputs[2] for node in net.graph if node.op_type == "QuantizeLinear"]
    assert {value.dtype.name for value in points if value is not None and value.dtype is not None} == {kind}
    assert errors[activation] < 0.8 * errors[ActivationType.U8]


def test_activations_of_16_bits_are_for_other_runtimes(runner: WorkerRunner) -> None:
    changes = quantized(between("v = Relu (u)"), runner, QuantizeStatic(activation=ActivationType.U16))
    assert changes.rewrites == 0
    assert "in float: the model would be slower here" in changes.skipped[0].reason
    with pytest.raises(InputError, match="8-bit signed activations only"):
        QuantizeStatic(everywhere=True, activation=ActivationType.S16).apply(
            between("v = Relu (u)"), context(runner, feeds(), "tensorrt")
        )


def test_operators_of_8_bits_do_not_take_16(runner: WorkerRunner) -> None:
    net = between("v = Relu (u)")
    changes = quantized(
        net, runner, QuantizeStatic(everywhere=True, activation=ActivationType.S16, format=QuantFormat.QOPERATOR)
    )
    assert changes.facts["qoperators"] == 0
    assert any("QLinearConv makes 8 bits, not 16" in skip.reason for skip in changes.skipped)
    run(net, feeds()[0])
