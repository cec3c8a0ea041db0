"""Weights in few bits: the forms on onnxruntime, and storage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.passes.store_weights import StoreWeights
from modelopt.quant.numerics import blocks
from modelopt.quant.numerics.blocks import BlockGrid
from modelopt.quant.weight_only import storage
from modelopt.quant.weight_only.rounding import BlockRounding
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import both_branches, context, kernels, model, op_types, relative_error, run

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((48, 40)).astype(np.float32)
FEEDS = {"x": RNG.standard_normal((3, 48)).astype(np.float32)}


PRODUCT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,48] x) => (float[n,40] y)
{ y = MatMul (x, w) }
"""


# The forms on onnxruntime


@pytest.mark.parametrize(
    ("form", "bits"),
    [*((WeightFormat.MATMULNBITS, bits) for bits in (2, 4, 8)), (WeightFormat.BLOCKED, 4), (WeightFormat.BLOCKED, 8)],
)
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_form_computes_with_the_dequantized_weight(
    runner: WorkerRunner, form: WeightFormat, bits: int, symmetric: bool
) -> None:
    in_int8 = False if form is WeightFormat.MATMULNBITS else None
    result = model(PRODUCT, w=WEIGHT)
    kind = QuantizeWeights(bits=bits, form=form, symmetric=symmetric, block_size=32, clip=False, int8_compute=in_int8)
    assert kind.apply(result, context(runner)).rewrites == 1
    assert invariants.check(result) == []
    grid = BlockGrid(bits, 32, symmetric)
    params = blocks.params_of(WEIGHT.T, grid)
    expected = FEEDS["x"] @ blocks.dequantize(blocks.quantize(WEIGHT.T, params, grid), params, grid).T
    tolerance = 1e-5 if form is WeightFormat.MATMULNBITS else 0.02  # onnxruntime computes the blocked form in int8
    assert relative_error(expected, run(result, FEEDS)[0]) < tolerance
    again = kind.apply(result, context(runner))
    assert again.rewrites == 0
    assert [skip.reason for skip in again.skipped] == ["its weight is quantized already"]


def test_onnxruntime_fuses_four_bits_in_the_portable_form(runner: WorkerRunner, tmp_path: Path) -> None:
    result = model(PRODUCT, w=WEIGHT)
    assert QuantizeWeights(form=WeightFormat.BLOCKED).apply(result, context(runner)).rewrites == 1
    assert graph.opset(result) >= 21
    found = kernels(result, tmp_path)
    assert found["MatMulNBits"] == 1
    assert found["DequantizeLinear"] == 0


@pytest.mark.parametrize("form", [WeightFormat.MATMULNBITS, WeightFormat.BLOCKED])
def test_a_gemm_keeps_its_bias(runner: WorkerRunner, form: WeightFormat) -> None:
    text = PRODUCT.replace("MatMul (x, w)", "Gemm <transB = 1> (x, w, b)")
    weights = {"w": WEIGHT.T.copy(), "b": 100 * np.arange(40, dtype=np.float32)}
    result = model(text, **weights)
    assert QuantizeWeights(form=form, bits=8).apply(result, context(runner)).rewrites == 1
    assert relative_error(run(model(text, **weights), FEEDS)[0], run(result, FEEDS)[0]) < 0.001


def test_tensorrt_gets_no_operators_of_onnxruntime(runner: WorkerRunner) -> None:
    result = model(PRODUCT, w=WEIGHT)
    QuantizeWeights().apply(result, context(runner, target="tensorrt"))
    assert set(op_types(result)) == {"DequantizeLinear", "MatMul"}


@pytest.mark.parametrize("form", [WeightFormat.MATMULNBITS, WeightFormat.BLOCKED])
def test_a_weight_that_bodies_share_is_stored_once_where_it_was(runner: WorkerRunner, form: WeightFormat) -> None:
    text = both_branches(48, 40)
    result = model(text, w=WEIGHT)
    assert QuantizeWeights(form=form, bits=8).apply(result, context(runner)).rewrites == 2
    assert invariants.check(result) == []
    stored = [v for v in result.graph.initializers.values() if v.dtype in {ir.DataType.UINT8, ir.DataType.INT8}]
    assert len(stored) == 1
    assert "w" not in result.graph.initializers
    assert relative_error(run(model(text, w=WEIGHT), FEEDS)[0], run(result, FEEDS)[0]) < 0.03


def test_a_weight_in_a_constant_node_of_an_old_file(runner: WorkerRunner) -> None:
    numbers = ", ".join(str(i % 7) for i in range(256))
    text = f"""
    <ir_version: 3, opset_import: ["" : 9]>
    net (float[n,16] x) => (float[n,16] y)
    {{ w = Constant <value = float[16,16] {{{numbers}}}> ()  y = MatMul (x, w) }}
    """
    feeds = {"x": RNG.standard_normal((2, 16)).astype(np.float32)}
    for kind in (QuantizeWeights(min_elements=1, bits=8), StoreWeights(min_elements=1)):
        result = model(text)
        assert kind.apply(result, context(runner)).rewrites == 1
        assert relative_error(run(model(text), feeds)[0], run(result, feeds)[0]) < 0.03


def test_gptq_beats_rounding_on_the_data_it_saw(runner: WorkerRunner) -> None:
    inputs = (RNG.standard_normal((64, 48)) @ RNG.standard_normal((48, 48))).astype(np.float32)
    text = PRODUCT.replace("y = MatMul (x, w)", "h = Relu (x)  p = MatMul (x, w)  q = MatMul (h, v)  y = Add (p, q)")
    weights = {"w": WEIGHT, "v": WEIGHT[::-1].copy()}
    reference = run(model(text, **weights), {"x": inputs})[0]
    errors = {}
    for method in BlockRounding:
        result = model(text, **weights)
        feeds = [{"x": inputs[i : i + 8]} for i in range(0, 64, 8)] if method is BlockRounding.GPTQ else None
        kind = QuantizeWeights(method=method, int8_compute=False)
        assert kind.apply(result, context(runner, feeds)).rewrites == 2
        errors[method] = relative_error(reference, run(result, {"x": inputs})[0])
    assert errors[BlockRounding.GPTQ] < 0.7 * errors[BlockRounding.RTN]


def test_gptq_sees_what_bodies_compute(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,48] x) => (float[n,40] y)
    {
      total = ReduceSum <keepdims = 0> (x)  big = Constant <value_float = 1e9> ()  never = Greater (total, big)
      y = If (never) <
        then_branch = a () => (float[n,40] p) { r = Relu (x)  p = MatMul (r, v) },
        else_branch = b () => (float[n,40] q) { h = Abs (x)  q = MatMul (h, w) }
      >
    }
    """
    weights = {"w": WEIGHT, "v": WEIGHT[::-1].copy()}
    inputs = (RNG.standard_normal((64, 48)) @ RNG.standard_normal((48, 48))).astype(np.float32)
    reference = run(model(text, **weights), {"x": inputs})[0]
    errors = {}
    for method in (BlockRounding.RTN, BlockRounding.GPTQ):
        result = model(text, **weights)
        kind = QuantizeWeights(method=method, int8_compute=False)
        assert kind.apply(result, context(runner, [{"x": inputs[:32]}, {"x": inputs[32:]}])).rewrites == 2
        errors[method] = relative_error(reference, run(result, {"x": inputs})[0])
    assert errors[BlockRounding.GPTQ] < 0.8 * errors[BlockRounding.RTN]


def test_tables_can_be_stored_beside_quantized_products(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n] i) => (float[n,40] y)
    { x = Gather (table, i)  y = MatMul (x, w) }
    """
    weights = {"w": WEIGHT, "table": RNG.standard_normal((64, 48)).astype(np.float32)}
    feeds = {"i": np.arange(10)}
    result = model(text, **weights)
    assert QuantizeWeights(bits=8, exclude=("op:Gather",)).apply(result, context(runner)).rewrites == 1
    assert StoreWeights().apply(result, context(runner)).rewrites == 1
    assert not [value for value in result.graph.initializers.values() if value.name in weights]
    assert relative_error(run(model(text, **weights), feeds)[0], run(result, feeds)[0]) < 0.03


def test_gptq_needs_data(runner: WorkerRunner) -> None:
    nothing: list[dict[str, np.ndarray]] = []
    for feeds in (None, nothing):
        with pytest.raises(InputError, match="calibration data"):
            QuantizeWeights(method=BlockRounding.GPTQ).apply(model(PRODUCT, w=WEIGHT), context(runner, feeds))


def test_options_that_cannot_be() -> None:
    with pytest.raises(InputError, match="3 bits"):
        QuantizeWeights(bits=3)
    with pytest.raises(InputError, match="block size 48"):
        QuantizeWeights(block_size=48)
    with pytest.raises(InputError, match="4 or 8 bits"):
        QuantizeWeights(bits=2, form=WeightFormat.BLOCKED)
    with pytest.raises(InputError, match="the runtime chooses"):
        QuantizeWeights(form=WeightFormat.BLOCKED, int8_compute=True)


# Storage


def test_onnxruntime_multiplies_stored_weights_out_at_load(runner: WorkerRunner, tmp_path: Path) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,8,9,9] image, int64[3] i, float[5,1,16] s) => (float y, float[3,32] rows, float[5,1,1,8] states)
    {
      c = Conv (image, k)  t = ConvTranspose (c, kt)  flat = Flatten (t)  y = ReduceSum <keepdims = 0> (flat)
      rows = Gather (table, i)
      states = LSTM <hidden_size = 8> (s, lw, lr)
    }
    """
    shapes = {"k": (16, 8, 3, 3), "kt": (16, 8, 3, 3), "table": (64, 32), "lw": (1, 32, 16), "lr": (1, 32, 8)}
    weights = {name: RNG.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    feeds = {"image": RNG.standard_normal((1, 8, 9, 9)).astype(np.float32), "i": np.array([0, 5, 63])}
    feeds["s"] = RNG.standard_normal((5, 1, 16)).astype(np.float32)
    result = model(text, **weights)
    assert StoreWeights(min_elements=100).apply(result, context(runner)).rewrites == 5
    assert invariants.check(result) == []
    sizes = {name: value.shape for name, value in result.graph.initializers.items() if name.endswith("_scale")}
    assert [list(sizes[f"{name}_scale"]) for name in shapes] == [  # type: ignore[arg-type]
        [16, 1, 1, 1],
        [1, 8, 1, 1],
        [64, 1],
        [1, 32, 1],
        [1, 32, 1],
    ]
    for reference, output in zip(run(model(text, **weights), feeds), run(result, feeds), strict=True):
        assert relative_error(reference, output) < 0.03
    assert not kernels(result, tmp_path).keys() & {"Cast", "Mul", "DequantizeLinear"}
    again = StoreWeights(min_elements=100).apply(result, context(runner))
    assert again.rewrites == 0
    assert "its weight is quantized already" in {skip.reason for skip in again.skipped}


@pytest.mark.parametrize("symmetric", [False, True])
def test_stored_numbers_are_within_half_a_step(symmetric: bool) -> None:
    array = RNG.standard_normal((5, 7, 3)).astype(np.float32)
    params = storage.params_of(array, (0, 2), symmetric=symmetric)
    assert params.scale.shape == (5, 1, 3)
    integers = storage.quantize(array, params).astype(np.float64)
    error = np.abs((integers - params.zero_point) * params.scale - array)
    assert (error <= params.scale / 2 * (1 + 1e-3)).all()
