"""`modelopt inspect`: counts against hand-made arithmetic, hostile names, bounded reading, what stops quantization."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from modelopt import io
from modelopt.core.errors import InputError, Refused
from modelopt.inspection import inspect, sampling
from modelopt.inspection.data import Inspection, Sparsity
from modelopt.inspection.listing import count, render_inspection, size
from modelopt.runtime.worker_runner import WorkerRunner

Inspect = Callable[..., Inspection]
RNG = np.random.default_rng(0)


@pytest.fixture
def look(tmp_path: Path, runner: WorkerRunner) -> Inspect:
    def look(model: onnx.ModelProto, **options: object) -> Inspection:
        path = tmp_path / "model.onnx"
        onnx.save(model, path)
        return inspect(io.load(path, scratch=tmp_path), runner, **options)  # type: ignore[arg-type]

    return look


def parse(body: str, *, opset: int = 17, extra: str = "", functions: str = "") -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}{extra}]> {body} {functions}')


def weights(model: onnx.ModelProto, *, dtype: str = "float32", **shapes: tuple[int, ...]) -> onnx.ModelProto:
    for name, shape in shapes.items():
        array = np.asarray(RNG.standard_normal(shape)).astype(dtype)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return model


def linear(*, opset: int = 17, dtype: str = "float32") -> onnx.ModelProto:
    kind = dtype.removesuffix("32")
    model = parse(f"g ({kind}[N,4] x) => ({kind}[N,3] y) {{ y = MatMul(x, W) }}", opset=opset)
    return weights(model, dtype=dtype, W=(4, 3))


def codes(found: Inspection) -> dict[str, str]:
    return {blocker.code: blocker.severity for blocker in found.blockers}


MACS: dict[str, tuple[str, dict[str, tuple[int, ...]], int]] = {
    "conv": ("(float[1,3,8,8] x) => (y) { y = Conv<pads=[1,1,1,1]>(x, W) }", {"W": (5, 3, 3, 3)}, 5 * 64 * 27),
    "grouped conv": (
        "(float[2,4,8,8] x) => (y) { y = Conv<group=2, strides=[2,2]>(x, W) }",
        {"W": (6, 2, 2, 2)},
        2 * 6 * 16 * (2 * 4),
    ),
    "depthwise conv": ("(float[1,4,5] x) => (y) { y = Conv<group=4>(x, W) }", {"W": (4, 1, 3)}, 4 * 3 * 3),
    "transposed conv": (
        "(float[1,4,5,5] x) => (y) { y = ConvTranspose<group=2, strides=[2,2]>(x, W) }",
        {"W": (4, 3, 2, 2)},
        4 * 25 * 3 * 4,
    ),
    "gemm": ("(float[2,4] x) => (y) { y = Gemm<transB=1>(x, W) }", {"W": (3, 4)}, 2 * 4 * 3),
    "gemm, both transposed": ("(float[4,2] x) => (y) { y = Gemm<transA=1, transB=1>(x, W) }", {"W": (3, 4)}, 24),
    "batched matmul": ("(float[5,1,2,4] x, float[6,4,3] z) => (y) { y = MatMul(x, z) }", {}, 5 * 6 * 2 * 3 * 4),
    "vector matmul": ("(float[4] x) => (y) { y = MatMul(x, W) }", {"W": (4,)}, 4),
    "bidirectional lstm": (
        '(float[7,2,3] x) => (y) { y = LSTM<hidden_size=5, direction="bidirectional">(x, W, R) }',
        {"W": (2, 20, 3), "R": (2, 20, 5)},
        7 * 2 * 2 * 4 * 5 * (3 + 5),
    ),
    "gru": ("(float[7,2,3] x) => (y) { y = GRU<hidden_size=5>(x, W, R) }", {"W": (1, 15, 3), "R": (1, 15, 5)}, 1680),
    "rnn": ("(float[7,2,3] x) => (y) { y = RNN<hidden_size=5>(x, W, R) }", {"W": (1, 5, 3), "R": (1, 5, 5)}, 560),
    "einsum": (
        '(float[2,3,4] x, float[2,5,4] z) => (y) { y = Einsum<equation="bik, bjk -> bij">(x, z) }',
        {},
        2 * 3 * 5 * 4,
    ),
    "no macs": ("(float[2,3] x) => (y) { y = Relu(x) }", {}, 0),
}


@pytest.mark.parametrize("case", MACS)
def test_macs_by_hand(case: str, look: Inspect) -> None:
    body, shapes, expected = MACS[case]
    text = body.replace("=> (y)", "=> (float[] y)", 1)
    assert look(weights(parse(f"g {text}"), dtype="float32", **shapes)).macs.total == expected


def test_attention_macs(look: Inspect) -> None:
    text = "g (float[2,4,5,8] q, float[2,2,7,8] k, float[2,2,7,6] v) => (float[] y) { y = Attention(q, k, v) }"
    assert look(parse(text, opset=23)).macs.total == 2 * 4 * 5 * 7 * (8 + 6)


def test_batch_is_assumed_and_other_dims_stay_open(look: Inspect) -> None:
    model = weights(parse("g (float[N,T,4] x) => (float[N,T,3] y) { y = MatMul(x, W) }"), W=(4, 3))
    found = look(model)
    assert [(dim.name, dim.size, dim.source) for dim in found.dims] == [("N", 1, "assumed"), ("T", None, "free")]
    assert (found.macs.total, found.macs.unknown_nodes) == (None, 1)
    given = look(model, sizes={"N": 2, "T": 10})
    assert given.macs.total == 2 * 10 * 4 * 3
    assert given.layers[0].output_shape == (2, 10, 3)
    assert given.inputs[0].shape == ("N", "T", 4)


def test_nameless_dims_are_called_by_place(look: Inspect) -> None:
    model = weights(parse("g (float[N,T,4] x) => (float[] y) { y = MatMul(x, W) }"), W=(4, 3))
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "?"
    assert [dim.name for dim in look(model).dims] == ["x:0", "x:1"]
    assert look(model, sizes={"x:1": 10}).macs.total == 120


def test_unknown_dim_is_refused_with_a_suggestion(look: Inspect) -> None:
    with pytest.raises(InputError) as caught:
        look(linear(), sizes={"n": 2})
    assert "N" in (caught.value.note or "")


def test_shapes_behind_computed_shapes(look: Inspect) -> None:
    text = """g (float[N,2,6] x) => (float[] y) {
        s = Shape(x)
        zero = Constant<value_ints=[0]>()
        n = Gather(s, zero)
        rest = Constant<value_ints=[3,4]>()
        wanted = Concat<axis=0>(n, rest)
        r = Reshape(x, wanted)
        y = MatMul(r, W)
    }"""
    assert look(weights(parse(text), W=(4, 5))).macs.total == 3 * 4 * 5


def test_failed_inference_is_said_and_the_file_is_used(tmp_path: Path) -> None:
    class Fails:
        def infer_shapes(self, model: ir.Model) -> None:
            raise Refused("no\x1b[31m", note="because")

    onnx.save(linear(), tmp_path / "m.onnx")
    found = inspect(io.load(tmp_path / "m.onnx", scratch=tmp_path), Fails())
    assert found.shape_failure == "no\x1b[31m (because)"
    assert found.macs.total == 12
    notes = [note for section in render_inspection(found) for note in section.notes]
    assert any("inference failed" in note for note in notes)


def test_the_model_is_the_same_afterwards(tmp_path: Path, runner: WorkerRunner) -> None:
    from modelopt.io import serialize

    onnx.save(linear(), tmp_path / "m.onnx")
    loaded = io.load(tmp_path / "m.onnx", scratch=tmp_path)
    before = serialize.to_bytes(loaded.model)
    inspect(loaded, runner, sizes={"N": 7})
    assert serialize.to_bytes(loaded.model) == before


# Weights


def test_parameters_in_all_scopes(look: Inspect) -> None:
    text = """g (bool c, float[1,2] x) => (float[1,2] y) {
        k = Constant<value = float[2] {1.0, 0.0}>()
        y = If(c) <
            then_branch = t () => (a) { m = Constant<value = float[2,2] {0.0, 0.0, -0.0, 3.0}>() a = MatMul(x, m) },
            else_branch = e () => (b) { b = Add(x, k) }
        >
    }"""
    found = look(parse(text))
    assert found.parameters == 6
    assert found.weight_bytes == 24
    assert found.sparsity == Sparsity(zeros=4, read_elements=6, all_elements=6)
    assert (found.nodes, found.nodes_in_bodies) == (5, 3)
    assert codes(found)["in-bodies"] == "note"


@pytest.mark.parametrize(("dtype", "bits"), [("FLOAT16", 16), ("BFLOAT16", 16), ("DOUBLE", 64), ("FLOAT8E5M2", 8)])
def test_zeros_of_every_width(dtype: str, bits: int) -> None:
    kind = ir.DataType[dtype]
    array = np.array([0.0, -0.0, 1.0, -2.0, 0.5], kind.numpy())
    assert array.itemsize * 8 == bits
    assert sampling.sparsity([ir.Tensor(array, dtype=kind)]).zeros == 2


def test_sample_is_bounded_and_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [ir.tensor((RNG.random(200_000) < 0.5).astype(np.float32)) for _ in range(4)]
    budget = 5 * 64 * 1024
    found = sampling.sparsity(tensors, budget_bytes=budget)
    assert 0 < found.read_elements * 4 <= budget
    assert not found.is_exact
    assert found.fraction == pytest.approx(0.5, abs=0.02)
    assert found == sampling.sparsity(tensors, budget_bytes=budget)


def test_external_data_is_sampled_only(tmp_path: Path, runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sparse file of 1 GiB: no more pages are touched than the budgets allow."""
    side, layers = 8192, 4
    model = parse(
        "g (float[N,8192] x) => (float[N,8192] y) { a = MatMul(x, W0) b = MatMul(a, W1) c = MatMul(b, W2) "
        "y = MatMul(c, W3) }"
    )
    for i in range(layers):
        tensor = TensorProto(name=f"W{i}", data_type=TensorProto.FLOAT, dims=[side, side])
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "w"), ("offset", i * side * side * 4), ("length", side * side * 4)):
            tensor.external_data.add(key=key, value=str(value))
        model.graph.initializer.append(tensor)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with (tmp_path / "w").open("wb") as file:
        file.truncate(layers * side * side * 4)
    monkeypatch.setattr(sampling, "_digest", lambda tensor: pytest.fail("a large tensor was read whole"))
    found = inspect(io.load(tmp_path / "m.onnx", scratch=tmp_path), runner)
    assert found.file.has_external_data
    assert found.file.size_bytes > 2**30
    assert found.sparsity.fraction == 1.0
    assert found.sparsity.read_elements * 4 <= sampling.SPARSITY_BYTES
    assert found.foldable.likely_duplicate_bytes == 3 * side * side * 4
    assert found.macs.total == layers * side * side


def test_broken_tensor_is_bad_input() -> None:
    class Broken(ir.Tensor[np.ndarray]):
        def numpy(self) -> np.ndarray:
            raise ValueError("cannot reshape")

    with pytest.raises(InputError, match="cannot be read"):
        sampling.sparsity([Broken(np.zeros(3, np.float32), name="w")])


# Foldable


def test_foldable(look: Inspect) -> None:
    text = """g (float[1,2,4,4] x) => (float[1,2,4,4] y) {
        c = Conv(x, W)
        n = BatchNormalization(c, s, b, s, b)
        i = Identity(n)
        u = Add(s, b)
        t = Transpose(W2)
        y = Conv(i, W2)
    }"""
    model = weights(parse(text), W=(2, 2, 1, 1), s=(2,), b=(2,), unused=(5,))
    twin = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(model.graph.initializer[0]), "W2")
    model.graph.initializer.append(twin)
    found = look(model).foldable
    assert (found.constant_nodes, found.identities, found.batchnorms_after_conv) == (2, 1, 1)
    assert (found.duplicate_bytes, found.likely_duplicate_bytes, found.unused_bytes) == (16, 0, 20)


def test_equal_ends_are_not_duplicates() -> None:
    arrays = [np.zeros(100_000, np.float32) for _ in range(2)]
    arrays[1][50_000] = 1
    assert sampling.duplicates(map(ir.tensor, arrays)) == (0, 0)


# Blockers


def test_nothing_in_the_way(look: Inspect) -> None:
    assert codes(look(linear())) == {}


def _call(op: str, domain: str) -> onnx.ModelProto:
    model = linear()
    model.graph.node.append(oh.make_node(op, ["y"], ["z"], domain=domain))
    model.opset_import.append(oh.make_opsetid(domain, 1))
    return model


def _overridable() -> onnx.ModelProto:
    model = linear()
    model.graph.input.append(oh.make_tensor_value_info("W", TensorProto.FLOAT, [4, 3]))
    return model


BLOCKERS: dict[str, tuple[str, Callable[[], onnx.ModelProto]]] = {
    "old-opset": ("note", lambda: linear(opset=11)),
    "not-float32": ("stops", lambda: linear(dtype="float16")),
    "already-quantized": (
        "stops",
        lambda: parse("g (float[2] x, float s) => (uint8[2] y) { y = QuantizeLinear(x, s) }"),
    ),
    "no-constant-weights": ("stops", lambda: parse("g (float[2] x) => (float[2] y) { y = Relu(x) }")),
    "dynamic-weights": (
        "hampers",
        lambda: parse("g (float[2,2] x) => (float[2,2] y) { y = MatMul(x, x) }"),
    ),
    "computed-weights": (
        "note",
        lambda: weights(parse("g (float[2,4] x) => (float[2,3] y) { t = Transpose(W) y = MatMul(x, t) }"), W=(3, 4)),
    ),
    "overridable-weights": ("hampers", _overridable),
    "shared-weights": (
        "hampers",
        lambda: weights(
            parse("g (float[1,4] x) => (float[1,4] y) { a = Gemm(x, W) y = Gemm<transB=1>(a, W) }"), W=(4, 4)
        ),
    ),
    "tied-weights": (
        "hampers",
        lambda: weights(
            parse("g (int64[1] i) => (float[1,4] y) { a = Gather(W, i) y = Gemm<transB=1>(a, W) }"), W=(4, 4)
        ),
    ),
    "conv-transpose": (
        "hampers",
        lambda: weights(parse("g (float[1,2,3] x) => (float[] y) { y = ConvTranspose(x, W) }"), W=(2, 2, 2)),
    ),
    "contrib-domain": ("hampers", lambda: _call("Gelu", "com.microsoft")),
    "custom-domain": ("stops", lambda: _call("Mystery", "my.ops")),
}


@pytest.mark.parametrize("code", BLOCKERS)
def test_blockers(code: str, look: Inspect) -> None:
    severity, make = BLOCKERS[code]
    assert codes(look(make())).get(code) == severity


def test_a_function_is_not_a_custom_operator(look: Inspect) -> None:
    model = parse(
        "g (float[1,2] x) => (float[1,2] y) { y = my.f(x, x) }",
        extra=', "my" : 1',
        functions='<opset_import: ["" : 17], domain: "my"> f (a, b) => (c) { c = MatMul(a, b) }',
    )
    found = look(model)
    assert "custom-domain" not in codes(found)
    assert found.nodes_in_functions == 1
    assert found.macs.unknown_nodes == 1


# The document and the command


HOSTILE = "a\x1b[31m[red]\n:/ \u202e"


def hostile() -> onnx.ModelProto:
    model = linear()
    node = model.graph.node[0]
    node.name = HOSTILE
    node.input[0] = model.graph.input[0].name = HOSTILE + "x"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = HOSTILE
    model.metadata_props.add(key=HOSTILE, value=HOSTILE * 100)
    model.producer_name = HOSTILE
    return model


def test_document_matches_its_type(look: Inspect) -> None:
    found = look(hostile())
    text = msgspec.json.encode(found)
    assert msgspec.json.decode(text, type=Inspection, strict=True) == found
    assert msgspec.json.decode(text)["schema"] == "modelopt-inspect/1"
    assert found.layers[0].name == HOSTILE


def test_huge_shapes_are_unknown_not_a_crash(look: Inspect) -> None:
    huge = 2**62
    model = parse(f"g (float[{huge},{huge}] x, float[{huge},{huge}] z) => (float[] y) {{ y = MatMul(x, z) }}")
    found = look(model)
    assert found.macs.total is None
    msgspec.json.encode(found)


def _command(*arguments: str) -> tuple[int, str]:
    from modelopt.cli.inspect_cmd import command

    result = CliRunner().invoke(command, list(arguments), catch_exceptions=True)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def test_command_prints_one_document(tmp_path: Path) -> None:
    onnx.save(hostile(), tmp_path / "m.onnx")
    code, out = _command("--json", "--layers", "0", "--dim", f"{HOSTILE}=4", str(tmp_path / "m.onnx"))
    assert code == 0
    found = msgspec.json.decode(out, type=Inspection)
    assert found.macs.total == 48
    assert (found.layers, found.layer_count) == ((), 1)


@pytest.mark.parametrize("flags", [(), ("-v",)])
def test_command_escapes_names(tmp_path: Path, flags: tuple[str, ...]) -> None:
    onnx.save(hostile(), tmp_path / "m.onnx")
    code, out = _command(*flags, str(tmp_path / "m.onnx"))
    assert code == 0
    assert "12 for" in out
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize("text", ["batch", "batch=", "=3", "batch=0", "batch=x", "batch=-1"])
def test_bad_dims(tmp_path: Path, text: str) -> None:
    onnx.save(linear(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="NAME=N"):
        _command("--dim", text, str(tmp_path / "m.onnx"))


def test_units() -> None:
    assert [count(n) for n in (0, 999, 1000, 4_089_184_256, 999_600)] == ["0", "999", "1.00 k", "4.09 G", "1.00 M"]
    assert [size(n) for n in (12, 102_478_781)] == ["12 B", "102 MB"]
