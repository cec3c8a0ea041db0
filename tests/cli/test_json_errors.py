"""With ``--json`` a failing command prints one document that says why; the words for people stay on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import helper

from tests.command_line import CALIB, EVAL, MLP, QUICK, Argument, modelopt, save, value


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["fold", "absent.onnx"]),
        (2, ["fold", MLP, "--no-such-flag"]),
        (2, ["fold", MLP, "-o", "absent/x.onnx"]),
        (2, ["check", "absent.json", "--baseline", "absent.json"]),
        (2, ["frobnicate"]),
        (4, ["bench", MLP, "--provider", "cuda"]),
    ],
    ids=lambda each: " ".join(map(str, each[:2])) if isinstance(each, list) else str(each),
)
def test_an_error_is_a_document(tmp_path: Path, code: int, arguments: list[Argument]) -> None:
    plain = modelopt(*arguments, cwd=tmp_path).failed(code)
    assert plain.out == b""
    run = modelopt(*arguments, "--json", cwd=tmp_path).failed(code)
    assert run.err == plain.err
    error = json.loads(run.out)
    lines = [f"modelopt: error: {error['fact']}"]
    lines += [f"{name}: {error[name]}" for name in ("note", "hint") if error[name] is not None]
    assert run.err.splitlines() == lines
    assert error["exit_code"] == code


def test_a_refusal_is_a_document(tmp_path: Path) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"])
    model = save(tmp_path / "m.onnx", [node], [value("x", ["n", 4])], [value("y", ["n", 4])])
    run = modelopt("fold", model, "-o", "x.onnx", "--json", cwd=tmp_path).failed(3)
    assert "Frobnicate" in json.loads(run.out)["note"]


def test_names_cannot_forge_or_drive_anything(tmp_path: Path) -> None:
    run = modelopt("fold", 'a\x1b[31m"}\n\u202e.onnx', "--json", cwd=tmp_path).failed(2)
    assert 'a\x1b[31m"}\n\u202e.onnx' in json.loads(run.out)["fact"]
    assert run.out.decode().replace("\n", "").isprintable()


def test_a_gate_that_fails_prints_its_report_and_nothing_else(tmp_path: Path) -> None:
    run = modelopt("prune", MLP, "-o", "x.onnx", "--max-size", "10%", *QUICK, "--json", cwd=tmp_path)
    assert run.code == 1
    document = json.loads(run.out)  # it fails where there are two
    assert document["schema"].startswith("modelopt-report/")
    assert document["output"]["sha256"] is None
    assert "modelopt: error: --max-size" in run.err


def test_a_gate_that_is_not_decided_prints_one_document(tmp_path: Path) -> None:
    flags = ("--eval", EVAL, "--min-score", "99.99%", "--json")
    run = modelopt("evaluate", MLP, *flags, cwd=tmp_path)
    assert run.code in {1, 5}
    assert json.loads(run.out)["schema"].startswith("modelopt-evaluation/")


def test_a_word_behind_two_dashes_is_no_flag(tmp_path: Path) -> None:
    run = modelopt("inspect", "--", "--json", cwd=tmp_path).failed(2)
    assert run.out == b""


def test_the_error_of_a_search_is_a_document_too(tmp_path: Path) -> None:
    run = modelopt("quantize", MLP, "--calib", CALIB, "--max-size", "10B", "--json", "-o", "x.onnx", cwd=tmp_path)
    assert run.code != 0
    assert isinstance(json.loads(run.out), dict)
