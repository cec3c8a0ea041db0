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
from modelopt.quant.static.plan import SelectionRules
from modelopt.quant.static.selection import select
from modelopt.runtime import installation
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, kernels, model, op_types, random_feeds, relative_error, run

EVERYWHERE = QuantizeStatic(everywhere=True)
NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,3,12,12] x) => (float[n,5] y)
{
  c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  r1 = Relu (c1)
  c2 = Conv <pads = [1,1,1,1], group = 16> (r1, w2, b2)
  r2 = Clip (c2, zero, six)
  c3 = Conv (r2, w3, b1)
  sum = Add (c3, r1)
  r3 = Relu (sum)
  pool = MaxPool <kernel_shape = [2,2], strides = [2,2]> (r3)
  mean = GlobalAveragePool (pool)
  flat = Flatten (mean)
  y = Gemm <transB = 1> (flat, w4, b4)
}
"""


def net(text: str = NET) -> ir.Model:
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray:
        return np.asarray(rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:])), np.float32)

    return model(
        text,
        w1=normal(16, 3, 3, 3),
        b1=normal(16),
        w2=normal(16, 1, 3, 3),
        b2=normal(16),
        w3=normal(16, 16, 1, 1),
        w4=normal(5, 16),
        b4=normal(5),
        zero=np.zeros((), np.float32),
        six=np.full((), 6, np.float32),
    )


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


def test_nan_and_masks_are_skipped_with_the_reason(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,2] x) => (float[1,2] y, float[1,2] z, float[1,2] u)
    <float zero = {0}, float mask = {-3.4e38}>
    {
      broken = Div (x, zero)  y = MatMul (broken, w)
      masked = Max (x, x)  low = Add (masked, mask)  z = MatMul (low, w)
      u = MatMul (x, w)
    }
    """
    quantized = model(text, w=np.eye(2, dtype=np.float32))
    changes = EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 2)))
    assert changes.rewrites == 1
    reasons = {skip.reason for skip in changes.skipped}
    assert any("broken held" in reason and "infinities" in reason for reason in reasons)
    assert any("low holds a mask" in reason for reason in reasons)
    assert changes.facts["tensors_skipped"] == 2


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


def test_hardswish_stays_whole(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,6,6] x) => (float[1,4,6,6] y)
    <float three = {3}, float zero = {0}, float six = {6}>
    {
      c = Conv (x, w)  shifted = Add (c, three)  clipped = Clip (shifted, zero, six)
      product = Mul (c, clipped)  h = Div (product, six)  y = Conv (h, w)
    }
    """
    quantized = model(text, w=np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32))
    EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 4, 6, 6)))
    inside = [node for node in quantized.graph if node.op_type in {"Add", "Clip", "Mul", "Div"}]
    for node in inside[1:]:
        assert any(value is not None and value.producer() in inside for value in node.inputs)
    assert op_types(quantized)["QuantizeLinear"] == 4  # x, c, h, y


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


def test_include_and_exclude(runner: WorkerRunner) -> None:
    samples = random_feeds(1, 3, 12, 12)
    only = QuantizeStatic(everywhere=True, include=("op:Gemm",)).apply(net(), context(runner, samples))
    assert only.facts["kernels_quantized"] == 1
    without = QuantizeStatic(everywhere=True, exclude=("re:c[12]",)).apply(net(), context(runner, samples))
    assert without.facts["kernels_quantized"] == 2
    assert {skip.reason for skip in without.skipped if skip.node.startswith("c1")} == {"excluded"}


def test_a_pattern_that_names_nothing_is_refused(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="names no node") as caught:
        QuantizeStatic(exclude=("op:Cov",)).apply(net(), context(runner, random_feeds(1, 3, 12, 12)))
    assert caught.value.hint == "did you mean 'op:Conv'?"


def test_without_data_it_says_what_helps(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="needs calibration data") as caught:
        EVERYWHERE.apply(net(), context(runner))
    assert "--calib" in (caught.value.hint or "")


def test_large_convolutions_between_floats_pay_and_small_ones_do_not(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,C,8,8] x) => (float[1,C,8,8] y)
    { h = HardSwish (x)  c = Conv (h, w)  y = HardSwish (c) }
    """
    paid = {}
    for channels in (8, 512):
        weight = np.ones((channels, channels, 1, 1), np.float32)
        quantized = model(text.replace("C", str(channels), 1).replace(",C,", f",{channels},"), w=weight)
        changes = QuantizeStatic().apply(quantized, context(runner, random_feeds(1, channels, 8, 8, n=2)))
        paid[channels] = changes.rewrites
    assert paid == {8: 0, 512: 1}


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


def test_bodies_stay_float_where_the_runtime_loses_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = """
<ir_version: 8, opset_import: ["" : 17]>
net (bool c, float[n,8] x) => (float[n,8] y)
{
  y = If (c) <
    then_branch = yes () => (float[n,8] a) { a = MatMul (x, w) },
    else_branch = no () => (float[n,8] b) { b = Relu (x) }
  >
}"""
    given = model(branches, w=np.ones((8, 8), np.float32))
    lost = "onnxruntime before 1.31 loses integers that a body reads from outside"
    for keeps in (True, False):
        monkeypatch.setattr(installation, "keeps_captured_integers", lambda keeps=keeps: keeps)
        plan = select(given, SelectionRules())
        assert (lost in [skip.reason for skip in plan.skipped]) is not keeps
        assert bool(plan.choices) is keeps
