"""The search for widths on a small model: with work as the cost, and with a clock that is made up."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import modelopt
from modelopt import graph
from modelopt.commands.prune import PruneOptions
from modelopt.core.errors import InputError, Refused
from modelopt.engine.request import Request
from modelopt.passes.prune_channels import PruneChannels
from modelopt.pruning import activation_importance, compensate
from modelopt.pruning.compensate import Repaired
from modelopt.pruning.measured_layers import MeasuredLayer
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import Search
from modelopt.report import Outcome, Report
from modelopt.report.summary import report_sections
from modelopt.search.accuracy import Judgement
from modelopt.search.candidates import Candidate
from modelopt.search.prunable import Prunable
from modelopt.search.pruning_models import PrunedModels
from modelopt.search.pruning_search import choose_widths
from modelopt.search.search_result import SearchResult
from modelopt.search.time_budget import TimeBudget, time_left
from tests.command_line import CALIB, EVAL, MLP

DATA: dict[str, Any] = {
    "calib": CALIB,
    "calib_limit": 16,
    "eval": EVAL,
    "eval_limit": 200,
    "importance": "l2",
    "repair": False,
    "bench": False,
    "verify": False,
}


def _widths(report: Report) -> dict[str, tuple[int, int]]:
    assert report.pruning is not None
    return {group.group: (group.before, group.after) for group in report.pruning.widths}


def test_as_many_channels_go_as_the_contract_permits() -> None:
    report = modelopt.prune(MLP, pattern="channel", max_drop=0.02, **DATA).report
    found = report.pruning
    assert found is not None
    assert found.steps[0].removed == 0
    (kept,) = [step for step in found.steps if step.kept]
    assert kept.removed > 0
    assert kept.drop is not None
    assert kept.drop <= 0.02
    assert kept.checked is not None
    assert kept.checked <= 0.02
    assert any(trial.outcome is Outcome.INACCURATE for trial in report.trials)  # one more would be too many
    assert sum(before - after for before, after in _widths(report).values()) > 0
    assert report.output.size_bytes < report.input.size_bytes
    assert not any(gate.stops for gate in report.gates)
    titles = [section.title for section in report_sections(report, explain=True)]
    assert {"pruned models that were tried", "widths", "channels that must stay"} <= {*titles}


def test_a_target_alone_needs_no_data() -> None:
    result = modelopt.prune(MLP, pattern="channel", target_macs=0.5, bench=False, verify=False)
    found = result.report.pruning
    assert found is not None
    (kept,) = [step for step in found.steps if step.kept]
    assert kept.macs is not None
    assert 0.35 <= kept.macs <= 0.5
    assert kept.drop is None
    assert any("contract was not checked" in note for note in result.report.notes)
    again = modelopt.prune(MLP, pattern="channel", target_macs=0.5, bench=False, verify=False)
    assert again.report.recipe == result.report.recipe


def test_a_size_is_a_target_too() -> None:
    report = modelopt.prune(MLP, pattern="channel", max_size=0.6, bench=False, verify=False).report
    assert report.output.size_bytes <= 0.6 * report.input.size_bytes


def test_a_target_beyond_the_contract_is_missed_and_said() -> None:
    report = modelopt.prune(MLP, pattern="channel", target_macs=0.02, max_drop=0.0, **DATA).report
    assert report.pruning is not None
    assert report.pruning.missed == ("--target-macs 2% is not met",)
    assert "--target-macs 2% is not met" in report.notes


def test_a_quantized_model_is_refused_with_the_order_to_use(tmp_path: Path) -> None:
    quantized = tmp_path / "int8.onnx"
    modelopt.quantize(MLP, calib=CALIB, search=False, everywhere=True, bench=False, verify=False, output=quantized)
    with pytest.raises(Refused, match="quantized") as caught:
        modelopt.prune(quantized, pattern="channel", sparsity=0.5, bench=False, verify=False)
    assert caught.value.hint == "prune the float model first, then quantize the result"


@pytest.mark.parametrize("found_late", [False, True], ids=["by the choice", "by the check"])
def test_a_repair_that_costs_accuracy_is_left_out(monkeypatch: pytest.MonkeyPatch, *, found_late: bool) -> None:
    def harmful(_original: object, pruned: Any, *_: object) -> Repaired:
        for name, value in pruned.graph.initializers.items():
            if name.endswith("bias"):
                graph.set_constant(value, np.arange(value.shape[0], dtype=np.float32) * 100)
        return Repaired(1, ())

    monkeypatch.setattr(compensate, "repair", harmful)
    if found_late:
        monkeypatch.setattr(PrunedModels, "judge", _repaired_looks_good)
    asked = DATA | {"repair": True}
    report = modelopt.prune(MLP, pattern="channel", max_drop=0.02, **asked).report
    (step,) = [each for each in report.passes if each.name == "prune-channels"]
    assert step.rewrites > 0
    assert "repair=True" not in step.step
    assert any("are not repaired" in note for note in report.notes)
    assert not any(gate.stops for gate in report.gates)


def _repaired_looks_good(models: PrunedModels, place: int) -> None:
    models.drops.setdefault(place, 0.0)
    models._judged.setdefault(place, Judgement(0.0))
    models._model(place)


# A clock that is made up


def _fast(monkeypatch: pytest.MonkeyPatch, folder: Path, cost: Mapping[str, float]) -> list[int]:
    """Kernels take what `cost` says with all channels, and channels are taken 16 by 16."""
    timed: list[int] = []

    def clock(_self: Prunable, layers: Sequence[MeasuredLayer]) -> list[float]:
        return [100.0 * -(-layer.weight[0] // 16) * -(-layer.weight[1] // 16) for layer in layers]

    def costs(_self: Prunable, _candidate: Candidate) -> dict[str, float]:
        return dict(cost)

    def ratio(self: PrunedModels, place: int) -> float:
        timed.append(place)
        return self.path[0].cost / self.path[place].cost * 0.9  # a little less than the table says

    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(Prunable, "_time", clock)
    monkeypatch.setattr(Prunable, "_costs", costs)
    monkeypatch.setattr(PrunedModels, "times_as_fast", ratio)
    return timed


def _chosen(**options: Any) -> SearchResult:
    recipe = PruneOptions(MLP, pattern="channel", verify=False, **options).recipe_to_run()
    assert recipe.search is Search.PRUNE
    assert parse(dump(recipe)) == recipe
    recipe = dataclasses.replace(recipe, search=None)
    return choose_widths(Request(recipe=recipe, model=MLP, output=MLP.with_suffix(".none")))


def test_widths_are_multiples_that_were_measured_and_reach_the_speed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    timed = _fast(monkeypatch, tmp_path, {"/0/Gemm": 600.0, "/2/Gemm": 800.0, "/4/Gemm": 100.0})
    result = _chosen(target_speedup=1.5)
    found = result.pruning
    assert found is not None
    assert (found.align, found.align_measured) == (16, True)
    assert all(group.after % 16 == 0 for group in found.widths)
    (kept,) = [step for step in found.steps if step.kept]
    assert kept.removed > 0
    assert len(timed) > 1  # the first place was a little too slow, as it was timed
    assert timed == sorted(timed)
    assert not found.missed
    assert len(result.recipes[0].steps) > 1
    assert result.recipes[-1].steps == ()  # the input, where the pruned model gains nothing
    assert all(recipe.gates.must_gain for recipe in result.recipes)
    assert (tmp_path / "modelopt" / "layers.json").exists()


@pytest.mark.parametrize("asked", [{"sparsity": 0.4}, {}])
def test_a_share_of_each_group_at_the_multiple_that_was_measured(
    asked: dict[str, float], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _fast(monkeypatch, tmp_path, {"/0/Gemm": 600.0, "/2/Gemm": 800.0, "/4/Gemm": 100.0})
    result = _chosen(align="auto", **asked)
    (recipe,) = result.recipes
    (step,) = [each for each in recipe.steps if isinstance(each, PruneChannels)]
    assert (step.align, step.sparsity) == (16, asked.get("sparsity", 0.5))
    assert result.notes == ("numbers of channels are kept at multiples of 16, as measured on this machine",)


def test_a_recipe_with_a_share_and_a_target_is_refused() -> None:
    text = "version: 1\nsteps: [prune-channels]\nsearch: prune\ntargets: {sparsity: 0.5, macs: 0.5}\n"
    with pytest.raises(InputError) as caught:
        parse(text)
    assert "sparsity excludes speedup and macs" in f"{caught.value.fact} {caught.value.note}"


def test_layers_that_take_no_time_keep_their_channels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _fast(monkeypatch, tmp_path, {"/0/Gemm": 900.0})
    found = _chosen(target_speedup=1.3, align=8).pruning
    assert found is not None
    assert (found.align, found.align_measured) == (8, False)
    assert {group.group: group.after < group.before for group in found.widths} == {"/0/Gemm": True, "/2/Gemm": False}


def test_a_model_that_cannot_be_made_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Prunable.build

    def refusing(self: Prunable, widths: Mapping[str, int]) -> Candidate:
        if widths["/0/Gemm"] < 100:
            raise Refused("onnxruntime does not take it")
        return build(self, widths)

    monkeypatch.setattr(Prunable, "build", refusing)
    report = modelopt.prune(MLP, pattern="channel", max_drop=0.5, **DATA).report
    assert report.pruning is not None
    assert _widths(report)["/0/Gemm"][1] >= 100
    assert any(trial.outcome is Outcome.FAILED for trial in report.trials)


# Time


def _in_time(seconds: float, step: float, **options: Any) -> SearchResult:
    """What a search finds while each look at the clock moves it on by `step` seconds."""
    recipe = PruneOptions(MLP, pattern="channel", max_drop=0.02, **{**DATA, **options}).recipe_to_run()
    ticks = itertools.count(0.0, step)
    request = Request(recipe=dataclasses.replace(recipe, search=None), model=MLP, output=MLP.with_suffix(".none"))
    return choose_widths(request, TimeBudget(seconds, lambda: next(ticks)))


def test_a_search_without_time_measures_what_saves_most_and_keeps_the_best_so_far() -> None:
    long, short = _in_time(1e9, 0.0), _in_time(1.0, 1.0)
    assert long.pruning is not None
    assert short.pruning is not None
    measured = [
        [group.group for group in found.widths if group.error_at is not None] for found in (long.pruning, short.pruning)
    ]
    assert measured == [["/0/Gemm", "/2/Gemm"], ["/0/Gemm"]]
    assert {group.group: group.after == group.before for group in short.pruning.widths} == {
        "/0/Gemm": False,
        "/2/Gemm": True,
    }
    assert len(short.trials) == 2 < len(long.trials)
    assert any("1 of 2 groups were not measured and keep all channels" in note for note in short.notes)
    assert any("the search ended after 2 models" in note for note in short.notes)
    assert not any("the search" in note for note in long.notes)


def test_each_group_is_ranked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ranked: list[str] = []
    measured = activation_importance._measured

    def counting(name: str, model: Any, groups: Sequence[Any], ctx: Any) -> Any:
        ranked.extend(group.name for group in groups)
        return measured(name, model, groups, ctx)

    monkeypatch.setattr(activation_importance, "_measured", counting)
    result = _in_time(1e9, 0.0, importance="second-order", repair=True)
    assert len(result.trials) > 1
    assert sorted(ranked) == ["/0/Gemm", "/2/Gemm"]


def test_progress_says_how_long_it_takes() -> None:
    assert time_left(10.0, 2, 6, 100.0) == ", about 20 s left"
    assert time_left(10.0, 2, 6, 5.0) == ", about 5 s left"
    assert time_left(0.0, 0, 6, 5.0) == ""
