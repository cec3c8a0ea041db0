"""The child process: what it runs, what it survives, and what its errors say."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from modelopt import graph
from modelopt.core.errors import EnvironmentLacks, ExitCode, InputError, Refused, WorkerDied
from modelopt.io import serialize
from modelopt.runtime import processes, shape_propagation
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from modelopt.runtime.worker_session import Session
from tests.command_line import save, save_endless, value

GIB = 2**30
SPEC = SessionSpec(threads=1, spin=False)


WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """Y = relu(x @ W)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return save(tmp_path / "linear.onnx", nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], {"w": WEIGHT})


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A Loop that counts to 2^60."""
    return save_endless(tmp_path / "endless.onnx")


@pytest.fixture
def hungry(tmp_path: Path) -> Path:
    """A tensor of as many floats as the input says, made over and over so that it stays resident."""
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
        helper.make_node("Cos", ["zeros"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("Exp", ["b"], ["c"]),
        helper.make_node("Concat", ["a", "b", "c", "a", "b", "c"], ["d"], axis=0),
        helper.make_node("Sin", ["d"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["y"]),
    ]
    return save(tmp_path / "hungry.onnx", nodes, [value("n", [1], TensorProto.INT64)], [value("y", [1])])


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as each:
        yield each


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


def test_a_paused_worker_can_be_closed(linear: Path) -> None:
    with Worker() as each:
        opened(each, linear)
        each.pause()
    assert not _alive(each.pid)


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


def test_a_killed_child_is_one_error(worker: Worker, endless: Path) -> None:
    session = opened(worker, endless)
    threading.Timer(0.3, lambda: os.kill(worker.pid, signal.SIGKILL)).start()
    with pytest.raises(WorkerDied) as caught:
        session.run({"x": np.ones(1, np.float32)})
    assert caught.value.reason == "signal"
    assert "SIGKILL" in str(caught.value.note)
    assert caught.value.exit_code is ExitCode.REFUSED
    with pytest.raises(WorkerDied):
        worker.versions()


def test_an_endless_run_is_ended(endless: Path) -> None:
    with Worker(Limits(memory_bytes=4 * GIB, seconds=2)) as each:
        session = opened(each, endless)
        with pytest.raises(WorkerDied, match="longer than 2 s") as caught:
            session.run({"x": np.ones(1, np.float32)})
    assert caught.value.reason == "timeout"
    assert not _alive(each.pid)


def test_a_hungry_run_is_ended(hungry: Path) -> None:
    with Worker(Limits(memory_bytes=300 * 2**20, seconds=60)) as each:
        session = opened(each, hungry)
        assert session.run({"n": np.array([10])})[0].shape == (1,)
        with pytest.raises(WorkerDied, match=r"0\.3 GiB") as caught:
            session.run({"n": np.array([100_000_000])})
    assert caught.value.reason == "memory"


def test_a_tensor_that_cannot_be_allocated_is_one_error(worker: Worker, hungry: Path) -> None:
    session = opened(worker, hungry)
    with pytest.raises((Refused, WorkerDied)):
        session.run({"n": np.array([2**50])})


def test_an_interrupted_request_ends_the_child(worker: Worker, endless: Path) -> None:
    session = opened(worker, endless)
    main = threading.get_ident()
    threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        session.run({"x": np.ones(1, np.float32)})
    assert not _alive(worker.pid)


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


def _alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def test_shape_inference_of_doubling_vectors_ends() -> None:
    doubled = [helper.make_node("Concat", [f"v{i}"] * 2, [f"v{i + 1}"], axis=0) for i in range(20)]
    proto = helper.make_model(
        helper.make_graph(
            doubled, "g", [value("v0", [4], TensorProto.INT64)], [value("v20", [None], TensorProto.INT64)]
        )
    )
    model = serialize.from_bytes(proto.SerializeToString())
    assert not shape_propagation.is_affordable(model)
    runner = WorkerRunner()
    runner.infer_shapes(model)
    runner.close()
    assert graph.static_shape(model.graph[-1].outputs[0]) == (4 * 2**20,)


@pytest.mark.parametrize(
    ("makes", "most"),
    [
        ("r = Range (zero, huge, one)", False),
        ("r = ConstantOfShape (size)", False),
        ("r = Expand (one, size)", False),
        ("r = Tile (few, size)", False),
        ("r = Pad (few, pads)", False),
        ("r = Pad (few, pads, one)", False),
        ("r = Range (zero, one, one)", True),
        ("r = Range (zero, one, zero)", True),
        ("r = Range (zero, n, one)", True),
        ("r = Tile (few, few)", True),
        ("r = ConstantOfShape (plane)", True),  # only vectors are propagated
        ("r = Tile (few, word)", True),
    ],
)
def test_numbers_that_one_node_makes_are_counted_before_they_are_propagated(makes: str, most: bool) -> None:
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (int64 n) => (int32[k] y)
        <int64 zero = {{0}}, int64 huge = {{{2**62}}}, int64 one = {{1}}, int64[1] size = {{{2**62}}},
         int64[1] few = {{3}}, int64[2] pads = {{0, {2**62}}},
         int64[2] plane = {{100000, 100000}}, string[1] word = {{"x"}}>
        {{ {makes} y = Cast <to = 6> (r) }}"""
    )
    assert shape_propagation.is_affordable(model) is most


def test_sizes_in_attributes_of_old_opsets_are_not_looked_for_in_inputs() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 4, opset_import: ["" : 9]> g (int64[2] x) => (int32[4] y)
        { p = Pad <pads = [1, 1]> (x) y = Cast <to = 6> (p) }"""
    )
    assert shape_propagation.is_affordable(model)


def test_a_request_behind_the_end_is_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    """A session that is opened in the background may still be waited for when something else ends the run."""
    worker = Worker()
    worker.close()
    with pytest.raises(WorkerDied, match="came too late"):
        worker.versions()
    worker.keep_soon(Path("m.onnx"), SessionSpec())
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(open_quietly)"):
            thread.join()
    assert "Traceback" not in capfd.readouterr().err
