"""Metrics on cases small enough to check by hand."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from modelopt.core.errors import InputError
from modelopt.measure.fidelity import Cosine, MaxAbsError, Sqnr
from modelopt.measure.metric import Metric, Score
from modelopt.measure.registry import Asked, choose, names, parse, parse_all, task_for
from modelopt.measure.task_metric import TaskMetric
from modelopt.measure.topk import TopK

F = np.float32
LOGITS = np.array([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.4, 0.5, 0.1]], F)


def scored(metric: Metric, *pairs: tuple[object, object], label: object = None) -> Score:
    for before, after in pairs:
        metric.update([np.asarray(before)], [np.asarray(after)], None if label is None else np.asarray(label))
    return metric.score()


def test_top1_counts_rows() -> None:
    found = scored(TopK(1), (LOGITS, LOGITS), label=[1, 0, 2, 0])
    assert (found.name, found.value, found.n, found.unit) == ("top1", 0.75, 4, "share")
    assert found.low is not None
    assert found.low < 0.75


def test_top5_of_six_classes() -> None:
    ramp = np.arange(6, dtype=F)[None]
    assert scored(TopK(5), (ramp, ramp), label=[1]).value == 1
    assert scored(TopK(5), (ramp, ramp), label=[0]).value == 0


def test_a_collapsed_model_is_not_right_about_everything() -> None:
    flat = np.zeros((3, 10), F)
    assert scored(TopK(1), (flat, flat), label=[0, 1, 9]).value == pytest.approx(1 / 3)
    assert scored(TopK(5), (flat, flat), label=[0, 4, 5]).value == pytest.approx(2 / 3)


def test_rows_with_nan_are_wrong_and_reported() -> None:
    broken = LOGITS.copy()
    broken[0, 2] = np.nan
    found = scored(TopK(1), (LOGITS, broken), label=[1, 0, 2, 1])
    assert (found.value, found.nonfinite) == (0.75, 1)


@pytest.mark.parametrize(
    ("shape", "label"), [((3,), 1), ((1, 3), 1), ((1, 3), [1]), ((2, 3), [1, 1]), ((1, 2, 3), [[1, 1]])]
)
def test_labels_go_with_rows(shape: tuple[int, ...], label: object) -> None:
    scores = np.broadcast_to(np.array([0, 1, 0], F), shape)
    assert scored(TopK(1), (scores, scores), label=label).value == 1


def test_the_output_that_fits_is_scored() -> None:
    metric = TopK(1)
    outputs = [np.zeros((4, 7, 7), F), np.array([3, 3, 3, 3]), LOGITS]
    metric.update(outputs, outputs, np.array([1, 0, 2, 1]))
    assert metric.score().value == 1


def test_predicted_classes_count_as_top1() -> None:
    assert scored(TopK(1), (np.array([1, 2]), np.array([1, 0])), label=[1, 2]).value == 0.5


@pytest.mark.parametrize(
    ("label", "message"),
    [(None, "needs labels"), ([0.5] * 4, "class numbers"), ([1, 2], "do not fit"), ([0, 1, 2, 3], "no class")],
)
def test_labels_that_cannot_be_scored(label: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(TopK(1), (LOGITS, LOGITS), label=label)


def test_the_delta_is_paired() -> None:
    metric = TopK(1)
    metric.update([LOGITS], [LOGITS[::-1]], np.array([1, 0, 2, 1]))
    assert metric.reference_score().value == 1
    assert metric.score().value == 0.5
    delta = metric.delta()
    assert delta is not None
    assert delta.point == -0.5


def test_fidelity_of_equal_outputs_is_exact() -> None:
    assert scored(Cosine(), (LOGITS, LOGITS)).value == pytest.approx(1)
    found = scored(Sqnr(), (LOGITS, LOGITS))
    assert (found.value, found.note) == (None, "exact")
    assert scored(MaxAbsError(), (LOGITS, LOGITS)).note == "exact"
    assert scored(parse("argmax-agreement"), (LOGITS, LOGITS)).value == 1


def test_sqnr_is_over_all_samples() -> None:
    found = scored(Sqnr(), ([3.0, 4.0], [3.0, 4.0]), ([5.0, 0.0], [5.0, 0.5]))
    assert found.value == pytest.approx(10 * np.log10(50 / 0.25))
    assert found.n == 2
    assert scored(Sqnr(), ([0.0], [1.0])).value is None


def test_the_worst_output_counts() -> None:
    metric = Sqnr()
    metric.update([LOGITS, np.ones(2, F)], [LOGITS, np.array([1, 0], F)], None)
    assert metric.score().value == pytest.approx(10 * np.log10(2))
    cosine = Cosine()
    cosine.update([LOGITS, np.ones(2, F)], [LOGITS, -np.ones(2, F)], None)
    assert cosine.score().value == pytest.approx(-1)


def test_equal_nonfinite_values_are_left_out_and_others_are_reported() -> None:
    before = np.array([1.0, np.nan, -np.inf, 2.0], F)
    same = scored(MaxAbsError(), (before, before))
    assert (same.value, same.nonfinite) == (0, 0)
    after = np.array([1.0, 5.0, np.inf, np.nan], F)
    found = scored(MaxAbsError(), (before, after))
    assert (found.value, found.nonfinite) == (5, 3)
    assert scored(Cosine(), (np.ones(4, F), np.full(4, np.nan, F))).value == 0


def test_masks_of_the_largest_float_do_not_overflow() -> None:
    masks = np.array([-3.4e38, 3.4e38, 1.0], F)
    assert scored(Sqnr(), (masks, masks * F(0.5))).value == pytest.approx(20 * np.log10(2), abs=1e-3)


def test_cosine_of_zeros() -> None:
    assert scored(Cosine(), ([0.0, 0.0], [0.0, 0.0])).value == 1
    assert scored(Cosine(), ([0.0, 0.0], [1.0, 0.0])).value == 0


def test_another_shape_is_a_total_loss_that_is_reported() -> None:
    found = scored(Cosine(), (np.ones((2, 4), F), np.ones((1, 4), F)), (np.ones((2, 4), F), np.ones((2, 4), F)))
    assert found.value == pytest.approx(0.5)
    assert found.note == "1 of 2 samples give outputs of another shape"
    assert scored(parse("argmax-agreement"), (LOGITS, LOGITS[:2])).value == 0


def test_bfloat16_is_a_float() -> None:
    values = np.array([[1, 2]], ml_dtypes.bfloat16)
    assert scored(Cosine(), (values, values)).value == pytest.approx(1)


def test_argmax_agreement_of_batches_and_of_sequences() -> None:
    batch = scored(parse("argmax-agreement"), (LOGITS, LOGITS[::-1]))
    assert (batch.value, batch.n) == (0.5, 4)
    assert batch.low is not None
    sequence = scored(parse("argmax-agreement"), (LOGITS[None], LOGITS[None, ::-1]))
    assert (sequence.value, sequence.n) == (0.5, 4)
    assert sequence.low is None  # one recording says nothing of others


def test_agreement_of_tokens_and_strings() -> None:
    assert scored(parse("agreement"), ([1, 2, 3, 4], [1, 2, 0, 4])).value == 0.75
    words = np.array(["a", "b"], object)
    assert scored(parse("agreement"), (words, words)).value == 1
    with pytest.raises(InputError, match="floating-point"):
        scored(parse("agreement"), (LOGITS, LOGITS))
    with pytest.raises(InputError, match="floating-point"):
        scored(Cosine(), ([1], [1]))


def test_names_parse_to_fresh_metrics() -> None:
    for name in names():
        assert parse(name).name == name
        assert parse(name) is not parse(name)
    with pytest.raises(InputError) as caught:
        parse("top-1")
    assert caught.value.hint == "did you mean 'top1'?"


@pytest.mark.parametrize(
    ("label", "task"),
    [(np.array([1, 0, 2, 1]), "top1"), (np.array([1, 0, 2, 9]), None), (np.array([0.5] * 4), None), (None, None)],
)
def test_the_choice_follows_the_labels(label: np.ndarray | None, task: str | None) -> None:
    choice = choose(Asked(), [LOGITS])
    assert choice.inferred
    found = None if label is None else task_for([LOGITS], [LOGITS], label)
    assert (None if found is None else found.name) == task
    assert [metric.name for metric in choice.fidelity] == ["cosine", "sqnr", "max-abs-error"]


def test_the_choice_of_the_user_counts() -> None:
    assert [metric.name for metric in choose(parse_all(["top5"]), [LOGITS]).tasks] == ["top5"]
    choice = choose(parse_all(["sqnr"]), [LOGITS])
    assert (choice.tasks, choice.inferred) == ((), False)
    assert [metric.name for metric in choice.fidelity] == ["sqnr"]
    assert [metric.name for metric in choose(Asked(), [np.array([1])]).fidelity] == ["agreement"]


def test_several_metrics_and_some_of_one_output() -> None:
    asked = parse_all(["top1", "sqnr", "boxes=cosine", "a=b=ignore"])
    assert [metric.name for metric in (*asked.tasks, *asked.fidelity)] == ["top1", "sqnr"]
    assert asked.outputs == {"boxes": "cosine", "a=b": "ignore"}
    with pytest.raises(InputError, match="unknown metric 'cosin' for output 'y'"):
        parse_all(["y=cosin"])


def custom(tmp_path: Path, body: str) -> TaskMetric:
    path = tmp_path / "metric.py"
    path.write_text(f"import numpy as np\n\n\n{body}\n")
    metric = parse(f"{path}:score")
    assert isinstance(metric, TaskMetric)
    return metric


def test_a_custom_metric_is_the_mean_over_items_with_samples_as_units(tmp_path: Path) -> None:
    metric = custom(tmp_path, "def score(outputs, label):\n    return outputs[0] == label\nscore.unit = 'frames'")
    metric.update([np.array([1, 1, 1])], [np.array([1, 1, 0])], np.array([1, 1, 1]))
    metric.update([np.array([1])], [np.array([0])], np.array([1]))
    assert metric.reference_score().value == 1
    assert (metric.score().value, metric.score().n, metric.score().unit) == (0.5, 4, "frames")
    delta = metric.delta()
    assert delta is not None
    assert delta.point == -0.5
    assert metric.score().higher_is_better


def test_a_custom_metric_may_be_an_error_and_a_single_number(tmp_path: Path) -> None:
    metric = custom(
        tmp_path, "def score(outputs, label):\n    return np.abs(outputs[0]).mean()\nscore.higher_is_better = False"
    )
    found = scored(metric, (LOGITS, LOGITS))
    assert not found.higher_is_better
    assert found.n == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def score(outputs, label):\n    return outputs[7]", "metric.py, line 5: IndexError"),
        ("def score(outputs):\n    return 1.0", "TypeError"),
        ("def score(outputs, label):\n    return float('nan')", "NaN"),
        ("def score(outputs, label):\n    return outputs[0]", "shape"),
        ("def score(outputs, label):\n    return 'good'", "ValueError"),
    ],
)
def test_errors_of_a_custom_metric_are_located(tmp_path: Path, body: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(custom(tmp_path, body), (LOGITS, LOGITS))


def test_a_custom_metric_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        parse(f"{tmp_path / 'none.py'}:score")
    with pytest.raises(InputError, match="no function 'score'"):
        custom(tmp_path, "def scores(outputs, label):\n    return 1")


def test_a_metric_that_saw_no_item(tmp_path: Path) -> None:
    metric = custom(tmp_path, "def score(outputs, label):\n    return []")
    found = scored(metric, (LOGITS, LOGITS))
    assert (found.value, found.n, found.note) == (None, 0, "no output element was compared")
    assert metric.delta() is None
