"""The child process: what it runs, what it survives, and what its errors say."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from modelopt.core.errors import EnvironmentLacks, InputError, Refused, WorkerDied
from modelopt.runtime import processes
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_session import Session
from tests.command_line import save, value
from tests.runtime.conftest import WEIGHT

pytestmark = pytest.mark.usefixtures("started_children")

SPEC = SessionSpec(threads=1, spin=False)


def opened(worker: Worker, path: Path, spec: SessionSpec = SPEC) -> Session:
    return worker.open(path, spec)


def test_a_model_computes_what_numpy_does(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    (y,) = session.run({"x": x})
    np.testing.assert_allclose(y, np.maximum(x @ WEIGHT, 0), rtol=1e-5)
    assert session.info.providers == ("CPUExecutionProvider",)
    assert [each.name for each in session.info.inputs] == ["x"]
    assert session.info.inputs[0].shape == ("n", 4)
    assert session.info.load_ns > 0


def test_outputs_are_chosen_by_name_and_empty_batches_work(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear)
    (y,) = session.run({"x": np.zeros((0, 4), np.float32)}, ["y"])
    assert y.shape == (0, 3)
    assert worker.peak_bytes() > 2**20


def test_held_feeds_are_timed_as_often_as_asked(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear)
    for slot in range(2):
        worker.hold(slot, {"x": np.zeros((1 + slot, 4), np.float32)})
    assert len(session.time(3)) == 3
    assert len(session.time(3, slot=1, lead_in=2)) == 3
    assert all(sample > 0 for sample in session.time(4))


def test_a_paused_worker_goes_on_when_asked(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear)
    worker.pause()
    worker.pause()
    assert session.run({"x": np.zeros((1, 4), np.float32)})[0].shape == (1, 3)


def test_a_profile_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear: Path) -> None:
    """Whether it was read, or its session did not load, did not run, or died with the child."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    spec = SessionSpec(threads=1, spin=False, profile=True, trace=True)
    unknown = save(tmp_path / "u.onnx", [helper.make_node("None", ["x"], ["y"])], [value("x", [1])], [value("y", [1])])
    with Worker() as worker:
        assert worker.open(linear, spec).info.inputs
        with pytest.raises(Refused):
            worker.open(unknown, spec)
        failing = worker.open(linear, spec)
        with pytest.raises(Refused):
            failing.run({"x": np.ones((1, 5), np.float32)})
        read = worker.open(linear, spec)
        read.run({"x": np.ones((1, 4), np.float32)})
        assert len(read.profile()) == 2
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            failing.run({"x": np.ones((1, 4), np.float32)})
    assert list(folder.iterdir()) == []


def test_the_profile_names_the_provider_of_each_node(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear, SessionSpec(threads=1, spin=False, profile=True))
    session.run({"x": np.zeros((1, 4), np.float32)})
    assert {run.provider for run in session.profile()} == {"CPUExecutionProvider"}


def test_an_unknown_provider_is_the_users_mistake(worker: Worker, linear: Path) -> None:
    with pytest.raises(InputError, match="unknown provider 'cdua'") as caught:
        opened(worker, linear, SessionSpec(provider="cdua"))
    assert caught.value.hint == "did you mean 'cuda'?"


def test_a_provider_that_is_not_installed_is_the_environments_lack(worker: Worker, linear: Path) -> None:
    with pytest.raises(EnvironmentLacks, match="RknpuExecutionProvider is not available") as caught:
        opened(worker, linear, SessionSpec(provider="RknpuExecutionProvider"))
    assert "CPUExecutionProvider" in str(caught.value.note)
    assert opened(worker, linear).info.outputs[0].name == "y"  # the child lives on


@pytest.mark.parametrize(
    ("installed", "message"),
    [
        ({"onnxruntime", "onnxruntime-gpu"}, "onnxruntime and onnxruntime-gpu are installed together"),
        (set[str](), "onnxruntime is not installed"),
    ],
)
def test_one_runtime_and_only_one(monkeypatch: pytest.MonkeyPatch, installed: set[str], message: str) -> None:
    def version(name: str) -> str:
        if name not in installed:
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    monkeypatch.setattr(importlib.metadata, "version", version)
    with pytest.raises(EnvironmentLacks, match=message):
        Worker()


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x09"])
def test_what_is_not_a_model_is_refused(worker: Worker, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(Refused, match=r"loading the model .* failed"):
        opened(worker, path)


def test_a_wrong_feed_is_refused_with_the_runtimes_words(worker: Worker, linear: Path) -> None:
    session = opened(worker, linear)
    with pytest.raises(Refused, match=r"running the model .* failed") as caught:
        session.run({"x": np.zeros((1, 5), np.float32)})
    assert caught.value.note
    with pytest.raises(Refused):
        session.run({"other": np.zeros((1, 4), np.float32)})


def test_telemetry_is_off_in_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY")
    with Worker() as worker:
        worker.versions()
        environment = Path(f"/proc/{worker.pid}/environ")
        if not environment.exists():
            pytest.skip("no /proc here")
        assert b"ORT_DISABLE_TELEMETRY=1" in environment.read_bytes().split(b"\0")


def test_native_prints_do_not_reach_the_pipe(monkeypatch: pytest.MonkeyPatch, linear: Path) -> None:
    printing = (
        "import os; from modelopt.runtime.child_session import ChildSession as S; run = S.values; "
        "S.values = lambda *a: (os.write(1, b'a native print'), run(*a))[1]; main()"
    )
    monkeypatch.setattr(processes, "_CODE", processes._CODE.replace("main()", printing))
    with Worker() as each:
        session = opened(each, linear)
        assert session.run({"x": np.zeros((1, 4), np.float32)})[0].shape == (1, 3)
        assert session.run({"x": np.zeros((2, 4), np.float32)})[0].shape == (2, 3)


def test_strings_cross_the_pipe(worker: Worker, tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["s"], ["t"])]
    strings = [value("s", [None, 2], TensorProto.STRING)], [value("t", [None, 2], TensorProto.STRING)]
    session = opened(worker, save(tmp_path / "strings.onnx", nodes, *strings))
    words = np.array([["a", "ü"], ["", "[red]\n"]], object)
    (found,) = session.run({"s": words})
    assert found.dtype == object
    assert found.tolist() == words.tolist()
    assert session.run({"s": words.astype(np.str_)})[0].tolist() == words.tolist()


def test_scalars_stay_scalars(worker: Worker, tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    session = opened(worker, save(tmp_path / "scalar.onnx", nodes, [value("x", [])], [value("y", [])]))
    (found,) = session.run({"x": np.array(2.5, np.float32)})
    assert found.shape == ()
    assert found.item() == -2.5


def test_bfloat16_at_the_boundary_is_refused_and_inside_it_works(worker: Worker, tmp_path: Path) -> None:
    bfloat16 = TensorProto.BFLOAT16
    outside = save(
        tmp_path / "outside.onnx",
        [helper.make_node("Identity", ["x"], ["y"])],
        [value("x", [2], bfloat16)],
        [value("y", [2], bfloat16)],
    )
    session = opened(worker, outside)
    with pytest.raises(Refused) as caught:
        session.run({"x": np.ones(2, ml_dtypes.bfloat16)})
    assert caught.value.note

    inside = save(
        tmp_path / "inside.onnx",
        [
            helper.make_node("Cast", ["x"], ["b"], to=bfloat16),
            helper.make_node("Cast", ["b"], ["y"], to=TensorProto.FLOAT),
        ],
        [value("x", [2])],
        [value("y", [2])],
    )
    (found,) = opened(worker, inside).run({"x": np.array([1.0, 3.0], np.float32)})
    assert found.tolist() == [1.0, 3.0]


def test_native_checks_cross_the_pipe(worker: Worker, linear: Path) -> None:
    model = linear.read_bytes()
    assert worker.transform("check", model, doing="checking") == b""
    assert worker.transform("infer_shapes", model, doing="shape inference", data_prop=True)
    with pytest.raises(Refused, match="checking failed"):
        worker.transform("check", b"\x08\x09", doing="checking")
