"""A result of `fuse` that is not shown to be as fast as the input gives way to the input."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import onnx
import pytest

from modelopt.commands import first_gain
from modelopt.engine import judging, measurements
from modelopt.engine import optimize as engine
from modelopt.engine.findings import Findings
from modelopt.measure.speed import Ratio, Verdict
from modelopt.passes.fuse_conv_bn import FuseConvBn
from modelopt.passes.upgrade_opset import UpgradeOpset
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import BenchSpec, Gates, Recipe
from modelopt.report import GateOutcome, GateResult, Report, Trial
from modelopt.search.search_result import SearchResult
from tests.command_line import CNN, modelopt
from tests.report_tools import report, result

SLOWER = Ratio(point=0.9, low=0.88, high=0.93, verdict=Verdict.SLOWER, processes=8)


def _latency(ratio: Ratio) -> object:
    class Timed:
        def __init__(self) -> None:
            self.ratio = ratio

    return Timed()


@pytest.mark.parametrize(
    ("point", "low", "outcome"),
    [
        (1.2, 1.15, GateOutcome.PASSED),
        (1.0, 0.98, GateOutcome.PASSED),
        (1.0, 0.97, GateOutcome.FAILED),  # it may be slower, and nothing says that it is not
        (1.1, 0.8, GateOutcome.FAILED),
        (0.9, 0.88, GateOutcome.FAILED),
    ],
)
def test_what_is_not_shown_to_be_as_fast_breaks_it(point: float, low: float, outcome: GateOutcome) -> None:
    ratio = Ratio(point=point, low=low, high=point**2 / low, verdict=Verdict.UNDECIDED, processes=8)
    findings = Findings(unchanged=False, latency=_latency(ratio))  # type: ignore[arg-type]
    (found,) = judging.judge(Gates(not_slower=True), 100, 100, findings)
    assert (found.gate, found.outcome) == ("not-slower", outcome)
    assert found.stops == (outcome is GateOutcome.FAILED)
    assert judging.judge(Gates(), 100, 100, findings) == ()
    assert judging.judge(Gates(not_slower=True), 100, 100, Findings(unchanged=True)) == ()


def test_without_a_measurement_it_is_not_judged() -> None:
    (found,) = judging.judge(Gates(not_slower=True), 100, 100, Findings(unchanged=False))
    assert (found.found, found.outcome) == ("not measured", GateOutcome.NOT_JUDGED)


@pytest.mark.parametrize("steps", [(FuseConvBn(),), (UpgradeOpset(version=17), FuseConvBn())])
def test_the_input_takes_its_place(
    steps: tuple[FuseConvBn | UpgradeOpset, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Recipe] = []
    whole = GateResult(gate="not-slower", limit="", found="slower: 0.900×", outcome=GateOutcome.FAILED, stops=True)

    def run(request: engine.Request) -> Report:
        seen.append(request.recipe)
        fused = result("fuse-conv-bn", "exact", 3)
        if len(seen) == 1:
            return request.finish(report(fused, written=False, gates=(whole,)))
        return request.finish(report(*(result(str(step), "exact", 1) for step in request.recipe.steps)))

    monkeypatch.setattr(first_gain, "run", run)
    recipe = Recipe(steps=steps, bench=BenchSpec(), gates=Gates(not_slower=True, max_size_ratio=2))
    kept: list[Report] = []

    def finish(report: Report) -> Report:
        kept.append(report)
        return report

    request = engine.Request(recipe=recipe, model=tmp_path / "m.onnx", output=tmp_path / "x.onnx", finish=finish)
    found = first_gain.run_first_that_gains(request, SearchResult((recipe,)))
    assert kept == [found]  # once, and as it is returned
    assert seen == [recipe, Recipe(steps=steps[:-1], bench=BenchSpec(), gates=Gates(max_size_ratio=2))]
    left = "a copy of the input" if len(steps) == 1 else "the model with its opset converted"
    assert found.verdict == f"Not kept: the result was slower than the input; the output is {left}."
    (trial,) = found.trials
    assert isinstance(trial, Trial)
    assert (trial.group, trial.rewrites, trial.kept, trial.reason) == ("all passes", 3, False, "slower than the input")


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a measurement that says so, a copy is written, in one line, and that is no failure."""
    time_both = measurements.time_both

    def slower(*given: object, **named: object) -> object:
        return msgspec.structs.replace(time_both(*given, **named), ratio=SLOWER)  # type: ignore[arg-type]

    monkeypatch.setattr(measurements, "time_both", slower)
    recipe = Recipe(
        steps=(FuseConvBn(),),
        bench=BenchSpec(budget_seconds=0.2, warmup_seconds=0, processes=1, rounds=2),
        gates=Gates(not_slower=True),
    )
    output = tmp_path / "x.onnx"
    request = engine.Request(recipe=recipe, model=CNN, output=output)
    assert not engine.run(request).written
    assert not output.exists()
    found = first_gain.run_first_that_gains(request, SearchResult((recipe,)))
    assert (
        found.verdict
        == "Not kept: the result was slower than the input (0.90×, 0.88–0.93); the output is a copy of the input."
    )
    assert output.read_bytes() == CNN.read_bytes()


def test_it_is_part_of_the_recipe(tmp_path: Path) -> None:
    shown = modelopt("fuse", CNN, "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert "not-slower: true" in shown
    assert parse(shown).gates == Gates(not_slower=True)
    assert dump(parse(shown)) == shown
    for flag in ("--no-bench", "--keep"):
        assert "not-slower" not in modelopt("fuse", CNN, "--print-recipe", flag, cwd=tmp_path).succeeded().out.decode()


def test_the_report_lists_it(tmp_path: Path) -> None:
    flags = ("--budget", "0.2", "--warmup", "0.1", "--rounds", "2", "--processes", "1", "--json")
    done = modelopt("fuse", CNN, "-o", "x.onnx", *flags, cwd=tmp_path).succeeded()
    document = json.loads(done.out)
    if document["trials"]:  # the machine was busy with something else for just so long
        assert (tmp_path / "x.onnx").read_bytes() == CNN.read_bytes()
        return
    assert {gate["gate"]: gate["outcome"] for gate in document["gates"]} == {"not-slower": "passed"}
    assert len(onnx.load(tmp_path / "x.onnx").graph.node) < len(onnx.load(CNN).graph.node)
