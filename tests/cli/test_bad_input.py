"""What users get wrong, and what hostile files try: one line, the right exit code, nothing written."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tests.command_line import (
    CALIB,
    CNN,
    COMMAND,
    MLP,
    PATIENCE,
    QUICK,
    environment,
    listing,
    modelopt,
    save,
    save_endless,
    value,
)

ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def features() -> np.ndarray:
    with np.load(CALIB) as arrays:
        return np.array(arrays["features"])


# The model


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_not_a_model(tmp_path: Path) -> None:
    text = write(tmp_path / "notes.onnx", b"Dear diary, today I trained a model.\n" * 40)
    modelopt("fold", text, "-o", "x.onnx", cwd=tmp_path).refused(2, "not an ONNX model")


def test_an_empty_file(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.onnx", b"")
    modelopt("inspect", empty, cwd=tmp_path).refused(2, "is empty")


@pytest.mark.parametrize("share", [0.02, 0.99])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    whole = CNN.read_bytes()
    torn = write(tmp_path / "torn.onnx", whole[: int(len(whole) * share)])
    modelopt("fuse", torn, "-o", "x.onnx", cwd=tmp_path).refused(2, "truncated")


def test_a_directory(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    write(tmp_path / "net" / "net.onnx", MLP.read_bytes())
    modelopt("fold", "net", cwd=tmp_path).refused(2, "net is a directory", "did you mean 'net/net.onnx'?")


def test_a_missing_file(tmp_path: Path) -> None:
    write(tmp_path / "model.onnx", MLP.read_bytes())
    modelopt("fold", "modle.onnx", cwd=tmp_path).refused(2, "modle.onnx does not exist", "did you mean 'model.onnx'?")


def test_a_file_without_permission(tmp_path: Path) -> None:
    if ROOT:
        pytest.skip("root may read everything")
    write(tmp_path / "model.onnx", MLP.read_bytes()).chmod(0)
    modelopt("fold", "model.onnx", cwd=tmp_path).refused(2, "cannot be read")


def test_nothing_on_stdin(tmp_path: Path) -> None:
    modelopt("fold", "-", "-o", "x.onnx", cwd=tmp_path).refused(2, "<stdin> is empty")


def test_half_a_model_on_stdin(tmp_path: Path) -> None:
    half = MLP.read_bytes()[:30_000]
    modelopt("fold", "-", "-o", "x.onnx", cwd=tmp_path, stdin=half).refused(2, "truncated")


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
    model = write(tmp_path / "model.onnx", CNN.read_bytes())
    (tmp_path / "sub").mkdir()
    (tmp_path / "link.onnx").symlink_to("model.onnx")
    (tmp_path / "hard.onnx").hardlink_to(model)
    modelopt("fuse", model, "-o", output, *QUICK, cwd=tmp_path).refused(2, "is the input", "-o")
    assert model.read_bytes() == CNN.read_bytes()


def test_json_and_a_model_on_stdout(tmp_path: Path) -> None:
    modelopt("fold", MLP, "-o", "-", "--json", cwd=tmp_path).refused(2, "--json", "-o")


def test_a_report_of_an_unknown_kind_is_refused_before_the_work(tmp_path: Path) -> None:
    modelopt("fold", MLP, "-o", "x.onnx", "--report", "x.docx", *QUICK, cwd=tmp_path).refused(2, "x.docx", ".json")


def test_a_report_in_no_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    run = modelopt("fold", MLP, "-o", "x.onnx", "--report", "nowhere/x.json", *QUICK, cwd=tmp_path)
    run.refused(2, "nowhere")


def test_a_dump_folder_that_is_a_file(tmp_path: Path) -> None:
    write(tmp_path / "taken", b"")
    run = modelopt("fuse", CNN, "-o", "x.onnx", "--dump-dir", "taken", *QUICK, cwd=tmp_path)
    run.refused(2, "taken")


@pytest.mark.parametrize("command", ["fold", "fuse"])  # a copy of the input; a model written anew
def test_a_full_disk(tmp_path: Path, command: str) -> None:
    write(tmp_path / "x.onnx", b"the old one")
    run = modelopt(command, CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path, largest_file=50_000)
    run.refused(4, "no room to write")
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"


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


# Data


def quantize(tmp_path: Path, *arguments: str | Path) -> list[str | Path]:
    return ["quantize", MLP, "-o", "x.onnx", *QUICK, *arguments]


def test_calibration_that_does_not_exist(tmp_path: Path) -> None:
    write(tmp_path / "calib.npz", CALIB.read_bytes())
    run = modelopt(*quantize(tmp_path, "--calib", "clib.npz"), cwd=tmp_path)
    run.refused(2, "clib.npz", "did you mean 'calib.npz'?")


def calibrate(folder: Path, **arrays: np.ndarray) -> list[str | Path]:
    np.savez(folder / "bad.npz", **arrays)  # type: ignore[arg-type]  # numpy's stub takes them for allow_pickle
    return quantize(folder, "--calib", "bad.npz")


def test_calibration_with_another_name(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, feature=features), cwd=tmp_path).refused(2, "feature", "features")


def test_calibration_of_another_dtype(tmp_path: Path, features: np.ndarray) -> None:
    run = modelopt(*calibrate(tmp_path, features=features.astype(np.int64)), cwd=tmp_path)
    run.refused(2, "features", "int64", "float32")


def test_calibration_of_another_shape(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, features=features[:, :63]), cwd=tmp_path).refused(2, "features", "63", "64")


def test_calibration_with_nan(tmp_path: Path, features: np.ndarray) -> None:
    poisoned = features.copy()
    poisoned[17, 3] = np.nan
    modelopt(*calibrate(tmp_path, features=poisoned), cwd=tmp_path).refused(2, "NaN", "17")


def test_calibration_without_samples(tmp_path: Path, features: np.ndarray) -> None:
    modelopt(*calibrate(tmp_path, features=features[:0]), cwd=tmp_path).refused(2, "bad.npz", "no sample")


def test_calibration_in_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    modelopt(*quantize(tmp_path, "--calib", "data"), cwd=tmp_path).refused(2, "data")


def test_calibration_that_pickles(tmp_path: Path) -> None:
    run = modelopt(*calibrate(tmp_path, features=np.array([{"a": 1}], dtype=object)), cwd=tmp_path)
    run.refused(2, "features")


def test_labels_that_do_not_match(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.zeros(len(features) - 1, np.int64))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    run.refused(2, "label", str(len(features)), str(len(features) - 1))


def test_labels_of_classes_that_the_model_does_not_have(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.full(len(features), 10))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    assert "note: the labels are not class numbers that fit an output" in run.succeeded().err


def test_a_label_that_the_model_does_not_have_among_others(tmp_path: Path, features: np.ndarray) -> None:
    np.savez(tmp_path / "eval.npz", features=features, label=np.arange(len(features)))
    run = modelopt("prune", MLP, "-o", "x.onnx", "--no-bench", "--eval", "eval.npz", cwd=tmp_path)
    run.refused(2, "eval.npz[10]", "label")


def test_static_quantization_without_data(tmp_path: Path) -> None:
    modelopt(*quantize(tmp_path), cwd=tmp_path).refused(2, "needs calibration data", "--calib", "--mode dynamic")


def test_a_drop_without_data_to_measure_it_on(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-drop", "1%", "--no-verify", "--no-bench", cwd=tmp_path)
    run.refused(2, "--max-drop", "--eval")


def test_a_speedup_without_a_benchmark(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--min-speedup", "1.1", "--no-bench", cwd=tmp_path)
    run.refused(2, "--min-speedup", "--no-bench")


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
    modelopt("run", "nope.yaml", MLP, "-o", "x.onnx", cwd=tmp_path).refused(2, "nope.yaml")


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


# Hostile models

ESCAPES = "\x1b[31mred\x1b[0m\n[bold]two[/bold]\r\x07"


@pytest.fixture
def hostile_names(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Identity", ["x" + ESCAPES], ["h" + ESCAPES], name="n" + ESCAPES),
        helper.make_node("Gemm", ["h" + ESCAPES, "w" + ESCAPES], ["y" + ESCAPES], name="g" + ESCAPES),
    ]
    weights = {"w" + ESCAPES: np.eye(20, dtype=np.float32)}
    return save(
        tmp_path / "names.onnx",
        nodes,
        [value("x" + ESCAPES, ["b" + ESCAPES, 20])],
        [value("y" + ESCAPES, ["b" + ESCAPES, 20])],
        weights,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "-v"],
        ["prune", "--explain", "-v", "-o", "x.onnx", *QUICK],
        ["quantize", "--calib", "random", "--explain", "-o", "x.onnx", "--no-bench"],
        ["quantize", "--calib", CALIB, "-o", "x.onnx", *QUICK],
        ["bench", "--rounds", "2", "--budget", "0.1", "--warmup", "0"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_hostile_names_never_drive_the_terminal(
    tmp_path: Path, hostile_names: Path, arguments: list[str | Path]
) -> None:
    run = modelopt(*arguments, hostile_names, cwd=tmp_path)
    shown = run.out.decode() + run.err
    assert run.code in {0, 2}, run.err
    assert "Traceback" not in shown
    assert not set("\x1b\r\x07") & set(shown)
    if run.code == 2:
        run.refused(2)


def test_hostile_names_in_a_markdown_report(tmp_path: Path, hostile_names: Path) -> None:
    modelopt("prune", hostile_names, "-o", "x.onnx", "--report", "x.md", *QUICK, cwd=tmp_path).succeeded()
    text = (tmp_path / "x.md").read_text()
    assert not set("\x1b\r\x07") & set(text)


def test_an_operator_that_onnxruntime_does_not_know(tmp_path: Path) -> None:
    nodes = [helper.make_node("Frobnicate", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])
    modelopt("fold", model, "-o", "x.onnx", cwd=tmp_path).refused(3, "Frobnicate")


LIMITED = ("--timeout", "3", "--memory-limit", "300MB", "--no-bench", "-o", "x.onnx")


def test_a_model_that_needs_terabytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    weights = {"shape": np.array([2**40], np.int64)}
    model = save(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", [1])], weights)
    modelopt("fold", model, *LIMITED, cwd=tmp_path).refused(3)


def test_a_model_that_eats_memory_while_it_is_loaded(tmp_path: Path) -> None:
    """Each Concat doubles; onnxruntime folds them all at load."""
    nodes = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(30)]
    nodes.append(helper.make_node("ReduceSum", ["v30"], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "sum"], ["y"]))
    model = save(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", [1])], {"v0": np.ones(1, np.float32)})
    modelopt("fold", model, *LIMITED, cwd=tmp_path).refused(3)


def test_a_model_that_never_ends(tmp_path: Path) -> None:
    model = save_endless(tmp_path / "m.onnx")
    modelopt("fold", model, *LIMITED, cwd=tmp_path).refused(3, "took longer than 3 s")


def test_an_input_of_absurd_size(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", [2**62])], [value("y", [2**62])])
    told = modelopt("fold", model, *LIMITED, cwd=tmp_path).succeeded()
    assert "Nothing changed: the output is a copy of the input" in told.err  # what runs on nothing needs no proof then
    bounded = [*LIMITED[:4], "--budget", "1"]
    modelopt("bench", model, *bounded, cwd=tmp_path).refused(2, "x", "larger than memory")
