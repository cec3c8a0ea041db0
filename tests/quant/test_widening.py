"""Models in half and double precision: float32 goes first where a mode needs it; no result, no file of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from modelopt import graph
from modelopt.passes.convert_float import ConvertFloat
from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.passes.store_weights import StoreWeights
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import modelopt
from tests.quant_tools import context, model, op_types, relative_error, run

RNG = np.random.default_rng(0)
X = RNG.standard_normal((4, 64))
FIRST, SECOND = RNG.standard_normal((64, 64)) / 8, RNG.standard_normal((64, 64)) / 8
TYPES = {"float16": np.float16, "double": np.float64}


def text(dtype: str) -> str:
    return f"""<ir_version: 8, opset_import: ["" : 17]> net ({dtype}[n,64] x) => ({dtype}[n,64] y)
    {{ a = MatMul (x, v) b = Relu (a) y = Gemm <transB = 1> (b, w) }}"""


def weights(dtype: str) -> dict[str, np.ndarray]:
    return {"v": FIRST.astype(TYPES[dtype]), "w": SECOND.astype(TYPES[dtype])}


def saved(path: Path, dtype: str) -> Path:
    onnx.save(ir.to_proto(model(text(dtype), **weights(dtype))), path)
    return path


def types_of(path: Path) -> list[int]:
    made = onnx.load(path).graph
    return [value.type.tensor_type.elem_type for value in (*made.input, *made.output)]


def stored(path: Path) -> set[int]:
    """The types of the matrices that a file holds."""
    return {tensor.data_type for tensor in onnx.load(path).graph.initializer if len(tensor.dims) == 2}


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_float32_of_another_precision(runner: WorkerRunner, dtype: str) -> None:
    before, after = model(text(dtype), **weights(dtype)), model(text(dtype), **weights(dtype))
    changes = ConvertFloat().apply(after, context(runner))
    assert graph.signature(after) == graph.signature(before)
    assert {tensor.dtype for _, tensor in graph.tensors(after)} == {ir.DataType.FLOAT}
    assert changes.facts["from"] == dtype
    feeds = {"x": X.astype(TYPES[dtype])}
    ((expected,), (found,)) = run(before, feeds), run(after, feeds)
    assert found.dtype == expected.dtype
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("form", [WeightFormat.MATMULNBITS, WeightFormat.BLOCKED])
@pytest.mark.parametrize("bits", [4, 8])
def test_few_bits_for_weights_in_half_precision(runner: WorkerRunner, form: WeightFormat, bits: int) -> None:
    """Activations, scales and the model's inputs and outputs stay float16."""
    before, after = model(text("float16"), **weights("float16")), model(text("float16"), **weights("float16"))
    changes = QuantizeWeights(bits=bits, form=form).apply(after, context(runner))
    assert changes.rewrites == 2
    assert graph.signature(after) == graph.signature(before)
    assert changes.facts["weights_before_bytes"] == 2 * 2 * 64 * 64
    assert graph.weight_bytes(after) == changes.facts["weights_after_bytes"]
    assert ir.DataType.FLOAT not in {tensor.dtype for _, tensor in graph.tensors(after)}
    feeds = {"x": X.astype(np.float16)}
    ((expected,), (found,)) = run(before, feeds), run(after, feeds)
    assert found.dtype == np.float16
    assert relative_error(expected.astype(np.float32), found.astype(np.float32)) < {4: 0.2, 8: 0.03}[bits]


@pytest.mark.parametrize("form", [WeightFormat.MATMULNBITS, WeightFormat.BLOCKED])
def test_few_bits_for_a_table_in_half_precision(runner: WorkerRunner, form: WeightFormat) -> None:
    """Tied to the output head, as in float32."""
    tied = """<ir_version: 8, opset_import: ["" : 17]> net (int64[n] i) => (float16[n,64] y)
    { e = Gather (t, i) r = Relu (e) y = Gemm <transB = 1> (r, t) }"""
    before, after = model(tied, t=FIRST.astype(np.float16)), model(tied, t=FIRST.astype(np.float16))
    assert QuantizeWeights(bits=8, form=form).apply(after, context(runner)).rewrites == 2
    assert graph.weight_bytes(after) < 0.6 * graph.weight_bytes(before)
    feeds = {"i": np.array([0, 5, 63])}
    ((expected,), (found,)) = run(before, feeds), run(after, feeds)
    assert found.dtype == np.float16
    assert relative_error(expected.astype(np.float32), found.astype(np.float32)) < 0.03


def test_scales_that_float16_does_not_hold(runner: WorkerRunner) -> None:
    """Integers are chosen for the scales that are stored."""
    tiny = {name: (array * 1e-6).astype(np.float16) for name, array in weights("float16").items()}
    subject = model(text("float16"), **tiny)
    QuantizeWeights(bits=4).apply(subject, context(runner))
    scales = [tensor.numpy() for _, tensor in graph.tensors(subject) if tensor.dtype == ir.DataType.FLOAT16]
    assert all((array > 0).all() for array in scales)


def test_storage_of_weights_in_half_precision(runner: WorkerRunner) -> None:
    before, after = model(text("float16"), **weights("float16")), model(text("float16"), **weights("float16"))
    assert StoreWeights().apply(after, context(runner)).rewrites == 2
    assert graph.weight_bytes(after) < graph.weight_bytes(before)
    feeds = {"x": X.astype(np.float16)}
    ((expected,), (found,)) = run(before, feeds), run(after, feeds)
    assert relative_error(expected.astype(np.float32), found.astype(np.float32)) < 0.03


@pytest.mark.parametrize("dtype", ["float16", "double"])
def test_int8_of_another_precision(tmp_path: Path, dtype: str) -> None:
    """The report says that float32 came first; inputs and outputs keep their types."""
    path = saved(tmp_path / "m.onnx", dtype)
    np.savez(tmp_path / "calib.npz", x=RNG.standard_normal((16, 64)).astype(TYPES[dtype]))
    ran = modelopt("quantize", "m.onnx", "--calib", "calib.npz", "--everywhere", "--no-bench", cwd=tmp_path).succeeded()
    assert "Converted to float32 in 5 places and quantized to int8 (static) in 2 places" in ran.err
    assert types_of(tmp_path / "m.int8.onnx") == types_of(path)
    assert stored(tmp_path / "m.int8.onnx") == {onnx.TensorProto.INT8}


def test_the_mode_that_makes_float32(tmp_path: Path) -> None:
    saved(tmp_path / "m.onnx", "float16")
    ran = modelopt("quantize", "m.onnx", "--mode", "fp32", "--no-bench", cwd=tmp_path).succeeded()
    assert ran.err.startswith("Converted to float32 in 5 places")
    assert stored(tmp_path / "m.fp32.onnx") == {onnx.TensorProto.FLOAT}
    modelopt("quantize", "m.onnx", "--mode", "fp32", "--include", "a", cwd=tmp_path).refused(
        2, "--include is not for --mode fp32"
    )


def test_float32_alone_is_no_int8_model(tmp_path: Path) -> None:
    """Where nothing is quantized, what was made fit for it is not written, and the name says so."""
    path = saved(tmp_path / "m.onnx", "float16")
    ran = modelopt(
        "quantize", "m.onnx", "--mode", "dynamic", "--exclude", "*", "--no-search", "--no-bench", cwd=tmp_path
    ).succeeded()
    assert ran.created == {"m.copy.onnx"}
    assert ran.err.startswith("Not quantized: 2 places refused, all of them because: excluded; the output is a copy")
    assert (tmp_path / "m.copy.onnx").read_bytes() == path.read_bytes()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A part in float16, and a weight that is stored in float16 and cast, which folding would multiply out."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> net (float[n,64] x) => (float[n,64] y)
    { h = Cast <to = 10> (x) a = MatMul (h, v) f = Cast <to = 1> (a) k = Cast <to = 1> (w) y = MatMul (f, k) }""")
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights("float16").items())
    onnx.save(proto, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.mark.parametrize("flags", [["--mode", "bf16", "--no-search"], ["--mode", "fp16"]])
def test_nothing_to_convert_is_no_reason_to_grow(mixed: Path, flags: list[str]) -> None:
    ran = modelopt("quantize", "m.onnx", *flags, "--no-bench", cwd=mixed.parent).succeeded()
    assert ran.err.startswith("Nothing to convert: the model already holds half precision: ")
    assert ran.created == {"m.copy.onnx"}
    assert (mixed.parent / "m.copy.onnx").read_bytes() == mixed.read_bytes()


def test_a_conversion_for_size_that_makes_it_larger(tmp_path: Path) -> None:
    """The weight stays float32 for who reads it as an output; --keep asks for the result whatever it is."""
    text_ = """<ir_version: 8, opset_import: ["" : 17]> net (float[n,64] x) => (float[n,64] y, float[64,64] w)
    { y = MatMul (x, w) }"""
    onnx.save(ir.to_proto(model(text_, w=FIRST.astype(np.float32))), tmp_path / "m.onnx")
    ran = modelopt("quantize", "m.onnx", "--mode", "fp16", "--no-bench", cwd=tmp_path).succeeded()
    assert ran.err.startswith("Not converted: the result would be larger than the input, by ")
    assert ran.created == {"m.copy.onnx"}
    modelopt("quantize", "m.onnx", "--mode", "fp16", "--no-bench", "--keep", cwd=tmp_path).succeeded()
    assert op_types(ir.load(tmp_path / "m.fp16.onnx"))["Cast"] == 3


def test_int8_that_is_larger_because_float32_went_first(tmp_path: Path) -> None:
    """A float16 table that stays float makes more of the file than the product that becomes int8."""
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]> net (int64[n] i) => (float16[n,64] y)
    { e = Gather (t, i) y = MatMul (e, v) }""")
    held = {"t": RNG.standard_normal((1000, 64)).astype(np.float16), "v": FIRST.astype(np.float16)}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in held.items())
    onnx.save(proto, tmp_path / "m.onnx")
    np.savez(tmp_path / "calib.npz", i=np.arange(16))
    flags = ("--calib", "calib.npz", "--include", "op:MatMul", "--everywhere", "--no-bench")
    ran = modelopt("quantize", "m.onnx", *flags, cwd=tmp_path).succeeded()
    assert ran.err.startswith("Not quantized: the result would be larger than the input, by ")
    assert ran.created == {"m.copy.onnx"}
