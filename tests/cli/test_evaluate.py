"""`modelopt evaluate`: one model's scores, the recall of each class, and the gate on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from modelopt.measure.stats import proportion_interval
from tests.command_line import CALIB, EVAL, MLP, modelopt


def _expected() -> tuple[np.ndarray, np.ndarray]:
    """Labels and answers, by onnxruntime alone."""
    stored = np.load(EVAL)
    session = onnxruntime.InferenceSession(MLP, providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    labels = next(stored[key] for key in ("label", "labels") if key in stored.files)
    outputs = [session.run(None, {name: stored[name][i : i + 1]})[0] for i in range(len(labels))]
    return labels, np.concatenate(outputs).argmax(axis=-1)


def test_the_scores_are_those_of_the_model(tmp_path: Path) -> None:
    done = modelopt("evaluate", MLP, "--eval", EVAL, "--json", "--report", "r.json", cwd=tmp_path).succeeded()
    found: dict[str, Any] = json.loads(done.out)
    assert json.loads((tmp_path / "r.json").read_text()) == found
    labels, answers = _expected()
    (score,) = found["scores"]
    right = labels == answers
    assert (score["name"], score["n"]) == ("top1", len(labels))
    assert score["value"] == pytest.approx(right.mean(), abs=1e-9)
    assert score["low"] == pytest.approx(proportion_interval(int(right.sum()), len(labels)).low, abs=1e-9)
    classes = {each["label"]: (each["right"], each["n"]) for each in found["classes"]}
    assert classes == {label: (int(right[labels == label].sum()), int((labels == label).sum())) for label in {*labels}}
    assert [each["recall"] for each in found["classes"]] == sorted(each["recall"] for each in found["classes"])


def test_the_gate(tmp_path: Path) -> None:
    labels, answers = _expected()
    ends = proportion_interval(int((labels == answers).sum()), len(labels))
    for least, code in ((ends.low - 0.001, 0), ((labels == answers).mean(), 5), (ends.high + 0.0001, 1)):
        words = ("--eval", EVAL, "--min-score", f"{100 * least:.3f}%", "--report", "r.md")
        assert modelopt("evaluate", MLP, *words, cwd=tmp_path).code == code
        assert "min-score" in (tmp_path / "r.md").read_text()


def test_data_without_labels(tmp_path: Path) -> None:
    run = modelopt("evaluate", MLP, "--eval", CALIB, cwd=tmp_path)
    run.refused(2, "holds no labels that a metric can use", "--labels FILE")
    modelopt("evaluate", MLP, cwd=tmp_path).refused(2, "evaluate needs labelled data", "--eval DATA")
