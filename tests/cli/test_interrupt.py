"""Ctrl-C, SIGTERM and kill -9 in the middle: the old output is intact and nothing is left that a later run trips over.

The user's own data function says where the command is: it says so on stderr and waits there for the signal. No clock.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import CNN, EVAL, MLP, PATIENCE, modelopt, start

OLD = MLP.read_bytes()

# While a pass asks for samples; and while the result is being compared, when it lies complete beside its name.
DURING_PASSES = "True"
WHILE_STAGED = "list(HERE.glob('.x.onnx.*'))"

SCRIPT = """
import os
import signal
from pathlib import Path
import numpy as np

HERE = Path(__file__).parent

def feeds():
    with np.load({data!r}) as arrays:
        images = arrays["image"]
    yield {{"image": images[:1]}}
    if {condition}:
        os.write(2, b"reached\\n")
        signal.pause()
    yield {{"image": images[1:2]}}
"""


@pytest.fixture(autouse=True)
def _hang_ups_are_not_ignored() -> Iterator[None]:
    """The tests may run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "temporary").mkdir()
    (here / "x.onnx").write_bytes(OLD)
    return here


def stopped_at(folder: Path, condition: str, *more: str) -> subprocess.Popen[bytes]:
    """The command, waiting where `condition` holds."""
    script = folder / "data.py"
    script.write_text(SCRIPT.format(data=str(EVAL.parents[1] / "digits_cnn" / "eval.npz"), condition=condition))
    flag = "--calib" if condition == DURING_PASSES else "--eval"
    command = ["quantize", "--calib", "data.py:feeds"] if flag == "--calib" else ["fuse", "--eval", "data.py:feeds"]
    temporary = str(folder.parent / "temporary")
    process = start(*command, CNN, "-o", "x.onnx", "--no-bench", *more, cwd=folder, TMPDIR=temporary)
    assert process.stderr is not None
    said = process.stderr.readline()
    assert said == b"reached\n", said + process.stderr.read()
    return process


@pytest.fixture(params=[DURING_PASSES, WHILE_STAGED], ids=["during-passes", "while-staged"])
def process(request: pytest.FixtureRequest, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    with stopped_at(folder, request.param) as running:
        yield running
        running.kill()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_leaves_nothing(folder: Path, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    out, err = process.communicate(timeout=100 * PATIENCE)
    assert process.returncode == 128 + number, err.decode()
    assert out == b""
    assert err.decode().split("\n") == ["", "modelopt: interrupted, nothing was written", ""]  # not behind a "^C"
    assert {path.name for path in folder.iterdir()} == {"data.py", "x.onnx"}
    assert (folder / "x.onnx").read_bytes() == OLD
    assert list((folder.parent / "temporary").iterdir()) == []


def test_an_interrupt_says_what_was_written_before_it(folder: Path) -> None:
    with stopped_at(folder, WHILE_STAGED, "--dump-dir", "dumps") as running:
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=100 * PATIENCE)
    dumped = sorted(path.name for path in (folder / "dumps").iterdir())
    assert dumped
    assert all(name.endswith(".onnx") and not name.startswith(".") for name in dumped)
    written = "; ".join(f"dumps/{name} was written" for name in dumped)
    assert err.decode() == f"\nmodelopt: interrupted, {written}\n"


def test_a_kill_leaves_the_old_output_and_the_next_run_cleans_up(
    folder: Path, process: subprocess.Popen[bytes]
) -> None:
    children = _children(process.pid)
    process.kill()
    process.communicate(timeout=100 * PATIENCE)
    assert process.returncode == -signal.SIGKILL
    assert (folder / "x.onnx").read_bytes() == OLD
    assert children
    for child in children:
        _wait_for_end(child)
    temporary = folder.parent / "temporary"
    assert [path.name.partition("-")[0] for path in temporary.iterdir()] == ["modelopt"]

    quick = ("--no-bench", "--no-verify")
    modelopt("fuse", CNN, "-o", "x.onnx", *quick, cwd=folder, env={"TMPDIR": str(temporary)}).succeeded()
    assert list(temporary.iterdir()) == []
    assert {path.name for path in folder.iterdir()} == {"data.py", "x.onnx"}
    assert (folder / "x.onnx").read_bytes() != OLD


def test_a_stale_file_of_a_run_that_still_lives_is_left_alone(folder: Path) -> None:
    with stopped_at(folder, WHILE_STAGED) as running:
        (staged,) = folder.glob(".x.onnx.*")
        modelopt("fuse", CNN, "-o", "x.onnx", "--no-bench", "--no-verify", cwd=folder).succeeded()
        assert staged.exists()
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=100 * PATIENCE)
        assert not staged.exists()


def test_what_nohup_ignores_stays_ignored(folder: Path) -> None:
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        running = stopped_at(folder, DURING_PASSES)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    with running:
        running.send_signal(signal.SIGHUP)
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=100 * PATIENCE)
    assert running.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_python_imports_is_quiet(tmp_path: Path, number: signal.Signals) -> None:
    """A module that the command line imports sends it, in place of a hand on the keyboard."""
    (tmp_path / "click.py").write_text(f"import os\nos.kill(os.getpid(), {int(number)})\n")
    done = modelopt("--help", cwd=tmp_path, env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.out) == (128 + number, b"")
    assert done.err == "\nmodelopt: interrupted, nothing was written\n"


def _children(pid: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _wait_for_end(pid: int) -> None:
    """The child process dies with its parent."""
    while True:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state in {"Z", "X"}:
            return
