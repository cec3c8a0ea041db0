"""Weights in few bits: the numbers, the forms on onnxruntime, the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.passes.store_weights import StoreWeights
from modelopt.quant.numerics import blocks, hqq
from modelopt.quant.numerics.blocks import BlockGrid
from modelopt.quant.numerics.gptq import gptq, objective
from modelopt.quant.numerics.hessian import Hessian
from modelopt.quant.weight_only import storage
from modelopt.quant.weight_only.rounding import BlockRounding
from modelopt.recipe.parsing import parse
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import modelopt
from tests.paths import SAMPLE_MODELS
from tests.quant_tools import both_branches, context, kernels, model, op_types, relative_error, run

RNG = np.random.default_rng(0)
VIT = SAMPLE_MODELS / "digits_vit"
WEIGHT = RNG.standard_normal((48, 40)).astype(np.float32)
FEEDS = {"x": RNG.standard_normal((3, 48)).astype(np.float32)}
PRODUCT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,48] x) => (float[n,40] y)
{ y = MatMul (x, w) }
"""

grids = st.builds(BlockGrid, st.sampled_from([2, 4, 8]), st.sampled_from([16, 32, 64]), st.booleans())
matrices = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 6), st.integers(1, 70)),
    elements=st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6),
)


# The numbers


@given(matrices, grids)
@settings(max_examples=60, deadline=None)
def test_the_error_is_at_most_half_a_step(weight: np.ndarray, grid: BlockGrid) -> None:
    params = blocks.params_of(weight, grid)
    integers = blocks.quantize(weight, params, grid)
    assert integers.max(initial=0) <= grid.high
    steps = np.repeat(params.scale, grid.block, axis=1)[:, : weight.shape[1]]
    error = np.abs(blocks.dequantize(integers, params, grid).astype(np.float64) - weight)
    assert (error <= steps / 2 * (1 + 1e-3)).all()
    zeros = blocks.dequantize(blocks.quantize(np.zeros_like(weight), params, grid), params, grid)
    assert not zeros.any()


@given(matrices, grids)
@settings(max_examples=40, deadline=None)
def test_clipping_never_adds_squared_error(weight: np.ndarray, grid: BlockGrid) -> None:
    wide, clipped = (blocks.params_of(weight, grid, clip=clip) for clip in (False, True))
    before, after = (
        np.square(blocks.dequantize(blocks.quantize(weight, p, grid), p, grid).astype(np.float64) - weight).sum()
        for p in (wide, clipped)
    )
    assert after <= before * (1 + 1e-5)


@given(matrices, grids, st.booleans())
@settings(max_examples=40, deadline=None)
def test_hqq_is_never_worse_than_rounding_in_its_own_norm(weight: np.ndarray, grid: BlockGrid, clip: bool) -> None:
    start = blocks.params_of(weight, grid, clip=clip)
    refined = hqq.refine(weight, start, grid)
    assert (hqq.loss(weight, refined, grid) <= hqq.loss(weight, start, grid) * (1 + 1e-4)).all()


def test_hqq_improves_ordinary_weights() -> None:
    weight = RNG.standard_t(3, size=(64, 128)).astype(np.float32)
    grid = BlockGrid(4, 32, symmetric=False)
    start = blocks.params_of(weight, grid)
    assert hqq.loss(weight, hqq.refine(weight, start, grid), grid).sum() < 0.99 * hqq.loss(weight, start, grid).sum()


@given(st.data(), st.sampled_from([2, 4, 8]))
@settings(max_examples=40, deadline=None)
def test_packing_round_trips(data: st.DataObject, bits: int) -> None:
    shape = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 40)))
    integers = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 2**bits - 1)))
    packed = blocks.pack(integers, bits)
    assert packed.shape == (shape[0], -(-shape[1] * bits // 8))
    assert (blocks.unpack(packed, bits, shape[1]) == integers).all()


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 150), st.sampled_from([2, 4, 8]), st.booleans())
@settings(max_examples=30, deadline=None)
def test_gptq_is_never_worse_than_rounding(seed: int, rows: int, width: int, bits: int, by_importance: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((rows, width)).astype(np.float32)
    inputs = rng.standard_normal((rng.integers(1, 200), width)) @ rng.standard_normal((width, width))
    inputs[:, rng.random(width) < 0.2] = 0  # inputs that are never seen
    seen = Hessian(width)
    seen.observe(inputs.astype(np.float32))
    scale = np.abs(weight).max(axis=1, keepdims=True) / (2 ** (bits - 1))
    zero_point, high = np.full((rows, 1), 2 ** (bits - 1)), 2**bits - 1
    matrix = seen.matrix()
    integers = gptq(weight, matrix, scale, zero_point, 0, high, by_importance=by_importance)
    nearest = np.clip(np.rint(weight / scale + zero_point), 0, high).astype(np.int32)
    assert integers.min() >= 0
    assert integers.max() <= high
    ours, theirs = (objective(weight, q, matrix, scale, zero_point) for q in (integers, nearest))
    assert (ours <= theirs * (1 + 1e-9) + 1e-12).all()


def test_gptq_halves_the_error_of_correlated_inputs() -> None:
    inputs = RNG.standard_normal((500, 96)) @ RNG.standard_normal((96, 96))
    weight = RNG.standard_normal((32, 96)).astype(np.float32)
    matrix = inputs.T @ inputs / len(inputs)
    scale, zero_point = np.abs(weight).max(axis=1, keepdims=True) / 7, np.zeros((32, 1))
    integers = gptq(weight, matrix, scale, zero_point, -8, 7)
    nearest = np.rint(weight / scale)
    ours, theirs = (objective(weight, q, matrix, scale, zero_point).sum() for q in (integers, nearest))
    assert ours < theirs / 2


def test_gptq_without_observations_rounds_to_nearest() -> None:
    weight = np.array([[0.4, 1.6]], np.float32)
    assert gptq(weight, np.zeros((2, 2)), np.ones(()), np.zeros(()), -8, 7).tolist() == [[0, 2]]


def test_hessians_merge_and_leave_out_rows_that_are_not_finite() -> None:
    rows = RNG.standard_normal((2, 30, 8)).astype(np.float32)
    whole, first, second = Hessian(8), Hessian(8), Hessian(8)
    whole.observe(rows)
    first.observe(rows[0])
    second.observe(rows[1])
    first.merge(second)
    np.testing.assert_allclose(first.matrix(), whole.matrix(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(whole.matrix(), np.einsum("bni,bnj->ij", rows, rows) / 60, rtol=1e-4, atol=1e-5)
    first.observe(np.array([[np.nan] * 8, [np.inf] * 8], np.float32))
    assert (first.rows, first.dropped) == (60, 2)
    with pytest.raises(ValueError, match="do not end in 8"):
        first.observe(np.zeros((3, 7), np.float32))


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


# The command line


@pytest.mark.parametrize(
    ("flags", "most"),
    [
        (["--mode", "weights"], 0.30),
        (["--mode", "weights", "--bits", "8", "--weight-form", "blocked"], 0.40),
        (["--mode", "weights", "--weight-method", "gptq", "--calib", str(VIT / "calib.npz")], 0.30),
        (["--mode", "storage"], 0.40),
    ],
)
def test_a_trained_transformer_keeps_its_accuracy(tmp_path: Path, flags: list[str], most: float) -> None:
    out = tmp_path / "small.onnx"
    contract = [
        "--eval",
        str(VIT / "eval.npz"),
        "--eval-limit",
        "150",
        "--max-drop",
        "1%",
        "--no-bench",
        "--max-size",
        f"{most:.0%}",
    ]
    modelopt("quantize", str(VIT / "model.onnx"), *flags, *contract, "-o", str(out), cwd=tmp_path).succeeded()
    onnx.checker.check_model(str(out))


@pytest.mark.parametrize(
    ("flags", "level"), [([], 4), (["--weight-compute", "int8"], 4), (["--weight-compute", "float32"], 1)]
)
def test_products_compute_in_what_was_asked_for(tmp_path: Path, flags: list[str], level: int) -> None:
    told = ("--mode", "int4", "--no-search", "--no-bench", "--calib", str(VIT / "calib.npz"), *flags)
    done = modelopt("quantize", str(VIT / "model.onnx"), *told, "-o", "x.onnx", cwd=tmp_path).succeeded()
    products = [node for node in onnx.load(tmp_path / "x.onnx").graph.node if node.op_type == "MatMulNBits"]
    attributes = [{each.name: each.i for each in node.attribute} for node in products]
    assert {(each["bits"], each["accuracy_level"]) for each in attributes} == {(4, level)}
    assert "of the calibration samples are held out to compare outputs on" in done.err


@pytest.mark.parametrize(
    ("flags", "name"),
    [
        (["--mode", "int8"], "quantize-dynamic"),
        (["--mode", "int8", "--calib", "data.npz"], "quantize-static"),
        (["--mode", "int4"], "quantize-weights"),
        (["--mode", "int4", "--bits", "4"], "quantize-weights"),
        (["--mode", "weights", "--no-search", "--calib", "data.npz"], "quantize-weights"),
        (["--mode", "weights", "--no-search", "--calib", "random"], "quantize-weights"),
    ],
)
def test_modes_by_the_name_of_their_type(tmp_path: Path, flags: list[str], name: str) -> None:
    printed = modelopt("quantize", str(VIT / "model.onnx"), *flags, "--print-recipe", cwd=tmp_path).succeeded()
    recipe = parse(printed.out.decode())
    assert recipe.passes()[-1].name == name
    assert (recipe.calibration is not None) == ("--calib" in flags)
    assert getattr(recipe.passes()[-1], "bits", 4) == 4


@pytest.mark.parametrize(
    ("flags", "fact"),
    [
        (["--mode", "weights", "--bits", "5"], "5 bits are not possible"),
        (["--mode", "weights", "--weight-method", "gptq"], "gptq needs calibration data"),
        (["--mode", "int4", "--bits", "8"], "--mode int4 has 4 bits, not 8"),
        (["--mode", "int8", "--activation", "u8"], "--activation is not for --mode int8 without --calib"),
        (["--mode", "weights", "--weight-form", "blocked", "--weight-compute", "float32"], "the runtime chooses"),
        (["--mode", "weights", "--table-bits", "3"], "3 bits are not possible"),
        (["--mode", "dynamic", "--table-bits", "4"], "--table-bits is not for --mode dynamic"),
        (["--mode", "weights", "--activation", "u8"], "--activation is not for --mode weights"),
        (["--mode", "storage", "--bits", "4"], "--bits is not for --mode storage"),
        (["--mode", "dynamic", "--block-size", "32"], "--block-size is not for --mode dynamic"),
        (["--mode", "fp16", "--weight-form", "blocked"], "--weight-form is not for --mode fp16"),
    ],
)
def test_flags_that_do_not_go_together(tmp_path: Path, flags: list[str], fact: str) -> None:
    modelopt("quantize", str(VIT / "model.onnx"), *flags, "-o", "m.onnx", cwd=tmp_path).refused(2, fact)
