"""Start-up, HOME, and environments in which the command must not run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from modelopt import cli
from modelopt.cli import COMMANDS
from tests.command_line import CALIB, CNN, COMMAND, EVAL, MLP, environment, modelopt

HEAVY = {"jinja2", "numpy", "onnx", "onnx_ir", "onnxruntime", "rich", "yaml", "PIL", "psutil", "msgspec", "archspec"}


def imported(tmp_path: Path, *arguments: str) -> tuple[set[str], str]:
    """The top-level modules that the command imports, and what it prints."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", COMMAND, *arguments],
        cwd=tmp_path,
        capture_output=True,
        env=environment(tmp_path),
        check=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}, done.stdout


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    modules, text = imported(tmp_path, "--help")
    assert "click" in modules
    assert not modules & HEAVY
    assert all(name in text for name in COMMANDS)
    assert "modelopt quantize --calib" in text


@pytest.mark.parametrize("arguments", [["--version"], ["makefile"], ["completion", "bash"]])
def test_small_commands_import_nothing_heavy(tmp_path: Path, arguments: list[str]) -> None:
    modules, text = imported(tmp_path, *arguments)
    assert not modules & HEAVY
    assert text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command(tmp_path: Path, name: str) -> None:
    modules, text = imported(tmp_path, name, "--help")
    assert not modules & HEAVY
    assert "Example" in text
    assert f"modelopt {name}" in text.partition("Example")[2]


def test_shell_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    env = {"_MODELOPT_COMPLETE": "bash_complete", "COMP_WORDS": "modelopt qu", "COMP_CWORD": "1"}
    run = modelopt(cwd=tmp_path, env=env).succeeded()
    assert run.out == b"plain,quantize\n"


# Laws


def test_home_stays_empty(tmp_path: Path) -> None:
    """The whole of a run: passes, verification, benchmark, accuracy. onnxruntime's telemetry would leave a database."""
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    run = modelopt(
        *("quantize", CNN, "--calib", CALIB.parents[1] / "digits_cnn" / "calib.npz"),
        *("--eval", EVAL.parents[1] / "digits_cnn" / "eval.npz"),
        *("-o", "x.onnx", "--no-search", "--budget", "0.2", "--warmup", "0", "--rounds", "2"),
        cwd=work,
        env={"HOME": str(home), "TMPDIR": str(tmp_path)},
    )
    run.succeeded()
    assert run.created == {"x.onnx"}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "work"}
    assert list(home.iterdir()) == []


def test_no_network(tmp_path: Path) -> None:
    alone = ["unshare", "-rn"]
    if subprocess.run([*alone, "true"], capture_output=True, check=False).returncode:
        pytest.skip("may not make a network namespace")
    done = subprocess.run(
        [*alone, COMMAND, "fuse", CNN, "-o", "x.onnx", "--no-bench"],
        cwd=tmp_path,
        capture_output=True,
        env=environment(tmp_path),
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_an_unsupported_system_is_one_line(tmp_path: Path) -> None:
    code = (
        "import sys; from modelopt.cli import main; sys.platform = 'win32'; sys.argv = ['modelopt', 'passes']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=False, text=True)
    assert done.returncode == 4
    assert done.stdout == ""
    assert [line.partition(":")[0] for line in done.stderr.splitlines()] == ["modelopt", "note", "hint"]
    assert "modelopt does not run on win32" in done.stderr


@pytest.mark.parametrize(("asked", "shown"), [([], 0), (["default"], 1)])
def test_warnings_of_libraries_go_nowhere_but_where_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, asked: list[str], shown: int
) -> None:
    monkeypatch.setattr(sys, "warnoptions", asked)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        cli._quieten_libraries()
        warnings.warn("divide by zero", RuntimeWarning, stacklevel=1)
    assert len(found) == shown


# Clashes


def distribution(folder: Path, name: str) -> Path:
    """An installed distribution, as far as its metadata say."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return folder


def test_beside_the_other_modelopt(tmp_path: Path) -> None:
    site = distribution(tmp_path / "site-packages", "nvidia-modelopt")
    run = modelopt("fold", MLP, "-o", "x.onnx", cwd=tmp_path, env={"PYTHONPATH": str(site)})
    run.refused(4, "nvidia-modelopt", "virtual environment")


@pytest.mark.parametrize("arguments", [["fold", MLP, "-o", "x.onnx"], ["bench", MLP]])
def test_two_runtimes(tmp_path: Path, arguments: list[str | Path]) -> None:
    site = distribution(tmp_path / "site", "onnxruntime-gpu")
    run = modelopt(*arguments, cwd=tmp_path, env={"PYTHONPATH": str(site)})
    run.refused(4, "onnxruntime and onnxruntime-gpu", "pip uninstall")


def test_files_in_the_working_directory_are_not_imported(tmp_path: Path) -> None:
    for name in ("numpy", "click", "modelopt", "onnxruntime", "sitecustomize", "onnx"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the working directory')\n")
    modelopt("fuse", CNN, "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
