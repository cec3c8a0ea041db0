"""What users get wrong at the command line: one line, the right exit code, nothing written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.command_line import CNN, COMMAND, MLP, PATIENCE, QUICK, environment, installed, listing, modelopt, written

ROOT = os.geteuid() == 0


# The model


def test_not_a_model(tmp_path: Path) -> None:
    text = written(tmp_path / "notes.onnx", b"Dear diary, today I trained a model.\n" * 40)
    installed("fold", text, "-o", "x.onnx", cwd=tmp_path).refused(2, "not an ONNX model")


def test_an_empty_file(tmp_path: Path) -> None:
    empty = written(tmp_path / "empty.onnx", b"")
    modelopt("inspect", empty, cwd=tmp_path).refused(2, "is empty")


@pytest.mark.parametrize("share", [0.02, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    whole = CNN.read_bytes()
    torn = written(tmp_path / "torn.onnx", whole[: int(len(whole) * share)])
    modelopt("fuse", torn, "-o", "x.onnx", cwd=tmp_path).refused(2, "truncated")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    written(tmp_path / "net" / "net.onnx", MLP.read_bytes())
    modelopt("fold", "net", cwd=tmp_path).refused(2, "net is a directory", "did you mean 'net/net.onnx'?")


def test_a_missing_file(tmp_path: Path) -> None:
    written(tmp_path / "model.onnx", MLP.read_bytes())
    modelopt("fold", "modle.onnx", cwd=tmp_path).refused(2, "modle.onnx does not exist", "did you mean 'model.onnx'?")


def test_a_file_without_permission(tmp_path: Path) -> None:
    if ROOT:
        pytest.skip("root may read everything")
    written(tmp_path / "model.onnx", MLP.read_bytes()).chmod(0)
    modelopt("fold", "model.onnx", cwd=tmp_path).refused(2, "cannot be read")


def test_nothing_on_stdin(tmp_path: Path) -> None:
    modelopt("fold", "-", "-o", "x.onnx", cwd=tmp_path).refused(2, "<stdin> is empty")


def test_half_a_model_on_stdin(tmp_path: Path) -> None:
    half = MLP.read_bytes()[:30_000]
    installed("fold", "-", "-o", "x.onnx", cwd=tmp_path, stdin=half).refused(2, "truncated")


# The output


def test_an_output_in_no_folder(tmp_path: Path) -> None:
    modelopt("fold", MLP, "-o", "nowhere/x.onnx", *QUICK, cwd=tmp_path).refused(2, "nowhere")


def test_an_output_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    modelopt("fold", MLP, "-o", "folder", *QUICK, cwd=tmp_path).refused(2, "folder is a directory")


def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    if ROOT:
        folder = "/proc"  # not even root
    else:
        (tmp_path / "locked").mkdir(mode=0o500)
        folder = "locked"
    modelopt("fold", MLP, "-o", f"{folder}/x.onnx", *QUICK, cwd=tmp_path).refused(2, folder, "cannot be written to")


@pytest.mark.parametrize("output", ["model.onnx", "sub/../model.onnx", "link.onnx", "hard.onnx"])
def test_an_output_that_is_the_input(tmp_path: Path, output: str) -> None:
    model = written(tmp_path / "model.onnx", CNN.read_bytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    (tmp_path / "hard.onnx").hardlink_to(model)
    modelopt("fuse", model, "-o", output, *QUICK, cwd=tmp_path).refused(2, "is the input", "-o")
    assert model.read_bytes() == CNN.read_bytes()


def test_json_and_a_model_on_stdout(tmp_path: Path) -> None:
    installed("fold", MLP, "-o", "-", "--json", cwd=tmp_path).refused(2, "--json", "-o")


def test_a_report_of_an_unknown_kind_is_refused_before_the_work(tmp_path: Path) -> None:
    modelopt("fold", MLP, "-o", "x.onnx", "--report", "x.docx", *QUICK, cwd=tmp_path).refused(2, "x.docx", ".json")


def test_a_report_in_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    run = modelopt("fold", MLP, "-o", "x.onnx", "--report", "nowhere/x.json", *QUICK, cwd=tmp_path)
    run.refused(2, "nowhere")


def test_a_dump_folder_that_is_a_file(tmp_path: Path) -> None:
    written(tmp_path / "taken", b"")
    run = modelopt("fuse", CNN, "-o", "x.onnx", "--dump-dir", "taken", *QUICK, cwd=tmp_path)
    run.refused(2, "taken")


@pytest.mark.parametrize("command", ["fold", "fuse"])  # a copy of the input; a model written anew
def test_a_full_disk(tmp_path: Path, command: str) -> None:
    written(tmp_path / "x.onnx", MLP.read_bytes())
    run = installed(command, CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path, largest_file=50_000)
    run.refused(4, "no room to write")
    assert (tmp_path / "x.onnx").read_bytes() == MLP.read_bytes()


def test_a_full_file_system(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a small disk")
    try:
        modelopt("fuse", CNN, "-o", disk / "x.onnx", *QUICK, cwd=tmp_path).refused(
            4, "no room to write", "No space left"
        )
        assert listing(disk) == set()
    finally:
        subprocess.run(["umount", disk], check=True)


# Providers


@pytest.mark.parametrize("command", [["bench", MLP], ["fold", MLP, "-o", "x.onnx"], ["compare", MLP, MLP]])
def test_an_unknown_provider(tmp_path: Path, command: list[str | Path]) -> None:
    run = modelopt(*command, "--provider", "cpuu", cwd=tmp_path)
    run.refused(2, "unknown provider 'cpuu'", "did you mean 'cpu'?")


@pytest.mark.parametrize("command", [["bench", CNN], ["fuse", CNN, "-o", "x.onnx"]])
def test_a_provider_that_is_not_here(tmp_path: Path, command: list[str | Path]) -> None:
    run = modelopt(*command, "--provider", "QNNExecutionProvider", cwd=tmp_path)
    run.refused(4, "QNNExecutionProvider is not available here")


# The command line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["flod", "m.onnx"], ["unknown command 'flod'", "did you mean 'fold'?"]),
        (["zzz"], ["unknown command 'zzz'", "modelopt --help"]),
        (["fold", "--sparsty", "1", "m.onnx"], ["--sparsty", "modelopt fold --help"]),
        (["prune", "--sparsty", "1", "m.onnx"], ["--sparsty", "--sparsity"]),
        (["prune", "--sparsity", "150%", "m.onnx"], ["150%", "between 0 and 1"]),
        (["prune", "--sparsity", "70", "m.onnx"], ["'70'", "--sparsity 70%", "--sparsity 30%"]),
        (["prune", "--sparsity", "half", "m.onnx"], ["half", "0.01"]),
        (["prune", "--sparsity", "nan", "m.onnx"], ["nan"]),
        (["prune", "--scope", "galaxy", "m.onnx"], ["galaxy", "layer", "global"]),
        (["fold", "--max-size", "huge", "m.onnx"], ["huge", "3MB"]),
        (["fold", "--max-size", "1.2.3MB", "m.onnx"], ["1.2.3MB"]),
        (["fold", "--provider-option", "bf16", "m.onnx"], ["bf16", "key=value"]),
        (["fold"], ["MODEL"]),
        (["fold", "a.onnx", "b.onnx"], ["b.onnx"]),
        (["passes", "fuse-conv-nb"], ["unknown pass 'fuse-conv-nb'", "did you mean 'fuse-conv-bn'?"]),
        (["completion", "powershell"], ["powershell", "bash"]),
        (["run"], ["no recipe"]),
        (["bench"], ["MODEL"]),
        (["fold", "--engine", "onnxsim", "--max-growth", "1%", "m.onnx"], ["--max-growth"]),
        (["quantize", "--mode", "dynamic", "--calib", "d", "m.onnx"], ["--calib", "--mode dynamic"]),
        (["quantize", "--mode", "dynamic", "--method", "mse", "m.onnx"], ["--method", "--mode dynamic"]),
        (["fold", "--labels", "l.txt", "m.onnx"], ["--labels needs --eval"]),
    ],
    ids=lambda part: " ".join(part) if isinstance(part, list) else "",
)
def test_usage(tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    modelopt(*arguments, cwd=tmp_path).refused(2, *words)


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("version: 1\nsteps:\n  - fold-constants\n  - fuse-conv-nb\n", [":4:", "fuse-conv-nb", "did you mean"]),
        (
            "version: 1\nsteps:\n  - prune-magnitude:\n      sparsty: 0.5\n",
            [":4:", "sparsty", "did you mean 'sparsity'?"],
        ),
        ("version: 1\nsteps:\n  - prune-magnitude:\n      sparsity: half\n", [":4:", "sparsity"]),
        ("version: 1\nsteps: [\n", ["not YAML"]),
        ("", ["not a recipe"]),
        ("version: 1\nsteps: []\nname: !!python/object/apply:os.system ['touch hacked']\n", ["recipe.yaml:3"]),
    ],
)
def test_a_recipe_with_a_mistake(tmp_path: Path, recipe: str, words: list[str]) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe)
    modelopt("run", "recipe.yaml", MLP, "-o", "x.onnx", cwd=tmp_path).refused(2, "recipe.yaml", *words)


def test_a_recipe_for_an_unknown_target(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("version: 1\nsteps: []\ntarget: z80\n")
    modelopt("run", "recipe.yaml", MLP, "-o", "x.onnx", cwd=tmp_path).refused(2, "z80", "x86-vnni")


def test_a_recipe_that_does_not_exist(tmp_path: Path) -> None:
    installed("run", "nope.yaml", MLP, "-o", "x.onnx", cwd=tmp_path).refused(2, "nope.yaml")


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    """``modelopt inspect | head -1``: no traceback, nothing about a broken pipe."""
    commands: list[list[str | Path]] = [["inspect", MLP], ["fold", MLP, "-o", "-", *QUICK]]
    for arguments in commands:
        process = subprocess.Popen(
            [COMMAND, *arguments],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(tmp_path),
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read().decode()
        process.wait(timeout=100 * PATIENCE)
        process.stderr.close()
        assert "Traceback" not in said
        assert "Broken" not in said
        assert process.returncode not in {0, 70}
        assert listing(tmp_path) == set()
