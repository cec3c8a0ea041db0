"""No claim without evidence: what was not compared, not measured or not told from chance is said to be so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from modelopt.engine import judging
from modelopt.engine.findings import Findings
from modelopt.measure.chance import Guesses, Standing
from modelopt.measure.evaluate import Accuracy
from modelopt.measure.registry import task_for
from modelopt.measure.speed import Ratio, Verdict
from modelopt.measure.stats import proportion_interval
from modelopt.measure.task_score import TaskScore
from modelopt.recipe.recipe import Gates
from modelopt.report import GateOutcome, GateResult
from tests.command_line import CALIB, CNN, EVAL, MLP, QUICK, Ran, modelopt, save, value

F = np.float32


# No data


def note_of(run: Ran) -> str | None:
    found = [line for line in run.err.splitlines() if "contract was not checked" in line]
    return found[0] if found else None


@pytest.mark.parametrize(
    "command",
    [
        ("prune",),
        ("quantize", "--mode", "weights", "--bits", "2"),
        ("quantize", "--mode", "dynamic", "--everywhere"),
        ("quantize", "--mode", "storage"),
        ("quantize", "--mode", "fp16"),
        ("quantize", "--mode", "bf16"),
    ],
    ids=" ".join,
)
def test_a_contract_that_was_not_checked_is_said_to_be_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, MLP, "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    start = "note: the 1 % contract was not checked: no --calib or --eval (on random inputs "
    assert (note_of(run) or "").startswith(start)
    assert " of 16 answers changed)" in (note_of(run) or "")
    run = modelopt(*command, MLP, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    assert note_of(run) == "note: the 1 % contract was not checked: no --calib or --eval"


def test_a_contract_that_was_checked_or_not_needed_is_not_said_to_be_unchecked(tmp_path: Path) -> None:
    assert note_of(modelopt("prune", MLP, "--eval", EVAL, "-o", "x.onnx", "--no-bench", cwd=tmp_path)) is None
    assert note_of(modelopt("fuse", CNN, "-o", "y.onnx", "--no-bench", cwd=tmp_path)) is None
    assert note_of(modelopt("prune", MLP, "--exclude", "*", "-o", "z.onnx", "--no-bench", cwd=tmp_path)) is None


def test_data_that_are_not_used_are_no_evidence(tmp_path: Path) -> None:
    run = modelopt("quantize", "--everywhere", MLP, "--calib", CALIB, "-o", "x.onnx", *QUICK, cwd=tmp_path)
    assert note_of(run.succeeded()) == "note: the 1 % contract was not checked: no outputs were compared"


def test_random_inputs_are_no_evidence(tmp_path: Path) -> None:
    run = modelopt("quantize", "--everywhere", MLP, "--calib", "random", "-o", "x.onnx", "--no-bench", cwd=tmp_path)
    assert "not checked: random inputs are no evidence (on random inputs " in (note_of(run.succeeded()) or "")


@pytest.mark.parametrize(
    "command",
    [
        ("prune",),
        ("prune", "--eval", "random"),
        ("quantize", "--mode", "dynamic"),
        ("quantize", "--mode", "fp16"),
        ("quantize", "--calib", "random"),
        ("fuse", "--no-verify"),
    ],
    ids=" ".join,
)
def test_a_contract_without_data_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, CNN, "--max-drop", "1%", "-o", "x.onnx", cwd=tmp_path)
    run.refused(2, "--max-drop needs data", "random inputs say nothing about accuracy", "--eval DATA")


def test_verification_is_evidence_for_exact_passes(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "--max-drop", "1%", "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    assert "0 (the outputs are the same)  ok" in run.err


def test_a_metric_that_is_no_share_cannot_be_the_contract(tmp_path: Path) -> None:
    flags = ("--eval", EVAL, "--max-drop", "1%", "--metric", "max-abs-error", "--no-bench")
    modelopt("prune", MLP, "-o", "x.onnx", *flags, cwd=tmp_path).refused(2, "max-abs-error is no share", "--metric")


# The verdict

FASTER = Ratio(point=1.5, low=1.4, high=1.6, verdict=Verdict.FASTER, processes=8)


# Chance


@pytest.mark.parametrize(
    ("right", "n", "labels", "answers", "standing"),
    [
        (12, 36, [12, 12, 12], [36, 0, 0], Standing.AT_CHANCE),  # one answer to everything
        (110, 300, [100, 100, 100], [100, 100, 100], Standing.AT_CHANCE),  # noise
        (180, 200, [180, 20], [200, 0], Standing.AT_CHANCE),  # always the most frequent class
        (180, 200, [180, 20], [172, 28], Standing.UNCLEAR),  # as many right, but it tells the classes apart
        (8, 10, [5, 5], [5, 5], Standing.UNCLEAR),  # good, on few samples
        (4, 8, [2, 2, 2, 2], [2, 2, 2, 2], Standing.UNCLEAR),
        (2, 2, [1, 1], [1, 1], Standing.TOO_FEW),  # all right, and could have been guessed
        (20, 20, [18, 2], [18, 2], Standing.TOO_FEW),
        (30, 30, [30, 0], [30, 0], Standing.TOO_FEW),  # labels of one class
        (9, 10, [1] * 10, [1] * 10, Standing.ABOVE),
        (480, 629, [63] * 9 + [62], [63] * 9 + [62], Standing.ABOVE),
    ],
)
def test_a_score_beside_what_guessing_gives(
    right: int, n: int, labels: list[int], answers: list[int], standing: Standing
) -> None:
    counted = Guesses(1)
    counted.add(np.repeat(np.arange(len(answers)), answers)[:, None], np.repeat(np.arange(len(labels)), labels), 0)
    found = counted.chance(right / n, proportion_interval(right, n).low, n)
    assert found is not None
    assert found.standing is standing


def classified(labels: np.ndarray, scores: np.ndarray) -> Accuracy:
    metric = task_for([scores[:1]], [scores[:1]], labels[:1])
    assert metric is not None
    for label, row in zip(labels, scores, strict=True):
        metric.update([row[None]], [row[None]], label[None])
    return Accuracy(
        n=len(labels),
        tasks=(
            TaskScore(
                reference=metric.reference_score(),
                candidate=metric.score(),
                delta=metric.delta(),
                chance=metric.chance(),
            ),
        ),
        outputs=(),
        fidelity=(),
    )


def judged(found: Accuracy, guesses: tuple[str, ...] = ()) -> GateResult:
    findings = Findings(unchanged=False, accuracy=found, guesses=guesses)
    return judging.judge(Gates(max_drop=0.01), 1, 1, findings)[0]


def test_no_gate_passes_on_a_model_that_guesses() -> None:
    labels = np.arange(36) % 3
    found = judged(classified(labels, np.tile(np.array([1, 0, 0], F), (36, 1))), ("scale=1/255", "mean=0"))
    assert (found.outcome, found.found) == (GateOutcome.FAILED, "0.00% (top1), but the original scores at chance")
    assert "--preprocess scale=1/255,mean=0" in (found.hint or "")
    assert not judged(classified(labels, np.eye(3, dtype=F)[labels])).stops


def test_a_good_model_is_kept_on_few_and_on_uneven_labels() -> None:
    few = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    answers = np.where(np.arange(8) < 6, few, 1 - few)  # 6 of 8 right
    assert not judged(classified(few, np.eye(2, dtype=F)[answers])).stops
    uneven = (np.arange(100) % 10 == 0).astype(np.int64)
    answers = np.where(np.isin(np.arange(100), [0, 10, 20, 30, 1, 2, 3, 4]), 1 - uneven, uneven)  # 92 right
    assert not judged(classified(uneven, np.eye(2, dtype=F)[answers])).stops


def test_chance_and_guesses_are_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for number, color in enumerate(([200, 60, 60], [60, 200, 60], [60, 60, 200])):
        folder = tmp_path / "photos" / f"class{number}"
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(rng.normal(0, 20, (6, 6, 3)) + color, 0, 255).astype(np.uint8)
            image.fromarray(pixels).save(folder / f"{i}.png")
    weight = rng.normal(0, 1e-4, (3, 3, 6, 6)).astype(F)
    weight[range(3), range(3)] += 1 / 36
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    weights = {"w": weight, "b": np.array([0, 30, 0], F)}  # for pixels of 0 to 255: of 0 to 1 the bias decides
    save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3, 6, 6])], [value("y", ["n", 3])], weights)
    flags = (
        "prune",
        "m.onnx",
        "--sparsity",
        "0.3",
        "--eval",
        "photos",
        "-o",
        "x.onnx",
        "--no-bench",
        "--max-drop",
        "1%",
    )
    run = modelopt(*flags, cwd=tmp_path)
    guessed = "layout=nchw,color=rgb,scale=1/255,mean=0,std=1"
    run.failed(1, "warning: the original itself scores no better than chance (0.333 of 3 classes)")
    assert "but the original scores at chance" in run.err
    assert f"preprocessing guessed for x: float32[n, 3, 6, 6]: {guessed}" in run.err
    assert run.err.splitlines()[-1].endswith(f"--preprocess {guessed}")
    modelopt(*flags, "--preprocess", "scale=1", cwd=tmp_path).succeeded()
