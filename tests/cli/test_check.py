"""`modelopt check`: stored reports of real runs, in a pipeline, and what it writes for CI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from modelopt.report.check_report import SCHEMA
from tests.command_line import CNN, FAST, evaluation, modelopt

SUITE = {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package"}
CASE = {"name", "classname", "time", "status", "assertions"}
OUTCOMES = {"failure", "error", "skipped", "system-out", "system-err"}
"""What JUnit's XML allows, as Jenkins reads it: attributes of a suite and of a case, and what a case may hold."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of a bench, and one of a comparison."""
    made = tmp_path_factory.mktemp("reports")
    modelopt("bench", CNN, *FAST, "--processes", "2", "--report", "bench.json", cwd=made).succeeded()
    data = ("--eval", evaluation("digits_cnn"), "--no-bench")
    modelopt("compare", CNN, CNN, *data, "--report", "compare.json", cwd=made).succeeded()
    return made


def _edited(folder: Path, name: str, made: str, factor: float) -> str:
    """The same report, but that each run takes `factor` times as long."""
    document = json.loads((folder / name).read_text())
    for result in document["results"]:
        result["samples_ns"] = [[[int(ns * factor) for ns in each] for each in one] for one in result["samples_ns"]]
    (folder / made).write_text(json.dumps(document))
    return made


def _valid(text: str) -> ET.Element:
    """The document, where JUnit's schema permits it."""
    root = ET.fromstring(text)
    assert root.tag == "testsuites"
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests"} <= suite.attrib.keys() <= SUITE
        assert suite.attrib["tests"] == str(len(suite))
        for case in suite:
            assert case.tag == "testcase"
            assert {"name"} <= case.attrib.keys() <= CASE
            assert all(each.tag in OUTCOMES and each.attrib.keys() <= {"message", "type"} for each in case)
    return root


def test_no_worse(folder: Path) -> None:
    limits = ("--max-latency", "1s", "--max-size", "+0%")
    done = modelopt("check", "bench.json", "--baseline", "bench.json", *limits, cwd=folder).succeeded()
    assert "No worse than the baseline." in done.out.decode()


def test_worse_in_each_form(folder: Path, tmp_path: Path) -> None:
    slow = folder / _edited(folder, "bench.json", "slow.json", 100.0)
    flags = ("--max-latency", "+3%", "--report", "c.xml", "--report", "c.json", "--report", "c.md", "--github")
    run = modelopt("check", slow, "--baseline", folder / "bench.json", *flags, cwd=tmp_path)
    assert run.code == 1
    assert run.err.startswith("modelopt: error: --max-latency +3% is not met: found ")
    assert run.out.decode().splitlines()[0] == "Worse than the baseline: max-latency."
    (annotation,) = [line for line in run.out.decode().splitlines() if line.startswith("::")]
    assert annotation.startswith("::error title=model.onnx%3A max-latency +3%25 failed::100.000× what it was (")
    root = _valid((tmp_path / "c.xml").read_text())
    assert [case.find("failure") is not None for case in root.iter("testcase")] == [True]
    document: dict[str, Any] = json.loads((tmp_path / "c.json").read_text())
    assert (document["schema"], document["models"][0]["gates"][0]["outcome"]) == (SCHEMA, "failed")
    assert "Worse than the baseline" in (tmp_path / "c.md").read_text()


def test_not_decided(folder: Path) -> None:
    """Two processes that differ by a half say nothing of 3 %."""
    document = json.loads((folder / "bench.json").read_text())
    (result,) = document["results"]
    result["samples_ns"] = [[[1000, 1000]] * 2, [[2000, 2000]] * 2]
    (folder / "wide.json").write_text(json.dumps(document))
    words = ("check", "wide.json", "--baseline", "wide.json", "--max-latency", "+3%")
    run = modelopt(*words, cwd=folder)
    assert run.code == 5
    assert "is not decided" in run.err
    assert modelopt(*words, "--on-inconclusive", "pass", cwd=folder).succeeded()


def test_a_comparison(folder: Path) -> None:
    done = modelopt("check", "compare.json", "--baseline", "compare.json", "--max-drop", "1%", cwd=folder).succeeded()
    assert "0.00% (top1, " in done.out.decode()


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["nowhere.json"], "the report nowhere.json cannot be read"),
        (["text.json"], "text.json is no report of modelopt"),
        (["other.json"], "other.json is no report of modelopt"),
        (["odd.json"], "odd.json is no report of modelopt"),
        (["bench.json", "--max-latency", "3%"], "--max-latency: '3%' may mean 3% more, or 3% of what it was"),
        (["bench.json", "--max-latency", "3"], "--max-latency: '3' has no unit: it may mean 3ms or 3s"),
        (["bench.json", "--max-drop", "1%"], "--max-drop needs accuracy, which the report does not hold"),
        (["bench.json", "--report", "bench.json"], "the report bench.json is a report that is read"),
        (["bench.json", "--report", "c.txt"], "a report cannot be written to c.txt"),
        (["bench.json", "--across-machines"], "model.onnx was not timed beside another model in both reports"),
    ],
)
def test_a_mistake(folder: Path, words: list[str], fact: str) -> None:
    (folder / "text.json").write_text("no report")
    (folder / "other.json").write_text('{"schema": "modelopt-report/1"}')
    (folder / "odd.json").write_text('{"schema": "modelopt-bench/4", "models": []}')
    modelopt("check", *words, "--baseline", "bench.json", cwd=folder).refused(2, fact)


@pytest.mark.parametrize("ending", ["json", "md", "xml", "html"])
def test_a_report_replaces_a_report_and_nothing_else(folder: Path, ending: str, tmp_path: Path) -> None:
    words = ("check", folder / "bench.json", "--baseline", folder / "bench.json", "--max-size", "+1%")
    (tmp_path / f"notes.{ending}").write_text("my notes")
    mine = f"notes.{ending}"
    modelopt(*words, "--report", mine, cwd=tmp_path).refused(2, "would replace a file that is not a report")
    assert (tmp_path / f"notes.{ending}").read_text() == "my notes"
    for _ in range(2):
        modelopt(*words, "--report", f"r.{ending}", cwd=tmp_path).succeeded()


def test_a_bench_replaces_its_report(tmp_path: Path) -> None:
    for _ in range(2):
        modelopt("bench", CNN, *FAST, "--processes", "1", "--report", "r.md", cwd=tmp_path).succeeded()
