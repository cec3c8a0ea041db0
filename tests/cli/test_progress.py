"""What is printed while a command works: one line that says the part of the work, its stage, and what is left."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from modelopt.cli import progress_text
from modelopt.cli.progress_text import ProgressLines, ProgressText
from tests.command_line import CALIB, MLP, QUICK, modelopt


class Clock:
    """Seconds that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_line() -> None:
    clock = Clock()
    text = ProgressText(clock)
    assert text.line() == ""
    text.update("trial 2: quantize-static", 1, None)
    assert text.line() == "trial 2: quantize-static"
    text.update("timing", 3_100_000_000, 5_000_000_000)
    assert text.line() == "trial 2: quantize-static · timing 3.1 of at most 5 s"
    text.update("calibrating", 0, 64)
    assert text.line() == "trial 2: quantize-static · calibrating 1 of 64"
    clock.now = 4.0
    text.update("calibrating", 16, 64)
    assert text.line() == "trial 2: quantize-static · calibrating 17 of 64 · about 12 s left"
    text.update("the result", 0, None)
    assert text.line() == "the result"
    text.update("a\x1b[2Jname", 0, None)
    assert text.line() == r"a\x1b[2Jname"


def test_off_a_terminal_a_long_silence_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work makes no call for long: a line says that it goes on."""
    monkeypatch.setattr(progress_text, "QUIET_SECONDS", 0.0)
    said = threading.Event()

    class Stream(io.StringIO):
        def flush(self) -> None:
            said.set()

    stream = Stream()
    with ProgressLines(stream, every_stage=False) as lines:
        lines.update("hashing", 0, 1)
        assert said.wait(30)
    assert stream.getvalue().startswith("modelopt: hashing (")


def test_the_stages_of_a_command(tmp_path: Path) -> None:
    words = ("quantize", MLP, "--calib", CALIB, "-o", "x.onnx", *QUICK)
    told = modelopt(*words, "-v", cwd=tmp_path).succeeded().err.splitlines()
    lines = [line.removeprefix("modelopt: ") for line in told if line.startswith("modelopt: ")]
    assert "the result · calibrating" in lines
    assert not any(".onnx" in line or "0000" in line for line in lines)
    assert len(lines) == len(set(lines))
    quiet = modelopt(*words, "--force", cwd=tmp_path).succeeded().err
    assert "modelopt: " not in quiet  # it takes no 15 seconds
