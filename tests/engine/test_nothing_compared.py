"""An output without elements is no perfect output: metrics, gates and the search say that nothing was compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper

from modelopt.core.errors import InputError
from modelopt.data.dataset import Dataset, Sample
from modelopt.engine import optimize
from modelopt.engine.findings import Findings
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.measure.fidelity import Fidelity
from modelopt.measure.metric import NOTHING_COMPARED, Metric, Score
from modelopt.measure.registry import names, parse, task_for
from modelopt.recipe.pipelines import FOLD, until_stable
from modelopt.recipe.recipe import Gates, Recipe
from modelopt.report import GateOutcome, Report
from modelopt.runtime.session import SessionSpec
from tests.command_line import modelopt, save, value

F = np.float32
ROWS = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1]], F)
NONE = np.zeros((0, 3), F)
COMPARING = [
    name for name in names() if isinstance(parse(name), Fidelity) and name not in {"agreement", "detection-agreement"}
]


# Outputs without elements


def scored(metric: Metric, *pairs: tuple[np.ndarray, np.ndarray], label: np.ndarray | None = None) -> Score:
    for before, after in pairs:
        metric.update([before], [after], label)
    return metric.score()


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize("pair", [(NONE, NONE), (ROWS * np.nan, ROWS * np.nan), (ROWS + np.inf, ROWS + np.inf)])
def test_nothing_to_compare_is_no_score(name: str, pair: tuple[np.ndarray, np.ndarray]) -> None:
    found = scored(parse(name), pair, pair)
    assert (found.value, found.n, found.low, found.note) == (None, 0, None, NOTHING_COMPARED)


@pytest.mark.parametrize("name", COMPARING)
def test_samples_without_elements_do_not_count(name: str) -> None:
    changed = ROWS[:, ::-1].copy()
    among = scored(parse(name), (NONE, NONE), (ROWS, changed), (NONE, NONE))
    alone = scored(parse(name), (ROWS, changed))
    assert (among.value, among.n, among.note) == (alone.value, alone.n, alone.note)


@pytest.mark.parametrize("name", COMPARING)
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NONE, ROWS),
        (ROWS, NONE),
        (NONE, np.zeros_like(ROWS)),
        (np.zeros_like(ROWS), NONE),
        (np.zeros((2, 3), F), np.zeros((4, 3), F)),
    ],
)
def test_rows_that_only_one_model_gives_are_a_difference(name: str, before: np.ndarray, after: np.ndarray) -> None:
    found = scored(parse(name), (before, after))
    assert found.n > 0
    assert not (found.note or "").startswith("exact")
    drop = Findings(unchanged=False, accuracy=_accuracy(found)).drop()
    assert name == "max-abs-error" or (drop is not None and drop >= 0.99)
    assert "another shape" in (found.note or "")


@pytest.mark.parametrize("name", ["cosine", "sqnr", "max-abs-error"])
@pytest.mark.parametrize(("before", "after"), [(0.0, np.nan), (np.nan, 0.0), (np.inf, -np.inf), (np.inf, np.nan)])
def test_what_is_finite_in_one_model_only_is_a_difference(name: str, before: float, after: float) -> None:
    found = scored(parse(name), (np.full((1, 2), before, F), np.full((1, 2), after, F)))
    assert not (found.note or "").startswith(("exact", NOTHING_COMPARED))
    assert "2 values are NaN or infinite in one of the two only" in (found.note or "")
    assert found.value in {0.0, 1.0, None}
    assert (found.name, found.value) != ("cosine", 1.0)


def test_noise_beside_an_output_of_zeros_is_a_loss_of_everything() -> None:
    found = scored(parse("sqnr"), (ROWS * 0, ROWS))
    assert found.value is None
    assert Findings(unchanged=False, accuracy=_accuracy(found)).drop() == np.inf


def _accuracy(*fidelity: Score) -> Accuracy:
    return Accuracy(n=1, tasks=(), outputs=(), fidelity=fidelity, named=True)


def test_labels_of_samples_without_rows_do_not_count() -> None:
    metric = parse("top1")
    found = scored(metric, (NONE, NONE), label=np.array(1))
    assert (found.value, found.n, found.note) == (None, 0, NOTHING_COMPARED)
    found = scored(metric, (ROWS[:1], ROWS[:1]), label=np.array(1))
    assert (found.value, found.n) == (1, 1)
    found = scored(metric, (ROWS[:1], NONE), label=np.array(1))
    assert (found.value, found.n) == (0.5, 2)


def test_a_metric_that_was_named_says_where_it_does_not_fit() -> None:
    with pytest.raises(InputError, match="do not fit any output"):
        scored(parse("top1"), (ROWS[:1], ROWS[:1]), (np.zeros((2, 7), F), np.zeros((2, 7), F)), label=np.array(1))
    inferred = task_for([ROWS[:1]], [ROWS[:1]], np.array(1))
    assert inferred is not None
    found = scored(inferred, (ROWS[:1],) * 2, (np.zeros((2, 7), F),) * 2, label=np.array(1))
    assert (found.value, found.n) == (1, 1)
    assert list(inferred.cautions()) == ["top1 is over 1 of 2 samples: elsewhere the labels do not fit any output"]


# Models whose outputs hold rows for some inputs only


@dataclass(frozen=True, kw_only=True, eq=False)
class Hot(Dataset):
    """Samples of one row; those at `hot` make the models below answer."""

    hot: tuple[int, ...]
    n: int = 6

    def __len__(self) -> int:
        return self.n

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        for index in indices:
            row = np.linspace(-1, 1, 8, dtype=F)[None] * (9 if index in self.hot else 1)
            yield Sample({"x": np.roll(row, index)}, np.array(index % 3) if self.has_labels else None, f"hot[{index}]")

    def digest(self) -> str:
        return repr(self.hot)


def detector(path: Path, *, sign: float = 1.0, limit: float = 5.0, idle: bool = False) -> Path:
    """Rows of x @ w where the largest value of the row of x is above `limit`; with `idle` an Identity behind it."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["all"], name="head"),
        helper.make_node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=0),
        helper.make_node("Greater", ["most", "limit"], ["found"]),
        helper.make_node("Compress", ["all", "found"], ["rows" if idle else "y"], axis=0),
        *([helper.make_node("Identity", ["rows"], ["y"])] if idle else []),
    ]
    weights = {"w": sign * np.random.default_rng(0).normal(size=(8, 40)).astype(F), "limit": np.array(limit, F)}
    return save(path, nodes, [value("x", ["n", 8])], [value("y", ["k", 40])], weights)


ONE_THREAD = SessionSpec(threads=1)


def test_a_sample_without_rows_among_others(tmp_path: Path) -> None:
    good, bad = detector(tmp_path / "a.onnx"), detector(tmp_path / "b.onnx", sign=-1)
    data = Hot(source="hot", has_labels=False, hot=(2, 4))
    found = evaluate(good, bad, data, ONE_THREAD)
    scores = {score.name: score for score in found.fidelity}
    assert scores["cosine"].value == pytest.approx(-1)
    assert scores["cosine"].n == 2
    assert Findings(unchanged=False, accuracy=found).drop() == 1
    assert "4 of 6 samples are not counted: their outputs hold no element" in evaluate(good, bad, data).notes


@pytest.mark.parametrize("hot", [(0, 5), (3,)])
def test_labels_are_used_where_there_are_rows(tmp_path: Path, hot: tuple[int, ...]) -> None:
    model = detector(tmp_path / "a.onnx")
    found = evaluate(model, model, Hot(source="hot", has_labels=True, hot=hot), ONE_THREAD)
    assert found.tasks[0].candidate.n == len(hot)
    assert any(note.startswith(f"top1 is over {len(hot)} of 6 samples") for note in found.notes)


def test_a_model_that_answers_where_the_original_does_not(tmp_path: Path) -> None:
    quiet, loud = detector(tmp_path / "a.onnx"), detector(tmp_path / "b.onnx", limit=-99)
    for before, after in ((quiet, loud), (loud, quiet)):
        found = evaluate(before, after, Hot(source="hot", has_labels=False, hot=()), ONE_THREAD)
        assert next(score.value for score in found.fidelity if score.name == "cosine") == 0
        assert Findings(unchanged=False, accuracy=found).drop() == 1


def test_an_output_that_no_sample_fills_is_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["copy"]), helper.make_node("Compress", ["x", "no"], ["y"], axis=0)]
    outputs = [value("copy", [1, 8]), value("y", ["k", 8])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", [1, 8])], outputs, {"no": np.array([False])})
    found = evaluate(model, model, Hot(source="hot", has_labels=False, hot=()), ONE_THREAD)
    assert found.notes == ("output 'y' was not compared: it holds no element on any of the 6 samples",)


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A detector, and data on which it finds nothing."""
    np.savez(tmp_path / "cold.npz", x=np.random.default_rng(0).normal(size=(16, 8)).clip(-1, 1).astype(F))
    return detector(tmp_path / "m.onnx")


PRUNE = ("prune", "m.onnx", "--sparsity", "0.9", "--eval", "cold.npz", "-o", "x.onnx", "--no-bench")


def test_no_gate_passes_where_nothing_was_compared(tmp_path: Path, cold: Path) -> None:
    run = modelopt(*PRUNE, "--max-drop", "1%", cwd=tmp_path)
    run.failed(1, "--max-drop 1.00% is not met: found nothing was compared", "hint: give inputs on which")
    assert run.err.splitlines()[0].startswith("Not written: --max-drop is not met.")
    assert "cosine" not in run.err
    assert [line.split()[0] for line in run.err.splitlines() if NOTHING_COMPARED in line] == ["outputs", "note:"]


def test_nothing_compared_is_said_without_a_gate_and_in_a_comparison(tmp_path: Path, cold: Path) -> None:
    run = modelopt(*PRUNE, cwd=tmp_path).succeeded()
    assert NOTHING_COMPARED in run.err
    assert "exact\n" not in run.err
    text = modelopt("compare", "m.onnx", "x.onnx", "--eval", "cold.npz", "--no-bench", cwd=tmp_path).succeeded().out
    assert NOTHING_COMPARED in text.decode()
    assert "cosine" not in text.decode()


def test_exact_passes_do_not_pass_the_gate_where_outputs_hold_nothing(tmp_path: Path) -> None:
    model = detector(tmp_path / "m.onnx", limit=np.inf, idle=True)
    recipe = Recipe(steps=(until_stable(FOLD),), gates=Gates(max_drop=0.01))
    report = optimize.run(optimize.Request(recipe=recipe, model=model, output=tmp_path / "x.onnx"))
    assert [(gate.found, gate.outcome) for gate in report.gates] == [("nothing was compared", GateOutcome.FAILED)]
    assert not report.written


def test_the_search_keeps_nothing_where_nothing_was_compared(tmp_path: Path, cold: Path) -> None:
    flags = ("--calib", "cold.npz", "--eval", "cold.npz", "--no-bench", "--max-size", "50%", "--json", "-o", "x.onnx")
    run = modelopt("quantize", "m.onnx", *flags, cwd=tmp_path)
    assert run.code == 1  # the size, which the float model does not have
    report = msgspec.json.decode(run.out, type=Report)
    judged = [trial for trial in report.trials if trial.rewrites]
    assert judged
    assert {trial.reason for trial in judged} == {"accuracy cannot be judged: nothing was compared"}
    assert not any(trial.kept for trial in report.trials)
    assert "accuracy cannot be judged: nothing was compared" in report.verdict
