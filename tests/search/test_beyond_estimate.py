"""Int8 against the estimate: it is tried where the nodes that the cost model left in float take much of the time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import pytest

from modelopt.engine.request import Request
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.recipe.recipe import BenchSpec, DataSpec, Recipe
from modelopt.report import Outcome
from modelopt.search.candidates import Candidate
from modelopt.search.quantization_search import keep_contract
from modelopt.search.search_result import SearchResult
from modelopt.search.utility import Comparison, Preference
from tests.command_line import MLP, sample

VIT = sample("digits_vit")


def searched(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, share: float, slower: Sequence[str] | None
) -> SearchResult:
    """The search with a profiler that says this of the nodes left in float, and of the model with int8 everywhere."""

    def share_of_time(_self: Preference, _model: Candidate, names: Collection[str]) -> float:
        return share if names else 0.0

    def slower_in_integers(_self: Preference, _base: Candidate, made: Candidate) -> Sequence[str] | None:
        everywhere = any(isinstance(step, QuantizeStatic) and step.everywhere for step in made.steps)
        return slower if everywhere else ()

    monkeypatch.setattr(Preference, "compare", lambda *_models: Comparison(Outcome.KEPT, "it is said to be better"))
    monkeypatch.setattr(Preference, "share_of_time", share_of_time)
    monkeypatch.setattr(Preference, "slower_in_integers", slower_in_integers)
    samples = DataSpec(data=str(model.with_name("calib.npz")), limit=8)
    recipe = Recipe(steps=(QuantizeStatic(),), calibration=samples, bench=BenchSpec(), target="x86-vnni")
    return keep_contract(Request(recipe=recipe, model=model, output=tmp_path / "x.onnx"))


def test_it_is_tried_where_the_nodes_left_in_float_take_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = searched(VIT, tmp_path, monkeypatch, share=0.5, slower=())
    assert found.recipes[0].steps[-1] == QuantizeStatic(everywhere=True)
    assert [trial.kept for trial in found.trials] == [False, True]


def test_what_the_profiler_says_is_slower_stays_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everywhere = searched(VIT, tmp_path, monkeypatch, share=0.5, slower=()).trials[-1]
    found = searched(VIT, tmp_path, monkeypatch, share=0.5, slower=(_first_product(),))
    step = found.recipes[0].steps[-1]
    assert isinstance(step, QuantizeStatic)
    assert step.everywhere
    assert len(step.exclude) == 1
    passed_over, kept = found.trials[-2:]
    assert passed_over.reason == "by the profiler 1 node of it is slower in integers"
    assert kept.group.endswith("1 node that did not pay in float")
    assert kept.kept
    assert kept.rewrites < everywhere.rewrites


@pytest.mark.parametrize(("share", "slower", "tried"), [(0.01, (), False), (0.5, None, True)])
def test_it_is_left_where_it_cannot_pay(
    share: float, slower: Sequence[str] | None, tried: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = searched(VIT, tmp_path, monkeypatch, share=share, slower=slower)
    assert found.recipes[0].steps[-1] == QuantizeStatic()
    assert [trial.outcome for trial in found.trials[1:]] == ([Outcome.SLOWER] if tried else [])


def test_it_is_tried_where_the_estimate_left_everything_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = searched(MLP, tmp_path, monkeypatch, share=0.9, slower=())
    assert [trial.outcome for trial in found.trials] == [Outcome.NOTHING_TO_DO, Outcome.KEPT]


def _first_product() -> str:
    import onnx

    return next(node.name for node in onnx.load(VIT).graph.node if node.op_type in {"MatMul", "Gemm"})
