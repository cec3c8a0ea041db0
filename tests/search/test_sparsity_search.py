"""`prune --max-drop` without a sparsity finds the most zeros that keep the contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.commands.prune import PruneOptions
from modelopt.core.errors import InputError
from modelopt.engine.request import Request
from modelopt.passes.prune_magnitude import PruneMagnitude
from modelopt.recipe.recipe import EvaluateSpec, Gates, Recipe, Search
from modelopt.report import Outcome
from modelopt.search.search_result import SearchResult
from modelopt.search.sparsity_search import bisected, largest_sparsity
from tests.command_line import MLP


@given(st.integers(0, 19))
def test_bisection_finds_the_last_level_that_keeps_the_contract(last: int) -> None:
    tried: list[int] = []

    def keeps(level: int) -> bool:
        tried.append(level)
        return level <= last

    assert bisected(20, keeps) == last
    assert len(tried) <= 5
    assert all(0 < level < 20 for level in tried)


def searched(tmp_path: Path, max_drop: float) -> SearchResult:
    data = EvaluateSpec(data=str(MLP.with_name("eval.npz")), limit=200)
    recipe = Recipe(steps=(PruneMagnitude(),), evaluate=data, gates=Gates(max_drop=max_drop), verify=False)
    return largest_sparsity(Request(recipe=recipe, model=MLP, output=tmp_path / "x.onnx"))


def test_the_most_zeros_that_keep_the_contract_are_kept(tmp_path: Path) -> None:
    found = searched(tmp_path, 0.045)
    (recipe,) = found.recipes
    (step,) = recipe.steps
    assert isinstance(step, PruneMagnitude)
    (kept,) = [trial for trial in found.trials if trial.kept]
    assert kept.group == str(step)
    assert kept.outcome is Outcome.KEPT
    assert kept.drop is not None
    assert kept.drop <= 0.045
    assert 0.5 < step.sparsity < 0.95
    failed = [trial for trial in found.trials if trial.outcome is Outcome.INACCURATE]
    assert all(trial.drop is not None and trial.drop > 0.045 for trial in failed)
    assert len(found.trials) <= 5


def test_the_input_stays_where_no_sparsity_keeps_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelopt.search.attempts.keeps", lambda _drop, _limit: False)
    monkeypatch.setattr("modelopt.search.sparsity_search._LEVELS", 4)
    found = searched(tmp_path, 0.0)
    assert found.recipes[0].steps == ()
    assert not any(trial.kept for trial in found.trials)


@pytest.mark.parametrize(
    ("options", "searches"),
    [
        ({"max_drop": 0.01, "eval": "labelled.npz"}, True),
        ({"max_drop": 0.01, "calib": "calib.npz", "importance": "second-order", "update": True}, True),
        ({"max_drop": 0.01, "eval": "labelled.npz", "sparsity": 0.3}, False),
        ({"max_drop": 0.01, "eval": "labelled.npz", "pattern": "2:4"}, False),
        ({"max_drop": 0.01}, False),
        ({"eval": "labelled.npz"}, False),
    ],
)
def test_a_contract_without_a_sparsity_asks_for_the_search(options: dict[str, Any], searches: bool) -> None:
    recipe = PruneOptions("model.onnx", **options).plan().recipe
    assert recipe.search is (Search.PRUNE if searches else None)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"importance": "wanda"}, "--importance wanda needs calibration data"),
        ({"update": True}, "--update needs calibration data"),
        ({"calib_limit": 3}, "--calib-limit needs --calib"),
        ({"calib": "c.npz", "eval": "e.npz"}, "--calib has no use here"),
        ({"importance": "l1"}, "--importance l1 is not for --pattern unstructured"),
        ({"pattern": "channel", "importance": "magnitude"}, "--importance magnitude is not for --pattern channel"),
        ({"pattern": "channel", "update": True}, "--update is not for --pattern channel"),
    ],
)
def test_options_that_would_do_nothing_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PruneOptions("model.onnx", **options).plan()


def test_options_reach_the_pass_and_the_recipe() -> None:
    options = PruneOptions("model.onnx", calib="c.npz", importance="second-order", update=True, sparsity=0.6)
    recipe = options.plan().recipe
    assert str(recipe.steps[0]) == "prune-magnitude(sparsity=0.6, importance=second-order, update=True)"
    assert recipe.calibration is not None
    assert recipe.calibration.data == "c.npz"
