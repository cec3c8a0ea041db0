"""The schema of reports: complete, and strict about what it describes. `tests.command_line` holds each report to it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import jsonschema
import pytest

from modelopt.report.report_schema import KINDS, report_schema, versions
from tests.command_line import CNN, MLP, QUICK, modelopt
from tests.report_documents import require_valid


def test_the_command_prints_it(tmp_path: Path) -> None:
    printed = json.loads(modelopt("check", "--schema", cwd=tmp_path).succeeded().out)
    assert printed == json.loads(json.dumps(report_schema()))
    jsonschema.Draft202012Validator.check_schema(printed)
    assert len(printed["oneOf"]) == len(KINDS) == len(versions())
    assert all(version.startswith("modelopt-") for version in versions())


def test_a_report_is_valid_and_a_spoilt_one_is_not(tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "x.onnx", "--report", "r.json", *QUICK, cwd=tmp_path).succeeded()
    document = json.loads((tmp_path / "r.json").read_text())
    jsonschema.validate(document, report_schema())  # exactly one kind
    for spoilt in (
        {**document, "seed": "0"},
        {**document, "input": {}},
        {**document, "gates": [{"gate": "max-drop", "limit": "", "found": "", "outcome": "maybe"}]},
        {name: value for name, value in document.items() if name != "passes"},
    ):
        with pytest.raises(jsonschema.ValidationError):
            require_valid(spoilt)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "schema": "modelopt-report/0"}, report_schema())


@pytest.mark.parametrize("extra", [(), ("--external-data", "always")])
def test_the_hash_of_the_output_is_that_of_the_file(tmp_path: Path, extra: tuple[str, ...]) -> None:
    modelopt("fuse", CNN, "-o", "x.onnx", "--report", "r.json", *extra, *QUICK, cwd=tmp_path).succeeded()
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["output"]["sha256"] == hashlib.sha256((tmp_path / "x.onnx").read_bytes()).hexdigest()
    assert report["input"]["sha256"] == hashlib.sha256(CNN.read_bytes()).hexdigest()


def test_the_hash_of_a_copy(tmp_path: Path) -> None:
    modelopt("fold", MLP, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    run = modelopt("fold", "x.onnx", "-o", "y.onnx", "--json", *QUICK, cwd=tmp_path).succeeded()
    assert json.loads(run.out)["output"]["sha256"] == hashlib.sha256((tmp_path / "x.onnx").read_bytes()).hexdigest()
