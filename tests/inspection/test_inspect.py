"""`modelopt inspect`: weights, what folds, hostile names, bounded reading, the document and the command."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from onnx import TensorProto

from modelopt import io
from modelopt.core.errors import InputError
from modelopt.inspection import inspect, sampling
from modelopt.inspection.data import Inspection, Sparsity
from modelopt.inspection.listing import count, render_inspection, size
from modelopt.runtime.worker_runner import WorkerRunner
from tests.inspection.model_texts import Inspect, codes, linear, parse, weights

RNG = np.random.default_rng(0)


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


def test_of_many_inputs_the_first_are_listed(look: Inspect) -> None:
    inputs = ", ".join(f"float[2] x{number}" for number in range(150))
    names = ", ".join(f"x{number}" for number in range(150))
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => (float[2] y) {{ y = Sum({names}) }}'
    found = look(onnx.parser.parse_model(text))
    section = next(each for each in render_inspection(found, verbose=True) if each.title == "Inputs and outputs")
    assert [row[0] for row in section.rows].count("input") == 100
    assert section.notes == ("50 more inputs: --json has all of them.",)


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
