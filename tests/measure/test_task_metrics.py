"""F1, recall, error rates and errors of numbers against formulas that are written out here, to 1e-9."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.cli.options import METRIC_NAMES
from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import open_data
from modelopt.measure.detection_agreement import DetectionAgreement
from modelopt.measure.error_rate import CharacterErrorRate, WordErrorRate, edit_distance
from modelopt.measure.evaluate import evaluate
from modelopt.measure.f1 import F1
from modelopt.measure.loss import loss_of
from modelopt.measure.registry import names, parse
from modelopt.measure.regression import MeanAbsoluteError, RootMeanSquareError
from modelopt.measure.retrieval import RecallAtK
from modelopt.measure.task_metric import TaskMetric
from modelopt.measure.task_score import task_score

EXACT = 1e-9
RNG = np.random.default_rng(16)


def updated(metric: TaskMetric, before: np.ndarray, after: np.ndarray, labels: np.ndarray, step: int) -> TaskMetric:
    """The metric after all samples, `step` rows in each."""
    for start in range(0, len(labels), step):
        rows = slice(start, start + step)
        metric.update([before[rows]], [after[rows]], labels[rows])
    return metric


def value_of(metric: TaskMetric) -> float:
    found = metric.score().value
    assert found is not None
    return found


def test_each_name_makes_its_metric_and_shells_complete_it() -> None:
    assert set(METRIC_NAMES) == set(names())
    for name in names():
        assert parse(name).name == name


def macro_f1(true: np.ndarray, answered: np.ndarray) -> float:
    scores = []
    for each in sorted({*true.tolist(), *answered.tolist()}):
        right = sum(t == a == each for t, a in zip(true, answered, strict=True))
        precision = right / max(1, sum(a == each for a in answered))
        recall = right / max(1, sum(t == each for t in true))
        scores.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(scores) / len(scores)


@pytest.mark.parametrize("step", [1, 7])
def test_f1_is_the_mean_over_classes_of_labels_and_answers(step: int) -> None:
    labels = RNG.choice(5, 140, p=[0.6, 0.2, 0.1, 0.08, 0.02])
    before, after = RNG.random((2, 140, 6))
    metric = updated(F1(), before, after, labels, step)
    assert value_of(metric) == pytest.approx(macro_f1(labels, after.argmax(axis=1)), abs=EXACT)
    reference = metric.reference_score()
    assert reference.value is not None
    assert reference.value == pytest.approx(macro_f1(labels, before.argmax(axis=1)), abs=EXACT)
    assert reference.low is not None
    assert reference.high is not None
    assert reference.low < reference.value < reference.high
    delta = metric.delta()
    assert delta is not None
    assert delta.low is not None
    assert delta.high is not None
    assert delta.low < delta.point < delta.high
    assert task_score(metric).units is None


def test_f1_of_sequences_and_of_predicted_classes() -> None:
    labels = RNG.integers(0, 4, (20, 9))
    scores = RNG.random((20, 9, 4))
    by_score = updated(F1(), scores, scores, labels, 1)
    assert value_of(by_score) == pytest.approx(macro_f1(labels.ravel(), scores.argmax(axis=2).ravel()), abs=EXACT)
    classes = RNG.integers(0, 4, (20, 9))
    by_class = updated(F1(), classes, classes, labels, 1)
    assert value_of(by_class) == pytest.approx(macro_f1(labels.ravel(), classes.ravel()), abs=EXACT)


def test_f1_without_an_error_still_has_an_honest_width() -> None:
    labels = np.arange(20) % 4
    right = np.eye(4)[labels]
    metric = updated(F1(), right, right, labels, 1)
    score, delta = metric.score(), metric.delta()
    assert score.value == 1
    assert score.low is not None
    assert score.low < 0.9
    assert delta is not None
    assert delta.low is not None
    assert delta.low < -0.05


def test_a_row_of_nan_answers_no_class() -> None:
    scores = np.array([[0.0, 1.0], [1.0, 0.0], [np.nan, 1.0]])
    metric = updated(F1(), scores, scores, np.array([1, 0, 1]), 3)
    assert value_of(metric) == pytest.approx((2 / 3 + 1) / 2, abs=EXACT)


def distance(a: str | tuple[str, ...], b: str | tuple[str, ...]) -> int:
    @cache
    def between(i: int, j: int) -> int:
        if not (i and j):
            return i + j
        return min(between(i - 1, j) + 1, between(i, j - 1) + 1, between(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    return between(len(a), len(b))


def test_the_edit_distance_is_that_of_the_definition() -> None:
    for _ in range(60):
        a, b = ("".join(RNG.choice(list("abc"), RNG.integers(0, 12))) for _ in range(2))
        assert edit_distance(a, b) == distance(a, b), (a, b)


def texts(n: int) -> np.ndarray:
    return np.array([" ".join(RNG.choice(["on", "one", "two", "a"], RNG.integers(1, 9))) for _ in range(n)])


def test_error_rates_are_edits_over_the_length_of_the_labels() -> None:
    labels, before, after = texts(40), texts(40), texts(40)
    words = updated(WordErrorRate(), before.astype(object), after.astype(object), labels, 8)
    edits = [distance(tuple(a.split()), tuple(b.split())) for a, b in zip(after, labels, strict=True)]
    assert value_of(words) == pytest.approx(sum(edits) / sum(len(each.split()) for each in labels), abs=EXACT)
    characters = updated(CharacterErrorRate(), before, after, labels, 8)
    edits = [distance(str(a), str(b)) for a, b in zip(after, labels, strict=True)]
    assert value_of(characters) == pytest.approx(sum(edits) / sum(map(len, labels)), abs=EXACT)
    delta = words.delta()
    assert delta is not None
    assert delta.low is not None
    assert delta.high is not None
    assert delta.low < delta.point < delta.high


def test_words_that_are_too_many_count_also_against_an_empty_label() -> None:
    answers = np.array(["a b", "c"], object)
    metric = updated(WordErrorRate(), answers, answers, np.array(["", "c"]), 1)
    assert value_of(metric) == 2
    assert metric.score().higher_is_better is False


def test_error_rates_take_text_only() -> None:
    with pytest.raises(InputError, match="no output holds one text"):
        updated(WordErrorRate(), np.zeros((1, 3)), np.zeros((1, 3)), np.array(["a"]), 1)
    with pytest.raises(InputError, match="needs text as labels"):
        updated(WordErrorRate(), np.zeros((1, 3)), np.zeros((1, 3)), np.array([1]), 1)
    long = np.array(["a" * 20_001])
    with pytest.raises(InputError, match="too long"):
        updated(CharacterErrorRate(), long, long, long, 1)


def test_errors_of_numbers_and_their_relative_rise() -> None:
    labels = RNG.normal(size=50)
    before, after = labels[:, None] + RNG.normal(size=(2, 50, 1))
    for metric, expected in (
        (
            MeanAbsoluteError(),
            [sum(abs(a - b) for a, b in zip(x[:, 0], labels, strict=True)) / 50 for x in (before, after)],
        ),
        (
            RootMeanSquareError(),
            [math.sqrt(sum((a - b) ** 2 for a, b in zip(x[:, 0], labels, strict=True)) / 50) for x in (before, after)],
        ),
    ):
        updated(metric, before, after, labels, 1)
        found = task_score(metric)
        assert found.reference.value == pytest.approx(expected[0], abs=EXACT)
        assert found.candidate.value == pytest.approx(expected[1], abs=EXACT)
        assert found.fall == pytest.approx(expected[1] / expected[0] - 1, abs=EXACT)
        assert found.candidate.low is not None
        assert found.candidate.high is not None
        assert found.candidate.low < expected[1] < found.candidate.high
        assert found.delta is not None
        assert found.delta.low is not None
        assert found.delta.high is not None
        assert found.delta.low < found.delta.point < found.delta.high


def test_a_candidate_of_another_shape_is_no_perfect_score() -> None:
    with pytest.raises(InputError, match="do not fit"):
        MeanAbsoluteError().update([np.zeros(2)], [np.zeros(3)], np.zeros(2))


def test_a_model_that_answers_nothing_is_wrong() -> None:
    labels, rows = np.array([0, 0, 1, 1]), np.repeat(np.eye(2), 2, axis=0)
    for metric in (F1(), RecallAtK(1)):
        metric.update([rows], [np.zeros((0, 2))], labels)
        assert (metric.reference_score().value, metric.score().value) == (1, 0), metric.name
    words = WordErrorRate()
    words.update([np.array(["a b"], object)], [np.zeros(0, object)], np.array(["a b"]))
    assert (words.reference_score().value, words.score().value) == (0, 1)
    with pytest.raises(InputError, match="only one of the two models answers"):
        MeanAbsoluteError().update([np.zeros(2)], [np.zeros(0)], np.zeros(2))


def recall(embeddings: np.ndarray, labels: np.ndarray, k: int) -> float:
    right = []
    for i, each in enumerate(embeddings):
        cosines = [float(each @ o / math.sqrt(each @ each) / math.sqrt(o @ o)) for o in embeddings]
        others = sorted((j for j in range(len(labels)) if j != i), key=lambda j: -cosines[j])
        if any(labels[j] == labels[i] for j in others):
            right.append(any(labels[j] == labels[i] for j in others[:k]))
    return sum(right) / len(right)


@pytest.mark.parametrize("k", [1, 5])
def test_recall_is_over_the_nearest_of_all_samples(k: int) -> None:
    labels = np.concatenate([RNG.integers(0, 12, 60), [99]])
    before, after = RNG.normal(size=(2, 61, 8)).astype(np.float32)
    metric = updated(RecallAtK(k), before, after, labels, 4)
    assert value_of(metric) == pytest.approx(recall(after.astype(float), labels, k), abs=EXACT)
    assert metric.reference_score().value == pytest.approx(recall(before.astype(float), labels, k), abs=EXACT)
    assert metric.score().n == sum((labels == each).sum() > 1 for each in labels)
    assert metric.delta() is not None


def test_recall_of_a_collapsed_model_is_none_and_labels_may_be_words() -> None:
    same = np.ones((6, 3), np.float32)
    labels = np.array(["a", "a", "b", "b", "c", "c"])
    assert value_of(updated(RecallAtK(1), same, same, labels, 2)) == 0
    apart = np.repeat(np.eye(3, dtype=np.float32), 2, axis=0)
    assert value_of(updated(RecallAtK(1), same, apart, labels, 2)) == 1
    lonely = updated(RecallAtK(1), same[:2], same[:2], np.array(["a", "b"]), 1)
    assert lonely.score().value is None


def boxes(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    corner = RNG.uniform(0, 30, (n, 2))
    return np.concatenate([corner, corner + RNG.uniform(5, 25, (n, 2))], axis=1), RNG.random(n), RNG.integers(0, 2, n)


def agreed(a: tuple[np.ndarray, ...], b: tuple[np.ndarray, ...]) -> tuple[int, int]:
    """Matches and detections of one image, box by box."""
    free = [j for j in range(len(b[1])) if b[1][j] >= 0.25]
    ours = sorted((i for i in range(len(a[1])) if a[1][i] >= 0.25), key=lambda i: -a[1][i])
    total, matched = len(ours) + len(free), 0
    for i in ours:
        rated = []
        for j in free:
            width = min(a[0][i][2], b[0][j][2]) - max(a[0][i][0], b[0][j][0])
            height = min(a[0][i][3], b[0][j][3]) - max(a[0][i][1], b[0][j][1])
            common = max(0.0, width) * max(0.0, height)
            areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a[0][i], b[0][j])]
            if a[2][i] == b[2][j] and common / (sum(areas) - common) >= 0.5:
                rated.append((common / (sum(areas) - common), j))
        if rated:
            free.remove(max(rated)[1])
            matched += 1
    return matched, total


def test_detections_agree_where_boxes_of_one_class_overlap() -> None:
    metric, by_rows = DetectionAgreement(), DetectionAgreement()
    matched = total = 0
    for _ in range(30):
        a = boxes(12)
        b = (a[0] + RNG.normal(0, 2, (12, 4)), a[1] + RNG.normal(0, 0.1, 12), np.where(RNG.random(12) < 0.2, 0, a[2]))
        metric.update(list(a), list(b), None)
        rows = [[np.concatenate([x[0], x[1][:, None], x[2][:, None]], axis=1)[None]] for x in (a, b)]
        by_rows.update(rows[0], rows[1], None)
        found = agreed(a, b)
        matched, total = matched + found[0], total + found[1]
    assert 0.3 < 2 * matched / total < 0.95
    score = metric.score()
    assert score.value == pytest.approx(2 * matched / total, abs=EXACT)
    assert by_rows.score().value == score.value
    assert score.n == total
    assert score.low is not None
    assert score.high is not None
    assert score.value is not None
    assert score.low < score.value < score.high


def test_no_detections_are_nothing_to_compare_and_other_outputs_are_refused() -> None:
    metric = DetectionAgreement()
    nothing = [np.zeros((3, 4)), np.zeros(3)]
    metric.update(nothing, nothing, None)
    assert metric.score().value is None
    with pytest.raises(InputError, match="no outputs look like detections"):
        metric.update([np.zeros((1, 10))], [np.zeros((1, 10))], None)


def speller(path: Path, *words: str) -> Path:
    """A model that answers the number it is given with a word."""
    table = numpy_helper.from_array(np.array(words, object), "words")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["words", "x"], ["y"])],
        "speller",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.STRING, ["n"])],
        [table],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), path)
    return path


def test_models_that_answer_in_words_are_scored_beside_each_other(tmp_path: Path) -> None:
    first, second = speller(tmp_path / "a.onnx", "one two", "three"), speller(tmp_path / "b.onnx", "one too", "three")
    np.savez(tmp_path / "data.npz", x=np.arange(8) % 2, labels=np.array(["one two", "three"] * 4))
    data = open_data(str(tmp_path / "data.npz"), [TensorSpec("x", "int64", ("n",))])
    found = evaluate(first, second, data, metrics=["wer"])
    score = found.tasks[0]
    assert score.reference.value == 0
    assert score.candidate.value == pytest.approx(4 / 12, abs=EXACT)
    loss = loss_of(found)
    assert loss is not None
    assert loss.lost == pytest.approx(4 / 12, abs=EXACT)
