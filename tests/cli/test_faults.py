"""What the command is started with: streams closed or full, limits, names that are not UTF-8, Python settings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.command_line import CNN, CNN_CALIB, COMMAND, QUICK, Ran, environment, modelopt, op_types, shell, value

NAME = os.fsdecode(b"caf\xe9.onnx")
NO_ROOM = ("standard output cannot be written to", "No space left on device")
CLOSED = ("standard output cannot be written to", "Bad file descriptor")
FUSE = f"modelopt fuse {CNN} --no-bench --no-verify"


def lines_of(run: Ran, code: int) -> list[str]:
    assert run.code == code, run.err
    assert "Traceback" not in run.err
    return run.err.splitlines()


@pytest.mark.parametrize(("where", "words"), [("/dev/full", NO_ROOM), ("&-", CLOSED)])
@pytest.mark.parametrize("command", [f"modelopt inspect {CNN}", "modelopt --help", f"{FUSE} -o -"])
def test_a_standard_output_that_takes_nothing(tmp_path: Path, command: str, where: str, words: tuple[str, str]) -> None:
    shell(f"{command} >{where}", tmp_path).refused(4, *words)


@pytest.mark.parametrize("where", ["/dev/full", "&-"])
def test_messages_that_nobody_can_read_are_dropped(tmp_path: Path, where: str) -> None:
    run = shell(f"{FUSE} -o x.onnx 2>{where}", tmp_path).succeeded()
    assert run.created == {"x.onnx"}
    assert op_types(tmp_path / "x.onnx") == op_types(CNN) - {"BatchNormalization"}
    assert lines_of(shell(f"modelopt inspect missing.onnx 2>{where}", tmp_path), 2) == []


def test_a_closed_standard_input(tmp_path: Path) -> None:
    shell("modelopt inspect - <&-", tmp_path).refused(2, "stdin is closed")
    shell(f"{FUSE} -o x.onnx <&- >&- 2>&-", tmp_path).succeeded()
    assert onnx.load(tmp_path / "x.onnx").graph.node


def test_a_reader_that_leaves(tmp_path: Path) -> None:
    """The reader is gone before the first line."""
    run = shell(f"modelopt inspect {CNN} | true", tmp_path)
    assert (run.code, run.out, run.err) == (141, b"", "")


@pytest.mark.parametrize("command", [f"modelopt inspect {CNN}", f"{FUSE} -o x.onnx"])
def test_few_open_files(tmp_path: Path, command: str) -> None:
    run = shell(f"ulimit -n 9; {command}", tmp_path)
    assert lines_of(run, 4)[1:] == ["note: Too many open files", "hint: allow more open files: ulimit -n 1024"]
    assert run.created == set()


def test_little_virtual_memory(tmp_path: Path) -> None:
    shell(f"ulimit -v 100000; modelopt inspect {CNN}", tmp_path).refused(4, "97 MiB", "ulimit -v")


def test_no_place_for_temporary_files_but_another_one(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path, env={"TMPDIR": "/proc", "TERM": "dumb"})
    assert run.succeeded().created == {"x.onnx"}


def subprocess_bytes(arguments: list[str], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """Like `modelopt`, with bytes that need not be UTF-8."""
    return subprocess.run([COMMAND, *arguments], cwd=cwd, capture_output=True, env=environment(cwd, **env), check=False)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_an_encoding_that_lacks_characters(tmp_path: Path, encoding: str) -> None:
    name = tmp_path / "größe-模型.onnx"
    shutil.copy(CNN, name)
    env = {"PYTHONIOENCODING": encoding, "LC_ALL": "POSIX"}
    shown = subprocess_bytes(["inspect", name.name], tmp_path, env)
    assert b"\\u6a21" in shown.stdout, shown.stderr
    found = subprocess_bytes(["fuse", name.name, "-o", "x.onnx", "--json", *QUICK], tmp_path, env)
    assert json.loads(found.stdout.decode(encoding))["input"]["path"] == name.name
    missing = subprocess_bytes(["inspect", "模.onnx"], tmp_path, env)
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[0] == b"modelopt: error: \\u6a21.onnx does not exist"


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"\xff")
    folder.mkdir()
    onnx.save(onnx.load(CNN), tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    for name in ("m.onnx", "m.data"):
        (tmp_path / name).replace(folder / name)
    shutil.copy(CNN, folder / NAME)
    out = os.fsdecode(b"\xfe.onnx")
    report = os.fsdecode(b"\xfd.json")
    run = modelopt("fuse", NAME, "-o", out, "--no-bench", "--report", report, "--json", cwd=folder).succeeded()
    assert json.loads(run.out)["input"]["path"] == "caf\\xe9.onnx"
    assert json.loads((folder / report).read_text())["output"]["path"] == "\\xfe.onnx"
    modelopt("fuse", "m.onnx", "-o", "x.onnx", "--no-bench", cwd=folder).succeeded()
    data = os.fsdecode(b"\xfc.npz")
    shutil.copy(CNN_CALIB, folder / data)
    flags = ("--target", "x86-vnni", "--no-search", *QUICK)
    modelopt("quantize", NAME, "--calib", data, "-o", "q.onnx", *flags, cwd=folder).succeeded()
    assert "BatchNormalization" not in op_types(folder / "q.onnx")
    told = modelopt("fuse", NAME, "-o", out, "--external-data", "always", *QUICK, cwd=folder)
    told.refused(2, "\\udcfe.onnx is not UTF-8", "give -o another name")
    modelopt("inspect", f"no-{NAME}", cwd=folder).refused(2, "does not exist", "did you mean")


def test_python_without_docstrings_and_assertions(tmp_path: Path) -> None:
    env = {"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1"}
    for arguments in (["passes", "fuse-conv-bn"], ["--help"], ["quantize", "--help"]):
        stripped = modelopt(*arguments, cwd=tmp_path, env=env).succeeded().out
        assert stripped == modelopt(*arguments, cwd=tmp_path).succeeded().out
    modelopt("fuse", CNN, "-o", "x.onnx", "--no-bench", cwd=tmp_path, env=env).succeeded()
    assert "BatchNormalization" not in op_types(tmp_path / "x.onnx")


# A model that another program writes to while it is read

CUT = """
import os
from pathlib import Path
import numpy as np

def feeds():
    yield {"x": np.ones((1, 8, 512), np.float32)}
    path = Path(__file__).parent / os.environ["SPOILED"]
    if os.environ["HOW"] == "cut":
        os.truncate(path, 5000)
    else:
        path.write_bytes(path.read_bytes())
        os.utime(path, (1, 1))
"""


@pytest.fixture
def product(tmp_path: Path) -> Path:
    """A folder with m.onnx, 1 MiB of weights in m.data."""
    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "g",
        [value("x", [1, 8, 512])],
        [value("y", [1, 8, 512])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "data.py").write_text(CUT)
    return tmp_path


@pytest.mark.parametrize(("model", "spoiled"), [("inside.onnx", "inside.onnx"), ("m.onnx", "m.data")])
def test_a_model_that_is_cut_short_while_it_is_mapped(product: Path, model: str, spoiled: str) -> None:
    run = modelopt(
        *("quantize", model, "--calib", "data.py:feeds", "-o", "x.onnx", "--target", "x86-vnni", "--no-search", *QUICK),
        cwd=product,
        env={"SPOILED": spoiled, "HOW": "cut", "TMPDIR": str(product)},
    )
    run.refused(2, f"{spoiled} became shorter while it was read")


@pytest.mark.parametrize(("model", "spoiled"), [("inside.onnx", "inside.onnx"), ("m.onnx", "m.data")])
def test_a_model_that_is_written_to_while_it_is_read(product: Path, model: str, spoiled: str) -> None:
    run = modelopt(
        *("quantize", model, "--calib", "data.py:feeds", "-o", "x.onnx", "--target", "x86-vnni", "--no-search", *QUICK),
        cwd=product,
        env={"SPOILED": spoiled, "HOW": "written", "TMPDIR": str(product)},
    )
    run.refused(2, f"{spoiled} was changed while it was read")
