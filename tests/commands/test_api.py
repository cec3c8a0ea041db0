"""The Python API, read from top to bottom like a notebook: each command on the small models of the repository."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import modelopt
from modelopt.io import provenance
from tests.command_line import CALIB, CNN, EVAL, MLP
from tests.command_line import modelopt as command_line

Arrays = dict[str, np.ndarray]


def arrays(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: np.array(stored[name]) for name in stored.files}


@pytest.fixture(scope="module")
def calib() -> Arrays:
    return arrays(CALIB)


@pytest.fixture(scope="module")
def labelled() -> Arrays:
    return arrays(EVAL)


def op_types(model: ir.Model) -> set[str]:
    return {node.op_type for node in model.graph}


# Models: a path, bytes, a ModelProto, an onnx_ir.Model


def test_a_model_comes_back_where_no_output_is_named() -> None:
    result = modelopt.fuse(MLP.parents[1] / "digits_cnn" / "model.onnx", bench=False)
    assert result.path is None
    assert "BatchNormalization" not in op_types(result.model)
    assert result.report.verification is not None
    assert result.report.verification.unproved is None
    assert result.report.output.path == "<result>/model.onnx"
    assert provenance.read(result.model)[0].recipe == result.report.recipe


@pytest.mark.parametrize("kind", ["bytes", "proto", "model"])
def test_a_model_in_memory(kind: str) -> None:
    proto = onnx.load(CNN)
    before = proto.SerializeToString(deterministic=True)
    given = {"bytes": before, "proto": proto, "model": ir.from_proto(proto)}[kind]
    result = modelopt.fuse(given, bench=False, verify=False)  # type: ignore[arg-type]  # each of them is a model
    assert result.report.input.path == "<model>"
    assert "BatchNormalization" not in op_types(result.model)
    assert proto.SerializeToString(deterministic=True) == before
    if isinstance(given, ir.Model):
        assert "BatchNormalization" in op_types(given)


def test_one_result_is_the_next_input(tmp_path: Path) -> None:
    """It is a model like any other: it can be changed, optimized again and saved once its files are gone."""
    folded = modelopt.fold(CNN, bench=False, verify=False)
    pruned = modelopt.prune(folded.model, sparsity=0.5, bench=False, verify=False)
    ir.save(pruned.model, tmp_path / "pruned.onnx")
    onnx.checker.check_model(tmp_path / "pruned.onnx", full_check=True)
    found = modelopt.inspect(tmp_path / "pruned.onnx")
    assert found.sparsity.fraction == pytest.approx(0.5, abs=0.05)


def test_the_same_bytes_as_the_command_line(tmp_path: Path, calib: Arrays) -> None:
    result = modelopt.quantize(
        MLP, calib=CALIB, everywhere=True, bench=False, verify=False, output=tmp_path / "api.onnx"
    )
    assert result.path == tmp_path / "api.onnx"
    flags = ("--calib", CALIB, "--everywhere", "--no-bench", "--no-verify", "-o", "command.onnx")
    command_line("quantize", MLP, *flags, cwd=tmp_path).succeeded()
    assert (tmp_path / "api.onnx").read_bytes() == (tmp_path / "command.onnx").read_bytes()


# Data: arrays, a dict of arrays, an iterable of feeds, or what the command line takes


class Feeds:
    """Like a data loader: it can be iterated as often as needed."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[Arrays, int]]:
        for i, row in enumerate(self.rows):
            yield {"features": row[None]}, i % 10


def test_all_kinds_of_data_give_the_same_model(calib: Arrays) -> None:
    rows = calib["features"]
    kinds: list[Any] = [
        CALIB,
        str(CALIB),
        rows,
        calib,
        [{"features": row[None]} for row in rows],
        (row[None] for row in rows),
    ]
    weights = []
    for data in kinds:
        result = modelopt.quantize(MLP, calib=data, mode="static", everywhere=True, bench=False, verify=False)
        weights.append({name: value.const_value.numpy() for name, value in result.model.graph.initializers.items()})  # type: ignore[union-attr]
    for other in weights[1:]:
        assert weights[0].keys() == other.keys()
        assert all(np.array_equal(weights[0][name], other[name]) for name in other)


def test_labels_in_memory(labelled: Arrays) -> None:
    small = {name: array[:64] for name, array in labelled.items()}
    whole = modelopt.compare(MLP, MLP, eval=small, bench=False)
    assert whole.accuracy is not None
    assert whole.accuracy.tasks[0].reference.name == "top1"
    assert whole.source == "eval (in memory)"
    fed = modelopt.compare(MLP, MLP, eval=Feeds(small["features"]), bench=False)
    assert fed.accuracy is not None
    assert fed.accuracy.n == 64
    assert fed.accuracy.tasks[0].reference.name == "top1"


def test_data_that_do_not_fit(calib: Arrays) -> None:
    with pytest.raises(modelopt.InputError, match="feature"):
        modelopt.quantize(MLP, calib={"feature": calib["features"]}, bench=False)
    with pytest.raises(modelopt.InputError, match="holds no sample"):
        modelopt.quantize(MLP, calib=[], bench=False)
    with pytest.raises(modelopt.InputError, match="a int is not data"):
        modelopt.quantize(MLP, calib=3, bench=False)  # type: ignore[arg-type]


# Measuring


def test_bench_and_compare(calib: Arrays) -> None:
    quick = {"budget": 0.2, "warmup": 0.0, "rounds": 2, "processes": 1}
    report = modelopt.bench([MLP, MLP.read_bytes()], data=calib, **quick)  # type: ignore[arg-type]
    assert [one.path for one in report.models] == [str(MLP), "<model 2>"]
    assert report.ratios[1] is not None
    assert len(modelopt.bench(MLP, **quick).results) == 1  # type: ignore[arg-type]


def test_inspect() -> None:
    found = modelopt.inspect(MLP, layers=1)
    assert isinstance(found, modelopt.Inspection)
    assert len(found.layers) == 1
    assert found.macs.total


def test_run_a_recipe(tmp_path: Path) -> None:
    folded = modelopt.fold(MLP, bench=False, verify=False)
    (tmp_path / "fold.yaml").write_text(folded.report.recipe)
    again = modelopt.run(tmp_path / "fold.yaml", MLP, output=tmp_path / "x.onnx")
    assert again.report.recipe == folded.report.recipe
    shipped = modelopt.run("prune-magnitude", MLP, bench=False)
    assert shipped.report.passes[-1].step.startswith("prune-magnitude")
    with pytest.raises(modelopt.InputError, match="needs --eval"):
        modelopt.run(tmp_path / "fold.yaml", MLP, labels="labels.csv")


# Errors, gates, progress


def test_errors_are_of_one_kind(tmp_path: Path) -> None:
    with pytest.raises(modelopt.ModeloptError, match="<model> is not an ONNX model") as caught:
        modelopt.fold(b"Dear diary, today I trained a model.\n" * 40)
    assert str(tmp_path.parent) not in str(caught.value.note)
    with pytest.raises(modelopt.InputError, match="a list is not a model"):
        modelopt.fold([1, 2])  # type: ignore[arg-type]
    with pytest.raises(modelopt.InputError, match="bad option"):
        modelopt.fold(MLP, threads=-1)
    with pytest.raises(modelopt.InputError, match="unknown mode 'int3'"):
        modelopt.quantize(MLP, mode="int3")
    with pytest.raises(TypeError, match="sparsty"):
        modelopt.prune(MLP, sparsty=0.5)  # type: ignore[call-arg]


def test_a_gate_that_fails(tmp_path: Path) -> None:
    with pytest.raises(modelopt.GateFailed, match="max-size") as caught:
        modelopt.fold(MLP, max_size=10, output=tmp_path / "x.onnx", bench=False)
    assert isinstance(caught.value.report, modelopt.Report)
    assert not (tmp_path / "x.onnx").exists()
    kept = modelopt.fold(MLP, max_size=10, keep=True, bench=False)
    assert [gate.outcome.value for gate in kept.report.gates] == ["failed"]


def test_nothing_is_printed_and_progress_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []
    modelopt.fuse(CNN, bench=False, progress=lambda what, _done, _total: seen.append(what))
    assert "passes" in seen
    assert capfd.readouterr() == ("", "")


def test_an_unsupported_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    with pytest.raises(modelopt.EnvironmentLacks, match="does not run on win32"):
        modelopt.fold(MLP)


def test_the_import_is_lazy() -> None:
    code = "import sys, modelopt; print(*sys.modules); modelopt.ModeloptError; print(*sys.modules); dir(modelopt)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    for line in done.stdout.splitlines():
        assert not {"numpy", "onnx", "onnx_ir", "msgspec", "click", "rich", "yaml"} & {*line.split()}
    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        modelopt.quantise  # type: ignore[attr-defined]  # noqa: B018
