"""Each measure of one output: what it counts, and what it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from modelopt.measure.classification_agreement import ClassAgreement, SequenceAgreement, ThresholdAgreement
from modelopt.measure.metric import Measure, aligned
from modelopt.measure.ranking_agreement import NeighborAgreement, RankAgreement, SimilarityAgreement
from modelopt.measure.relative_error import RelativeError, SampleAgreement

F = np.float32


def lost(measure: Measure, *pairs: tuple[np.ndarray, np.ndarray]) -> float | None:
    for a, b in pairs:
        pair = aligned(a, b)
        if pair is not None:
            measure.update(*pair)
    found = measure.score()
    if found.value is None:
        return None
    return 1 - found.value if found.higher_is_better else found.value


def test_a_background_does_not_hide_the_rest() -> None:
    scores = np.zeros((1, 3, 10, 10), F)
    scores[:, 0] = 1
    scores[:, 1, :2, :5] = 2  # ten places of class 1 in a background of ninety
    changed = scores.copy()
    changed[:, 1, 0, :5] = 0
    assert lost(ClassAgreement(-3), (scores, changed)) == pytest.approx(0.5)
    assert lost(ClassAgreement(-3), (scores, scores)) == 0
    empty = np.zeros_like(scores)
    assert lost(ClassAgreement(-3), (empty, empty)) == 0


def test_one_class_among_many_rows_may_be_frequent() -> None:
    rows = np.eye(3, dtype=F)[[0] * 9 + [1]]
    other = np.eye(3, dtype=F)[[0] * 10]
    pairs = [(a[None], b[None]) for a, b in zip(rows, other, strict=True)]
    assert lost(ClassAgreement(), *pairs) == pytest.approx(0.1)


def spoken(*steps: int) -> np.ndarray:
    return np.eye(4, dtype=F)[list(steps)][None]


def test_symbols_between_blanks_are_read_without_repeats() -> None:
    said = spoken(0, 1, 1, 0, 2, 0, 2)
    assert lost(SequenceAgreement(blank=0), (said, spoken(1, 0, 0, 0, 2, 0, 2))) == 0
    assert lost(SequenceAgreement(blank=0), (said, spoken(0, 1, 1, 0, 2, 2, 2))) == 1
    assert lost(SequenceAgreement(), (said, spoken(1, 0, 0, 0, 2, 0, 2))) == 1


def test_a_long_sequence_is_compared_symbol_by_symbol() -> None:
    a = np.random.default_rng(0).normal(size=(1, 100, 5)).astype(F)
    b = a.copy()
    b[0, 0] *= -1
    assert lost(SequenceAgreement(), (a, b)) == pytest.approx(0.01)


def test_yes_and_no() -> None:
    a, b = np.array([[0.9, 0.8, 0.1, 0.1]], F), np.array([[0.9, 0.4, 0.1, 0.1]], F)
    assert lost(ThresholdAgreement(), (a, b)) == pytest.approx(0.5)
    assert lost(ThresholdAgreement(all_count=True), (a, b)) == pytest.approx(0.25)
    assert lost(ThresholdAgreement(0.95), (a, b)) == 0


def test_the_order_of_rows() -> None:
    a = np.arange(10, dtype=F)[:, None]
    assert lost(RankAgreement(), (a, a * 2 + 1)) == 0
    assert lost(RankAgreement(), (a, -a)) == 1
    assert lost(RankAgreement(), (a, np.zeros_like(a))) == 1  # no order is not the same order
    assert lost(RankAgreement(), (a[:2], a[:2])) is None


def test_nearest_neighbors() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 16)).astype(F)
    pairs = [(row[None], row[None] * 3) for row in rows]
    assert lost(NeighborAgreement(), *pairs) == 0
    pairs[0] = (pairs[0][0], -pairs[0][0])
    assert (lost(NeighborAgreement(), *pairs) or 0) >= 0.02


def test_similarities_tell_what_few_neighbors_do_not() -> None:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(20, 24))
    rows = np.concatenate([centers, centers + 0.1 * rng.normal(size=centers.shape)]).astype(F)
    noisy = (rows + 0.3 * rng.normal(size=rows.shape)).astype(F)
    pairs = [(row[None], other[None]) for row, other in zip(rows, noisy, strict=True)]
    assert lost(NeighborAgreement(), *pairs) == pytest.approx(0, abs=1e-3)
    assert (lost(SimilarityAgreement(), *pairs) or 0) > 0.02
    same = [(row[None], 3 * row[None]) for row in rows]
    assert lost(SimilarityAgreement(), *same) == 0
    assert lost(SimilarityAgreement(), *same[:3]) is None


@pytest.mark.parametrize(("noise", "keeps"), [(0.01, True), (0.1, False)])
def test_how_far_embeddings_may_be_off(noise: float, keeps: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 64)).astype(F)
    noisy = (rows + noise * rng.normal(size=rows.shape)).astype(F)
    pairs = [(row[None], other[None]) for row, other in zip(rows, noisy, strict=True)]
    assert ((lost(SimilarityAgreement(), *pairs) or 0) <= 0.01) is keeps


def test_a_neighbor_that_was_as_near_is_no_loss() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 16)).astype(F)
    rows[1], rows[2] = rows[0] + F(0.01) * rows[3], rows[0] + F(0.011) * rows[4]
    swapped = rows.copy()
    swapped[1], swapped[2] = rows[2], rows[1]
    pairs = [(row[None], other[None]) for row, other in zip(rows, swapped, strict=True)]
    assert (lost(NeighborAgreement(), *pairs) or 0) < 0.01


def test_large_numbers_do_not_hide_small_ones() -> None:
    rng = np.random.default_rng(0)
    a = (rng.normal(size=(64, 3)) * [1, 1, 1000]).astype(F)
    b = a.copy()
    b[:, 0] *= 0.5
    assert lost(RelativeError(), (a, b)) == pytest.approx(0, abs=1e-3)
    assert lost(RelativeError(-1), (a, b)) == pytest.approx(0.36, abs=0.05)


def test_a_sample_that_is_wrong_altogether_shows_beside_an_offset() -> None:
    rng = np.random.default_rng(0)
    rows = (1000 + rng.normal(size=(100, 1, 24))).astype(F)
    pairs = [(row, row) for row in rows]
    pairs[0], pairs[1] = (rows[0], rows[50]), (rows[1], rows[51])
    assert (lost(RelativeError(), *pairs) or 0) < 0.001
    assert lost(SampleAgreement(), *pairs) == pytest.approx(0.02)


def test_what_has_another_shape_or_is_not_finite_differs() -> None:
    a = np.ones((1, 4), F)
    assert lost(RelativeError(), (a, np.ones((1, 3), F))) == 1
    assert lost(RelativeError(), (a, a * np.nan)) == 1
    assert lost(RelativeError(), (a * np.inf, a * np.inf)) is None
    assert lost(RelativeError(), (a * 0, a)) == np.inf
