"""A fork of the server is what the installed command is, and what a child process is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command_line import CNN, Argument, environment, installed, modelopt
from tests.forks import client

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nothing is forked")


@pytest.mark.parametrize("arguments", [("inspect", CNN), ("fold", "missing.onnx", "-o", "x.onnx"), ("inspect", "-")])
def test_a_fork_says_what_the_installed_command_says(tmp_path: Path, arguments: tuple[Argument, ...]) -> None:
    assert modelopt(*arguments, cwd=tmp_path) == installed(*arguments, cwd=tmp_path)


def test_forks_share_no_folder_and_no_environment(tmp_path: Path) -> None:
    """Each has what it was given, and the next one has nothing of it."""
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        asked = {"_MODELOPT_COMPLETE": "bash_complete", "COMP_WORDS": "modelopt qu", "COMP_CWORD": "1"}
        assert modelopt(cwd=folder, env=asked).out == b"plain,quantize\n"
        assert modelopt("fold", CNN, "-o", f"{name}.onnx", "--no-bench", "--no-verify", cwd=folder).code == 0
        assert modelopt("--version", cwd=folder).out.startswith(b"modelopt ")
        assert [path.name for path in folder.iterdir()] == [f"{name}.onnx"]


def test_how_a_fork_ends_is_told_once_and_for_all(tmp_path: Path) -> None:
    child = client.start(preload="onnx", cwd=tmp_path, environment=environment(tmp_path), stderr=2)
    with child.stdin, child.stdout:
        assert child.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0)
        child.kill()
        assert child.wait() == child.wait() == child.poll() == child.returncode == -signal.SIGKILL
        child.kill()  # nothing is there any more
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


def test_a_child_that_loses_its_parent_ends(tmp_path: Path) -> None:
    child = client.start(preload="onnx", cwd=tmp_path, environment=environment(tmp_path), stderr=2)
    with child.stdout:
        child.stdin.close()
        assert child.wait(timeout=60) == 0
