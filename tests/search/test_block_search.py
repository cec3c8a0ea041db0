"""The search over residual blocks: with a contract, with targets, and with a clock that is made up."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

import modelopt
from modelopt.commands.prune import PruneOptions
from modelopt.core.errors import InputError
from modelopt.engine.request import Request
from modelopt.passes.prune_layers import PruneLayers
from modelopt.report import Outcome, PruningFound, Report
from modelopt.report.summary import report_sections
from modelopt.search.candidates import Candidates
from modelopt.search.pruning_models import PrunedModels
from modelopt.search.pruning_search import choose_widths
from tests.command_line import CNN, CNN_EVAL, MLP, sample

DATA: dict[str, Any] = {"eval": CNN_EVAL, "eval_limit": 120}
QUIET: dict[str, Any] = {"bench": False, "verify": False}


def _found(report: Report) -> PruningFound:
    assert report.pruning is not None
    assert report.pruning.unit == "block"
    assert {(group.kind, group.before) for group in report.pruning.widths} == {("block", 1)}
    return report.pruning


def _left(found: PruningFound) -> dict[str, int]:
    return {group.group: group.after for group in found.widths}


def test_blocks_go_least_important_first_as_far_as_the_contract_permits() -> None:
    report = modelopt.prune(CNN, pattern="layer", max_drop=0.04, importance="l2", repair=False, **DATA, **QUIET).report
    found = _found(report)
    (kept,) = [step for step in found.steps if step.kept]
    assert kept.removed == pytest.approx(1 / 3)
    assert kept.drop is not None
    assert kept.drop <= 0.04
    assert any(trial.outcome is Outcome.INACCURATE for trial in report.trials)  # two would be too many
    scores = {group.group: group.importance or 0.0 for group in found.widths}
    assert [name for name, left in _left(found).items() if not left] == [min(scores, key=lambda name: scores[name])]
    assert report.output.size_bytes < report.input.size_bytes
    sections = {section.title: section for section in report_sections(report, explain=True)}
    assert (sections["pruned models that were tried"].header or ("",))[0] == "blocks removed"
    assert [row[2:] for row in sections["blocks"].rows] == [("1", str(left)) for left in _left(found).values()]


def test_a_target_alone_needs_no_data() -> None:
    report = modelopt.prune(sample("glyph_mobile"), pattern="layer", target_macs=0.8, **QUIET).report
    found = _found(report)
    (kept,) = [step for step in found.steps if step.kept]
    before = [step for step in found.steps if step.removed < kept.removed]
    assert kept.macs is not None
    assert kept.macs <= 0.8
    assert all((step.macs or 1) > 0.8 for step in before)
    assert not found.missed


def test_a_target_that_no_number_of_blocks_reaches_is_missed_and_said() -> None:
    report = modelopt.prune(CNN, pattern="layer", target_macs=0.001, **QUIET).report
    assert _found(report).missed == ("--target-macs 0% is not met",)
    assert set(_left(_found(report)).values()) == {0}


def test_a_model_without_blocks_is_an_error_in_a_search_too() -> None:
    with pytest.raises(InputError) as caught:
        modelopt.prune(MLP, pattern="layer", target_macs=0.5, **QUIET)
    assert caught.value.fact == "the model has no residual block to remove"


def test_blocks_that_take_no_time_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is made up: one block takes all time, and removing it makes the model as fast as asked."""

    def ratio(self: PrunedModels, place: int) -> float:
        return self.path[0].cost / self.path[place].cost

    taken = {"/7/pointwise/Conv": 900.0, "another": 100.0}
    monkeypatch.setattr(Candidates, "kernel_ns", lambda *_: taken)
    monkeypatch.setattr(PrunedModels, "times_as_fast", ratio)
    recipe = PruneOptions(CNN, pattern="layer", target_speedup=2.0, verify=False).recipe_to_run()
    recipe = dataclasses.replace(recipe, search=None)
    result = choose_widths(Request(recipe=recipe, model=CNN, output=CNN.with_suffix(".none")))
    assert result.pruning is not None
    assert [name for name, left in _left(result.pruning).items() if not left] == ["/7/Add"]
    assert not result.pruning.missed
    (step,) = [step for step in result.recipes[0].steps if isinstance(step, PruneLayers)]
    assert step.blocks == ("/7/Add",)
    assert result.recipes[-1].steps == ()  # the input, where the pruned model gains nothing
