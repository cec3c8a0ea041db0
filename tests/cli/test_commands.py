"""Each command on a real model, as a user calls it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from modelopt import __version__
from modelopt.engine.compare import BenchReport
from modelopt.inspection.data import Inspection
from modelopt.io import provenance
from modelopt.passes import NAMES
from modelopt.report import Report
from tests.command_line import CALIB, CNN, EARLY_EXIT, EVAL, MLP, QUICK, calibration, evaluation, modelopt, sample

FAST = ("--budget", "0.2", "--warmup", "0", "--rounds", "2")
CNN_CALIB, CNN_EVAL = calibration("digits_cnn"), evaluation("digits_cnn")


def op_types(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


# Optimizing


@pytest.mark.parametrize(
    ("command", "suffix"),
    [
        (["fold"], "folded"),
        (["fuse"], "fused"),
        (["prune"], "pruned"),
        (["quantize", "--mode", "dynamic", "--everywhere"], "int8"),
        (["quantize", "--calib", CNN_CALIB, "--everywhere"], "int8"),
        (["quantize", "--calib", CNN_CALIB, "--exclude", "*"], "optimized"),
        (["quantize", "--mode", "weights", "--bits", "8", "--exclude", "*"], "optimized"),
        (["quantize", "--mode", "fp16", "--exclude", "*", "--only"], "copy"),
        (["prune", "--exclude", "*"], "copy"),
    ],
)
def test_the_default_output(tmp_path: Path, command: list[str], suffix: str) -> None:
    shutil.copy(CNN, tmp_path / "net.onnx")
    run = modelopt(*command, "net.onnx", *QUICK, cwd=tmp_path).succeeded()
    assert run.out == b""
    assert run.created == {f"net.{suffix}.onnx"}
    assert f"Wrote net.{suffix}.onnx" in run.err
    onnx.checker.check_model(tmp_path / f"net.{suffix}.onnx", full_check=True)


def test_fold_with_onnxsim(tmp_path: Path) -> None:
    run = modelopt("fold", "--engine", "onnxsim", CNN, "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    assert "onnxsim" in run.err
    assert "BatchNormalization" not in op_types(tmp_path / "x.onnx")


def test_fold_twice_gives_a_copy(tmp_path: Path) -> None:
    vit = sample("digits_vit")
    modelopt("fold", vit, "-o", "once.onnx", *QUICK, cwd=tmp_path).succeeded()
    run = modelopt("fold", "once.onnx", "-o", "twice.onnx", cwd=tmp_path).succeeded()
    once = (tmp_path / "once.onnx").read_bytes()
    assert once != vit.read_bytes()
    assert (tmp_path / "twice.onnx").read_bytes() == once
    assert "a copy of the input: nothing changed" in run.err


def test_the_table_that_people_come_for(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "--eval", CNN_EVAL, "-o", "x.onnx", *FAST, cwd=tmp_path).succeeded()
    for words in ("size", "latency, median", "× as fast", "top1 (n=629)", "Verified", "Wrote x.onnx"):
        assert words in run.err
    assert "BatchNormalization" not in op_types(tmp_path / "x.onnx")


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_sparsity_asked_for_is_the_sparsity_in_the_file(tmp_path: Path, scope: str) -> None:
    run = modelopt("prune", "--sparsity", "30%", "--scope", scope, MLP, "-o", "x.onnx", *QUICK, cwd=tmp_path)
    assert "does not run faster" in run.succeeded().err
    weights = [numpy_helper.to_array(each) for each in onnx.load(tmp_path / "x.onnx").graph.initializer]
    matrices = [array for array in weights if array.ndim == 2]
    total = sum(array.size for array in matrices)
    assert sum(int((array == 0).sum()) for array in matrices) == pytest.approx(0.3 * total, abs=len(matrices))
    if scope == "layer":
        for array in matrices:
            assert int((array == 0).sum()) == pytest.approx(0.3 * array.size, abs=1)


def test_two_of_four(tmp_path: Path) -> None:
    modelopt("prune", "--pattern", "2:4", MLP, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    (first, *_) = [node for node in onnx.load(tmp_path / "x.onnx").graph.node if node.op_type == "Gemm"]
    weights = {each.name: numpy_helper.to_array(each) for each in onnx.load(tmp_path / "x.onnx").graph.initializer}
    groups = weights[first.input[1]].reshape(-1, 4)  # transB: the last axis is the one that is summed over
    assert ((groups == 0).sum(axis=1) >= 2).all()


def test_quantize_static(tmp_path: Path) -> None:
    run = modelopt(
        *("quantize", "--everywhere", MLP, "--calib", CALIB, "--eval", EVAL, "-o", "x.onnx", "--no-bench"), cwd=tmp_path
    ).succeeded()
    assert {"QuantizeLinear", "DequantizeLinear"} <= op_types(tmp_path / "x.onnx")
    assert (tmp_path / "x.onnx").stat().st_size < 0.4 * MLP.stat().st_size
    assert "top1 (n=629)" in run.err


def test_quantize_says_what_it_left_in_float_and_why(tmp_path: Path) -> None:
    run = modelopt(
        "quantize", "--calib", CALIB, MLP, "--exclude", "*", "--explain", "-o", "x.onnx", *QUICK, cwd=tmp_path
    )
    assert "not done" in run.succeeded().err
    assert "/0/Gemm" in run.err
    assert (tmp_path / "x.onnx").read_bytes() == MLP.read_bytes()


def test_quantize_dynamic(tmp_path: Path) -> None:
    run = modelopt(
        "quantize",
        "--mode",
        "dynamic",
        "--everywhere",
        EARLY_EXIT,
        "--eval",
        EVAL,
        "-o",
        "x.onnx",
        "--no-bench",
        cwd=tmp_path,
    )
    assert "top1" in run.succeeded().err
    assert (tmp_path / "x.onnx").stat().st_size < 0.5 * EARLY_EXIT.stat().st_size


def test_random_calibration_is_named_in_the_report(tmp_path: Path) -> None:
    run = modelopt("quantize", "--everywhere", MLP, "--calib", "random", "-o", "x.onnx", *QUICK, cwd=tmp_path)
    assert "calibrated on random inputs" in run.succeeded().err


# Measuring


def test_bench_one(tmp_path: Path) -> None:
    run = modelopt("bench", MLP, *FAST, cwd=tmp_path).succeeded()
    text = run.out.decode()
    assert "p50" in text
    assert "nodes on CPUExecutionProvider" in text
    assert run.err == ""
    assert run.created == set()


def test_bench_two_as_json(tmp_path: Path) -> None:
    run = modelopt("bench", MLP, CNN, "--json", *FAST, cwd=tmp_path)
    run.refused(2, "do not take the same inputs")
    modelopt("fuse", CNN, "-o", "fused.onnx", *QUICK, cwd=tmp_path).succeeded()
    run = modelopt("bench", CNN, "fused.onnx", "--data", CNN_CALIB, "--json", *FAST, cwd=tmp_path).succeeded()
    report = msgspec.json.decode(run.out, type=BenchReport)
    assert [info.path for info in report.models] == [str(CNN), "fused.onnx"]
    assert [len(result.samples_ns) > 0 for result in report.results] == [True, True]
    assert report.ratios[0] is None
    assert report.ratios[1] is not None
    assert run.err == ""


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        ("float[n,4] z, float[n,4] y", "they come in another order: z, y"),
        ("float[n,4] y, float[n,4] zz", "'z' of a.onnx is compared with 'zz', for it has none of that name"),
        ("float16[n,4] y, float[n,4] z", "'y' is float16[n, 4], and was float32[n, 4]"),
        ("float[n,m] y, float[n,4] z", "'y' is float32[n, m], and was float32[n, 4]"),
        ("float[n,4] y, float[n,4] z", ""),
    ],
)
def test_compare_matches_outputs_by_name(tmp_path: Path, outputs: str, said: str) -> None:
    """What differs in name, order, type or shape is said in one line; the values are the same."""
    head = '<ir_version: 8, opset_import: ["" : 17]> net (float[n,4] x) =>'
    body = "y = Relu (x) z = Tanh (x)"
    onnx.save(onnx.parser.parse_model(f"{head} (float[n,4] y, float[n,4] z) {{ {body} }}"), tmp_path / "a.onnx")
    other = body.replace("z =", "zz =") if "zz" in outputs else body
    other = other.replace("y = Relu (x)", "r = Relu (x) y = Cast <to = 10> (r)") if "float16" in outputs else other
    onnx.save(onnx.parser.parse_model(f"{head} ({outputs}) {{ {other} }}"), tmp_path / "b.onnx")
    run = modelopt("compare", "a.onnx", "b.onnx", "--no-bench", cwd=tmp_path).succeeded()
    report = run.out.decode() + run.err
    assert ("the outputs of b.onnx differ" in report) is bool(said)
    assert said in " ".join(report.split())
    run = modelopt("compare", "a.onnx", "b.onnx", "--no-bench", "--json", cwd=tmp_path).succeeded()
    accuracy = msgspec.json.decode(run.out, type=BenchReport).accuracy
    assert accuracy is not None
    assert all(each.error is not None and (each.error.value or 0) < 0.001 for each in accuracy.outputs)


def test_compare(tmp_path: Path) -> None:
    modelopt("prune", MLP, "-o", "pruned.onnx", *QUICK, cwd=tmp_path).succeeded()
    run = modelopt("compare", MLP, "pruned.onnx", "--eval", EVAL, *FAST, cwd=tmp_path).succeeded()
    for words in ("size", "latency, median", "top1 (n=629)", "on CPUExecutionProvider"):
        assert words in run.out.decode()
    run = modelopt("compare", MLP, "pruned.onnx", "--no-bench", "--json", cwd=tmp_path).succeeded()
    report = msgspec.json.decode(run.out, type=BenchReport)
    assert report.accuracy is not None
    assert report.results == ()


# Saying


def test_inspect(tmp_path: Path) -> None:
    run = modelopt("inspect", CNN, cwd=tmp_path).succeeded()
    text = run.out.decode()
    for words in ("image", "float32", "Conv", "opset"):
        assert words in text
    assert run.err == ""
    run = modelopt("inspect", CNN, "--json", cwd=tmp_path).succeeded()
    msgspec.json.decode(run.out, type=Inspection)


def test_passes(tmp_path: Path) -> None:
    text = modelopt("passes", cwd=tmp_path).succeeded().out.decode()
    assert all(name in text for name in NAMES)
    text = modelopt("passes", "prune-magnitude", cwd=tmp_path).succeeded().out.decode()
    assert "sparsity" in text
    run = modelopt("passes", "--json", cwd=tmp_path).succeeded()
    assert [each["name"] for each in msgspec.json.decode(run.out)["passes"]] == list(NAMES)


def test_the_log_of_two_runs(tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "a.onnx", *QUICK, cwd=tmp_path).succeeded()
    modelopt("prune", "--sparsity", "0.25", "a.onnx", "-o", "b.onnx", *QUICK, cwd=tmp_path).succeeded()
    text = modelopt("log", "b.onnx", cwd=tmp_path).succeeded().out.decode()
    for words in ("run 1 of 2", "run 2 of 2", "fuse-conv-bn", "sparsity: 0.25", __version__):
        assert words in text
    run = modelopt("log", "b.onnx", "--json", cwd=tmp_path).succeeded()
    runs = msgspec.convert(msgspec.json.decode(run.out)["runs"], tuple[provenance.Entry, ...])
    assert [len(each.input_sha256) for each in runs] == [64, 64]
    run = modelopt("log", CNN, cwd=tmp_path).succeeded()
    assert "does not say" in run.out.decode()


def test_a_model_names_no_private_folder(tmp_path: Path) -> None:
    flags = ("--sparsity", "0.25", "--eval", EVAL.resolve(), "-o", "x.onnx", "--no-bench")
    modelopt("prune", MLP, *flags, cwd=tmp_path).succeeded()
    assert str(EVAL.resolve().parent).encode() not in (tmp_path / "x.onnx").read_bytes()
    assert "data: eval.npz" in modelopt("log", "x.onnx", cwd=tmp_path).succeeded().out.decode()


def test_completion(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert b"_MODELOPT_COMPLETE" in modelopt("completion", shell, cwd=tmp_path).succeeded().out


def test_version(tmp_path: Path) -> None:
    assert modelopt("--version", cwd=tmp_path).succeeded().out.decode() == f"modelopt {__version__}\n"


def test_json_is_one_document(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", "--json", "-v", *FAST, cwd=tmp_path).succeeded()
    report = msgspec.json.decode(run.out, type=Report)
    assert run.err == ""
    assert report.written
    assert report.output.size_bytes == (tmp_path / "x.onnx").stat().st_size
    assert report.verification is not None
    assert report.latency is not None
    assert report.latency.after.samples_ns


def test_quiet(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", "-q", *QUICK, cwd=tmp_path).succeeded()
    assert (run.out, run.err) == (b"", "")


def test_verbose(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", "-v", *QUICK, cwd=tmp_path).succeeded()
    assert "modelopt: passes" in run.err
    assert "merge-transpose" in run.err  # it did nothing, and that is said too
    assert "Not verified (--no-verify)" in run.err


def test_the_dump_folder(tmp_path: Path) -> None:
    command = ("fuse", CNN, "--dump-dir", "dump/er", "-o", "x.onnx", *QUICK)
    modelopt(*command, cwd=tmp_path).succeeded()
    dumped = sorted((tmp_path / "dump" / "er").iterdir())
    assert [path.name for path in dumped] == ["01-fuse-conv-bn.onnx"]
    onnx.checker.check_model(dumped[0], full_check=True)
    modelopt(*command, cwd=tmp_path).succeeded()  # an older dump is replaced


def test_reports(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", "--report", "x.json", "--no-bench", cwd=tmp_path).succeeded()
    report = msgspec.json.decode((tmp_path / "x.json").read_bytes(), type=Report)
    assert report.output.path == "x.onnx"
    run = modelopt("fuse", CNN, "-o", "y.onnx", "--report", "y.md", *QUICK, cwd=tmp_path).succeeded()
    assert run.created == {"y.onnx", "y.md"}
    text = (tmp_path / "y.md").read_text()
    assert "| size |" in text
    assert "```yaml\nversion: 1" in text


# Recipes


@pytest.mark.parametrize(
    "command",
    [
        ["fuse", "--max-size", "99%"],
        ["prune", "--sparsity", "0.3", "--scope", "global", "--exclude", "*bias*", "--seed", "3"],
        ["quantize", "--calib", CNN_CALIB, "--calib-limit", "16", "--everywhere", "--target", "arm64"],
        ["quantize", "--mode", "dynamic", "--everywhere", "--only", "--per-tensor"],
    ],
    ids=lambda command: " ".join(map(str, command[:3])),
)
def test_a_printed_recipe_does_what_the_command_does(tmp_path: Path, command: list[str]) -> None:
    flags: list[str | Path] = [*command, CNN, "--no-bench"]
    printed = modelopt(*flags, "--print-recipe", cwd=tmp_path).succeeded()
    assert printed.created == set()
    assert printed.err == ""
    (tmp_path / "recipe.yaml").write_bytes(printed.out)
    modelopt(*flags, "-o", "command.onnx", "--no-verify", cwd=tmp_path).succeeded()
    modelopt("run", "recipe.yaml", CNN, "-o", "recipe.onnx", "--no-verify", cwd=tmp_path).succeeded()
    assert (tmp_path / "command.onnx").read_bytes() == (tmp_path / "recipe.onnx").read_bytes()


def test_a_printed_recipe_prints_itself(tmp_path: Path) -> None:
    printed = modelopt("fold", CNN, "--max-drop", "1%", "--print-recipe", cwd=tmp_path).succeeded()
    (tmp_path / "recipe.yaml").write_bytes(printed.out)
    assert modelopt("run", "recipe.yaml", "--print-recipe", cwd=tmp_path).succeeded().out == printed.out


def test_the_schema_of_recipes(tmp_path: Path) -> None:
    schema = msgspec.json.decode(modelopt("run", "--schema", cwd=tmp_path).succeeded().out)
    assert schema["required"] == ["version", "steps"]


@pytest.mark.parametrize("command", [["quantize", "--mode", "dynamic", "--everywhere"], ["prune", "--scope", "global"]])
def test_the_same_bytes_whatever_the_hash_seed(tmp_path: Path, command: list[str]) -> None:
    outputs = []
    for seed in ("0", "12345"):
        env = {"PYTHONHASHSEED": seed}
        modelopt(*command, EARLY_EXIT, "-o", f"{seed}.onnx", *QUICK, cwd=tmp_path, env=env).succeeded()
        outputs.append((tmp_path / f"{seed}.onnx").read_bytes())
    assert outputs[0] == outputs[1]


# Gates


def gate(run_code: int, err: str, created: frozenset[str], name: str) -> None:
    assert run_code == 1
    lines = [line for line in err.splitlines() if line.startswith("modelopt: error: ")]
    assert len(lines) == 1
    assert f"--{name}" in lines[0]
    assert "FAILED" in err
    assert "Traceback" not in err
    assert created == set()


@pytest.mark.parametrize(
    ("name", "limit", "flags"),
    [
        ("max-size", "10kB", QUICK),
        ("min-speedup", "100", FAST),
        ("max-drop", "1%", ["--no-bench", "--eval", EVAL, "--sparsity", "0.98"]),
    ],
)
def test_a_gate_that_fails(tmp_path: Path, name: str, limit: str, flags: list[str]) -> None:
    command: list[str | Path] = ["prune", MLP, "-o", "x.onnx", f"--{name}", limit, *flags]
    (tmp_path / "x.onnx").write_bytes(b"the old one")
    run = modelopt(*command, cwd=tmp_path)
    assert (tmp_path / "x.onnx").read_bytes() == b"the old one"
    gate(run.code, run.err, run.created, name)
    assert run.out == b""
    assert "nothing was written" in run.err
    assert "--keep" in run.err


def test_a_gate_that_fails_and_keeps(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-size", "50%", "--keep", *QUICK, cwd=tmp_path)
    assert run.code == 1
    assert run.created == {"x.onnx"}
    assert "x.onnx was written all the same" in run.err
    assert "nothing was written" not in run.err


def test_a_gate_that_fails_as_json(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-size", "50%", *QUICK, "--json", cwd=tmp_path)
    assert run.code == 1
    report = msgspec.json.decode(run.out, type=Report)
    assert not report.written
    assert [each.passed for each in report.gates] == [False]
    assert run.created == set()


def test_gates_that_hold(tmp_path: Path) -> None:
    gates = ("--max-size", "100%", "--max-drop", "1%")
    run = modelopt("fuse", CNN, "--eval", CNN_EVAL, "-o", "x.onnx", "--no-bench", *gates, cwd=tmp_path).succeeded()
    assert "FAILED" not in run.err
    assert "ok" in run.err


def test_a_copy_beside_its_original_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "copy.onnx").write_bytes(MLP.read_bytes())
    run = modelopt("compare", MLP, "copy.onnx", *FAST, cwd=tmp_path).succeeded()
    assert f"copy.onnx is {MLP}, byte for byte" in run.out.decode()


def test_no_command_and_help_print_the_help(tmp_path: Path) -> None:
    help_ = modelopt("--help", cwd=tmp_path).succeeded().out
    assert modelopt(cwd=tmp_path).succeeded().out == help_
    assert modelopt("help", cwd=tmp_path).succeeded().out == help_
    assert modelopt("help", "fuse", cwd=tmp_path).succeeded().out == modelopt("fuse", "--help", cwd=tmp_path).out
    modelopt("help", "fusee", cwd=tmp_path).refused(2, "unknown command 'fusee'", "did you mean 'fuse'?")


def completed(shell: str, *words: str, cwd: Path) -> list[str]:
    """What `shell` is offered for the last word, a line each."""
    variables = {"_MODELOPT_COMPLETE": f"{shell}_complete", "COMP_WORDS": " ".join(words)}
    variables["COMP_CWORD"] = words[-1] if shell == "fish" else str(len(words) - 1)
    return modelopt(cwd=cwd, env=variables).succeeded().out.decode().splitlines()


@pytest.mark.parametrize(
    "words",
    [("quantize", "--calib"), ("quantize", "--eval"), ("bench", "--data"), ("fuse", "--metric"), ("fuse", "--report")],
)
def test_shells_complete_files_where_data_are_named(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert completed("bash", "modelopt", *words, "cal", cwd=tmp_path) == ["file,cal"]


def test_shells_complete_words_where_words_are_known(tmp_path: Path) -> None:
    assert completed("bash", "modelopt", "fuse", "--provider", "c", cwd=tmp_path) == ["plain,cpu", "plain,cuda"]
    assert completed("bash", "modelopt", "fuse", "--metric", "top", cwd=tmp_path) == ["plain,top1", "plain,top5"]


def test_fish_shows_descriptions_with_commas_whole(tmp_path: Path) -> None:
    """The script splits each line at its first comma only."""
    assert 'string split --max 1 "," $completion' in modelopt("completion", "fish", cwd=tmp_path).out.decode()
    (line,) = completed("fish", "modelopt", "quantize", "--max-dr", cwd=tmp_path)
    assert line == "plain,--max-drop\tFail if the metric falls by more than this, e.g. 1%."
