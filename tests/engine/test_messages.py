"""What messages call a model, whose fault they say it is, and which flags they name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from modelopt.core import temporary
from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine import error_notes
from modelopt.runtime import wording
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from tests.command_line import QUICK, modelopt, save, value


@pytest.mark.parametrize(
    ("path", "what", "said"),
    [
        (Path("nets/cnn.onnx"), "model", "the model nets/cnn.onnx"),
        (Path("nets/cnn.onnx"), "original", "the model nets/cnn.onnx"),
        (Path("nets/.cnn.onnx.17.tmp.onnx"), "model", wording.OURS),
        (Path("nets/cnn.onnx"), "result", wording.OURS),
        (Path("a.onnx"), "model that this pass works on", "the model that this pass works on"),
    ],
)
def test_a_model_is_called_by_its_file_where_it_is_the_users(path: Path, what: str, said: str) -> None:
    assert wording.called(path, what) == said


def test_a_temporary_model_is_not_called_by_its_file() -> None:
    with temporary.folder() as folder:
        assert wording.called(folder / "candidate-3.onnx", "model") == wording.OURS
        assert wording.called(folder / "stdin.onnx", "model") == "the model on stdin"
    assert wording.called(folder / "m.onnx", "model") == f"the model {folder / 'm.onnx'}"


def test_the_runtimes_text_is_the_same_each_time_and_names_no_file() -> None:
    start = "[ONNXRuntimeError] : 1 : FAIL : Load model from /tmp/x/model.onnx failed:Node (n): "
    types = ["tensor(int8)", "tensor(bool)", "map(int64,tensor(float))", "tensor(double)", "seq(tensor(float))"]
    texts = {
        wording.plain(f"{start}inferred types: index=0,{','.join(listed)}")
        for listed in (types, types[::-1], types[2:] + types[:2])
    }
    cut = "map(int64,tensor(float)),seq(tensor(float)),tensor(bool) and 2 more"
    assert texts == {f"Node (n): inferred types: index=0,{cut}"}


_SOURCES = "/onnxruntime_src/onnxruntime/core/"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            (
                "1 : FAIL : Non-zero status code returned while running Reshape node. Name:'r' Status Message: "
                f"{_SOURCES}providers/cpu/tensor/reshape_helper.h:91 onnxruntime::ReshapeHelper::ReshapeHelper("
                "const onnxruntime::TensorShape&, onnxruntime::TensorShapeVector&, bool) input_shape_size == "
                "requested_shape_size was false. The input tensor cannot be reshaped to the requested shape."
            ),
            "Reshape 'r': The input tensor cannot be reshaped to the requested shape.",
        ),
        (
            (
                "1 : FAIL : Non-zero status code returned while running MatMul node. Name:'' Status Message: "
                "matmul_helper.h:59 Compute MatMul dimension mismatch"
            ),
            "MatMul: MatMul dimension mismatch",
        ),
        (
            (
                f"1 : FAIL : {_SOURCES}graph/model_load_utils.h:46 void onnxruntime::model_load_utils::Validate("
                "const std::unordered_map<std::__cxx11::basic_string<char>, int>&, bool, const std::string&, int) "
                "Opset 99 is under development"
            ),
            "Opset 99 is under development",
        ),
        (
            (
                f"6 : RUNTIME_EXCEPTION : {_SOURCES}x.cc:7 virtual onnxruntime::common::Status "
                "onnxruntime::Conv<float>::Compute(onnxruntime::OpKernelContext*) const size > 0 was false. "
            ),
            "size > 0 was false.",
        ),
        (
            (
                '10 : INVALID_GRAPH : This is an invalid model. In Node, ("n", Foo, "", -1) : ("x": tensor(float),) -> '
                '("y": tensor(float),) , Error No Op registered for Foo with domain_version of 17'
            ),
            "Foo 'n': No Op registered for Foo with domain_version of 17",
        ),
        (
            (
                "2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices\n index: 2 "
                "Got: 3 Expected: 4\n Please fix either the inputs/outputs or the model."
            ),
            "Got invalid dimensions for input: x for the following indices index: 2 Got: 3 Expected: 4",
        ),
    ],
)
def test_the_runtimes_text_names_no_place_in_its_sources(text: str, said: str) -> None:
    assert wording.plain(f"[ONNXRuntimeError] : {text}") == said


def test_a_result_that_crashes_is_not_the_users_fault(tmp_path: Path) -> None:
    with Worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="loading the model that modelopt made crashed") as caught:  # noqa: SIM117
            with error_notes.explained(tmp_path / "m.onnx", ["fuse-a", "convert-half", "convert-half"]):
                worker.open(tmp_path / "x.onnx", SessionSpec(), what="result")
    assert str(caught.value.note).endswith("SIGKILL; that model was made by fuse-a, convert-half")
    assert "your model is not at fault" in str(caught.value.hint)


def test_a_model_of_the_user_that_crashes_is_suspected(tmp_path: Path) -> None:
    with Worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match=r"loading the model .*m\.onnx crashed") as caught:  # noqa: SIM117
            with error_notes.explained(tmp_path / "m.onnx", ["convert-half"]):
                worker.open(tmp_path / "m.onnx", SessionSpec())
    assert "made by" not in str(caught.value.note)
    assert "hostile" in str(caught.value.hint)


@pytest.fixture
def unknown(tmp_path: Path) -> Path:
    """A model with an operator that no runtime knows."""
    nodes = [helper.make_node("MyOp", ["x"], ["h"], domain="acme"), helper.make_node("MatMul", ["h", "w"], ["y"])]
    weights = {"w": np.ones((64, 64), np.float32)}
    path = save(tmp_path / "m.onnx", nodes, [value("x", [1, 64])], [value("y", [1, 64])], weights)
    model = onnx.load(path)
    model.opset_import.add(domain="acme", version=1)
    onnx.save(model, path)
    return path


_OPTIMIZING = (
    ["fold"],
    ["fuse"],
    ["prune", "--sparsity", "0.5"],
    ["quantize", "--mode", "dynamic"],
    ["quantize", "--mode", "storage"],
    ["quantize", "--mode", "fp16", "--no-search"],
)


@pytest.mark.parametrize("command", _OPTIMIZING)
def test_a_model_that_onnxruntime_does_not_load_is_refused_alike(unknown: Path, command: list[str]) -> None:
    ran = modelopt(*command, "m.onnx", "-o", "x.onnx", cwd=unknown.parent)
    ran.refused(3, "error: loading the model m.onnx failed", "acme", "--no-verify --no-bench")
    assert "Load model from" not in ran.err
    assert "Not verified (--no-verify)" in modelopt(*command, "m.onnx", "-o", "x.onnx", *QUICK, cwd=unknown.parent).err


@pytest.mark.parametrize(
    ("command", "flag"), [(["bench", "m.onnx"], "--data DATA"), (["compare", "m.onnx", "m.onnx"], "--eval DATA")]
)
def test_the_flag_for_real_data_is_one_that_the_command_has(tmp_path: Path, command: list[str], flag: str) -> None:
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, None)] for name in "sy")
    save(tmp_path / "m.onnx", [helper.make_node("Identity", ["s"], ["y"])], inputs, outputs)
    ran = modelopt(*command, cwd=tmp_path).refused(2, "the rank of input 's' is unknown", flag)
    assert "--no-verify" not in ran.err


def test_only_refusals_of_the_users_model_get_the_way_around(tmp_path: Path) -> None:
    for path, hint in ((tmp_path / "m.onnx", error_notes.WITHOUT), (tmp_path / "other.onnx", None)):
        error = Refused("loading failed")
        error.model = path
        with pytest.raises(Refused), error_notes.explained(tmp_path / "m.onnx", []):
            raise error
        assert error.hint == hint
