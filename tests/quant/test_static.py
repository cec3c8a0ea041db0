"""Static quantization on onnxruntime: what becomes integer, what stays, and what the numbers are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.numerics.range_methods import Method
from modelopt.quant.static.activation_params import ActivationType
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.static_models import NET, net
from tests.quant_tools import context, kernels, model, op_types, random_feeds, relative_error, run

EVERYWHERE = QuantizeStatic(everywhere=True)


@pytest.mark.parametrize("method", list(Method))
def test_a_network_runs_in_integers_alone(runner: WorkerRunner, tmp_path: Path, method: Method) -> None:
    quantized, samples = net(), random_feeds(2, 3, 12, 12)
    changes = QuantizeStatic(everywhere=True, method=method).apply(quantized, context(runner, samples))

    assert changes.rewrites == 8
    assert changes.facts["kernels_quantized"] == 4
    assert invariants.check(quantized) == []
    assert graph.signature(quantized) == graph.signature(net())
    ran = kernels(quantized, tmp_path)
    assert (ran["QLinearConv"], ran["QLinearAdd"], ran["QGemm"]) == (3, 1, 1)
    assert ran["QLinearGlobalAveragePool"] == 1
    assert ran["QuantizeLinear"] == 1
    assert ran["DequantizeLinear"] == ran["Conv"] == ran["Relu"] == ran["Clip"] == 0
    held_out = random_feeds(2, 3, 12, 12, n=7)[-1]
    assert relative_error(run(net(), held_out)[0], run(quantized, held_out)[0]) < 0.08


def test_a_second_run_changes_nothing(runner: WorkerRunner) -> None:
    quantized, ctx = net(), context(runner, random_feeds(1, 3, 12, 12))
    EVERYWHERE.apply(quantized, ctx)
    before = ir.to_onnx_text(quantized)
    again = EVERYWHERE.apply(quantized, ctx)
    assert again.rewrites == 0
    assert "already quantized" in again.skipped[0].reason
    assert ir.to_onnx_text(quantized) == before


def test_the_same_input_gives_the_same_model(runner: WorkerRunner) -> None:
    texts = []
    for _ in range(2):
        quantized = net()
        EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 3, 12, 12)))
        texts.append(ir.to_onnx_text(quantized))
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    ("target", "kind", "zero_point"),
    [("x86-vnni", "UINT8", None), ("x86-avx2", "UINT8", None), ("arm64", "INT8", None), ("tensorrt", "INT8", 0)],
)
def test_each_target_gets_its_types(runner: WorkerRunner, target: str, kind: str, zero_point: int | None) -> None:
    quantized, samples = net(), random_feeds(1, 3, 12, 12)
    changes = EVERYWHERE.apply(quantized, context(runner, samples, target))
    points = [node.inputs[2] for node in quantized.graph if node.op_type == "QuantizeLinear"]
    assert {value.dtype.name for value in points if value and value.dtype} == {kind}
    if zero_point is not None:
        assert {graph.scalar(value) for value in points} == {zero_point}
    assert changes.facts.get("kernels_that_could_saturate") == (0 if target == "x86-avx2" else None)
    for name, value in quantized.graph.initializers.items():
        if name.endswith("_quantized") and name.startswith("w"):
            assert np.abs(graph.constant(value).astype(int)).max() <= 127  # type: ignore[union-attr]
    assert ("b1" in quantized.graph.initializers) == (target == "tensorrt")
    assert relative_error(run(net(), samples[0])[0], run(quantized, samples[0])[0]) < 0.08


def test_unsigned_activations_are_refused_where_there_are_none(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="signed activations only"):
        QuantizeStatic(activation=ActivationType.U8).apply(
            net(), context(runner, random_feeds(1, 3, 12, 12), "tensorrt")
        )


def test_no_float_weight_is_left_behind(runner: WorkerRunner) -> None:
    quantized = net()
    EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 3, 12, 12)))
    assert not {"w1", "w2", "w3", "w4", "b1", "b2", "b4"} & set(quantized.graph.initializers)


def test_a_shared_weight_is_stored_once(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4] x) => (float[1,4] y, float[1,4] z)
    { h = MatMul (x, w)  y = MatMul (h, w)  z = Gemm <transB = 1> (x, w) }
    """
    weight = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    quantized, samples = model(text, w=weight), random_feeds(1, 4)
    EVERYWHERE.apply(quantized, context(runner, samples))
    stored = [v for v in quantized.graph.initializers.values() if graph.static_shape(v) == (4, 4)]
    assert [value.dtype for value in stored] == [ir.DataType.INT8]
    (reader,) = {use.node for use in stored[0].uses()}
    assert graph.static_shape(reader.inputs[1]) == ()  # rows for one reader, columns for the other: one scale
    for reference, candidate in zip(run(model(text, w=weight), samples[0]), run(quantized, samples[0]), strict=True):
        assert relative_error(reference, candidate) < 0.05


def test_a_weight_in_a_constant_node_is_quantized(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,2] x) => (float[1,2] y)
    { w = Constant <value = float[2,2] {1, 2, 3, 4}> ()  y = MatMul (x, w) }
    """
    quantized = model(text)
    EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 2)))
    assert op_types(quantized)["Constant"] == 0
    assert any(value.dtype == ir.DataType.INT8 for value in quantized.graph.initializers.values())


@pytest.mark.parametrize("version", [11, 12])
def test_an_old_opset_is_upgraded(runner: WorkerRunner, tmp_path: Path, version: int) -> None:
    old = net(NET.replace('"" : 17', f'"" : {version}'))
    samples = random_feeds(1, 3, 12, 12)
    reference = run(old, samples[0])[0]
    EVERYWHERE.apply(old, context(runner, samples))
    assert graph.opset(old) >= 13
    assert kernels(old, tmp_path)["QLinearConv"] == 3
    assert relative_error(reference, run(old, samples[0])[0]) < 0.08


def test_an_old_opset_stays_when_nothing_pays(runner: WorkerRunner) -> None:
    old = net(NET.replace('"" : 17', '"" : 11'))
    before = ir.to_onnx_text(old)
    changes = QuantizeStatic(include=("op:Conv",)).apply(old, context(runner, random_feeds(1, 3, 12, 12)))
    assert changes.rewrites == 0
    assert ir.to_onnx_text(old) == before
    assert any("save less" in skip.reason for skip in changes.skipped)


def test_outputs_keep_their_names_and_readers(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,6,6] x) => (float[1,4,6,6] a, float[1,4,6,6] b)
    { a = Conv (x, w)  b = Conv (a, w) }
    """
    weight = np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32)
    quantized, samples = model(text, w=weight), random_feeds(1, 4, 6, 6)
    EVERYWHERE.apply(quantized, context(runner, samples))
    assert [value.name for value in quantized.graph.outputs] == ["a", "b"]
    for reference, candidate in zip(run(model(text, w=weight), samples[0]), run(quantized, samples[0]), strict=True):
        assert relative_error(reference, candidate) < 0.05


def test_samples_may_differ_in_shape(runner: WorkerRunner) -> None:
    quantized = net()
    samples = [*random_feeds(1, 3, 12, 12, n=1), *random_feeds(4, 3, 12, 12, n=1)]
    assert EVERYWHERE.apply(quantized, context(runner, samples)).facts["samples"] == 2


def test_without_data_it_says_what_helps(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="needs calibration data") as caught:
        EVERYWHERE.apply(net(), context(runner))
    assert "--calib" in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("shape", "body", "weight"),
    [
        ((1, 4, 9), "y = Conv <pads = [1,1]> (x, w)", (6, 4, 3)),
        ((1, 4, 5, 5), "y = Conv <group = 2> (x, w)", (6, 2, 3, 3)),
        ((1, 4, 4, 4, 4), "y = Conv (x, w)", (2, 4, 2, 2, 2)),
        ((3, 4), "y = Gemm (x, w)", (4, 6)),
        ((2, 3, 4), "y = MatMul (x, w)", (4, 6)),
        ((2, 3, 4), "y = MatMul (x, w)", (2, 4, 6)),
        ((4,), "y = MatMul (x, w)", (4, 6)),
        ((1, 4, 6, 6), "c = Conv (x, w)  l = LeakyRelu (c)  y = Conv (l, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  l = Clip (c)  y = Conv (l, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  d = Conv (c, w)  k = Concat <axis = 0> (c, d)  y = Conv (k, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  t = Transpose <perm = [0,1,3,2]> (c)  y = Conv (t, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  s = Mul (c, c)  y = Conv (s, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  a = AveragePool <kernel_shape = [2,2]> (c)  y = Conv (a, w)", (4, 4, 1, 1)),
        ((1, 4, 6, 6), "c = Conv (x, w)  s = Sigmoid (c)  y = Conv (s, w)", (4, 4, 1, 1)),
    ],
)
def test_forms(runner: WorkerRunner, shape: tuple[int, ...], body: str, weight: tuple[int, ...]) -> None:
    dims = ",".join(str(n) for n in shape)
    free = ",".join("abcde"[: len(shape)])
    text = f'<ir_version: 8, opset_import: ["" : 17]> net (float[{dims}] x) => (float[{free}] y) {{ {body} }}'
    array = np.random.default_rng(0).standard_normal(weight).astype(np.float32)
    float_model, quantized, samples = model(text, w=array), model(text, w=array), random_feeds(*shape)
    assert EVERYWHERE.apply(quantized, context(runner, samples)).rewrites > 0
    assert relative_error(run(float_model, samples[0])[0], run(quantized, samples[0])[0]) < 0.06


def test_unfolded_batchnorms_are_counted(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,6,6] x) => (float[1,4,6,6] y)
    { c = Conv (x, w)  y = BatchNormalization (c, ones, ones, ones, ones) }
    """
    quantized = model(text, w=np.ones((4, 4, 1, 1), np.float32), ones=np.ones(4, np.float32))
    changes = EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 4, 6, 6)))
    assert changes.facts["batchnorms_between"] == 1
