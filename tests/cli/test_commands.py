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
from modelopt.inspection.data import Inspection
from modelopt.io import provenance
from modelopt.passes import NAMES
from modelopt.report import Report
from modelopt.report.bench_report import BenchReport
from tests.command_line import (
    CALIB,
    CNN,
    CNN_CALIB,
    CNN_EVAL,
    EARLY_EXIT,
    EVAL,
    FAST,
    MLP,
    QUICK,
    installed,
    modelopt,
    op_types,
    sample,
)

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
    run = modelopt("fuse", CNN, "--eval", CNN_EVAL, "-o", "x.onnx", "--keep", *FAST, cwd=tmp_path).succeeded()
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
    assert "left alone" in run.succeeded().err
    assert "leave out --exclude" in run.err
    assert "/0/Gemm" not in run.err
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
    run = installed("bench", MLP, *FAST, cwd=tmp_path).succeeded()
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
    run = installed("compare", MLP, "pruned.onnx", "--eval", EVAL, *FAST, cwd=tmp_path).succeeded()
    for words in ("size", "latency, median", "top1 (n=629)", "on CPUExecutionProvider"):
        assert words in run.out.decode()
    run = modelopt("compare", MLP, "pruned.onnx", "--no-bench", "--json", cwd=tmp_path).succeeded()
    report = msgspec.json.decode(run.out, type=BenchReport)
    assert report.accuracy is not None
    assert report.results == ()


# Saying


def test_inspect(tmp_path: Path) -> None:
    run = installed("inspect", CNN, cwd=tmp_path).succeeded()
    text = run.out.decode()
    for words in ("image", "float32", "Conv", "opset"):
        assert words in text
    assert run.err == ""
    run = modelopt("inspect", CNN, "--json", cwd=tmp_path).succeeded()
    msgspec.json.decode(run.out, type=Inspection)


def test_passes(tmp_path: Path) -> None:
    text = installed("passes", cwd=tmp_path).succeeded().out.decode()
    assert all(name in text for name in NAMES)
    text = modelopt("passes", "prune-magnitude", cwd=tmp_path).succeeded().out.decode()
    assert "sparsity" in text
    run = modelopt("passes", "--json", cwd=tmp_path).succeeded()
    assert [each["name"] for each in msgspec.json.decode(run.out)["passes"]] == list(NAMES)


def test_the_log_of_two_runs(tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "a.onnx", *QUICK, cwd=tmp_path).succeeded()
    modelopt("prune", "--sparsity", "0.25", "a.onnx", "-o", "b.onnx", *QUICK, cwd=tmp_path).succeeded()
    text = installed("log", "b.onnx", cwd=tmp_path).succeeded().out.decode()
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


def test_version(tmp_path: Path) -> None:
    assert installed("--version", cwd=tmp_path).succeeded().out.decode() == f"modelopt {__version__}\n"


def test_json_is_one_document(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "-o", "x.onnx", "--json", "-v", "--keep", *FAST, cwd=tmp_path).succeeded()
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
    assert "modelopt: the result · passes" in run.err
    assert "merge-transpose" in run.err  # it did nothing, and that is said too
    assert "Not verified (--no-verify)" in run.err


def test_the_dump_folder(tmp_path: Path) -> None:
    command = ("fuse", CNN, "--dump-dir", "dump/er", "-o", "x.onnx", *QUICK)
    modelopt(*command, cwd=tmp_path).succeeded()
    dumped = sorted((tmp_path / "dump" / "er").iterdir())
    assert [path.name for path in dumped] == ["03-fuse-conv-bn.onnx"]
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
