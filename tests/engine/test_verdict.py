"""The verdict of a report: its first line, its trials and its notes claim what was found and no more."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from onnx import helper

from modelopt import data
from modelopt.commands import first_gain
from modelopt.core.signature import Signature, TensorSpec
from modelopt.engine import datasets
from modelopt.engine import optimize as engine
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.recipe.recipe import Recipe
from modelopt.report import GateOutcome, GateResult, Offender, Outcome, Report, verdict
from modelopt.report.summary import report_sections
from modelopt.search.search_result import SearchResult
from tests.command_line import CALIB, CNN, EVAL, MLP, QUICK, modelopt, save, value
from tests.report_tools import report, result, trial

STATIC, DYNAMIC = "quantize-static", "quantize-dynamic(everywhere=True)"


FUSED = result("fuse-conv-bn", "exact", 8)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (report(), "Nothing changed: the output is a copy of the input."),
        (report(FUSED), "Rewritten in 8 places by 1 exact pass: 60.0% smaller, speed not measured."),
        (
            report(FUSED, result(STATIC, "approximate", 3)),
            "Quantized to int8 (static) in 3 places: 60.0% smaller, speed not measured, accuracy not measured.",
        ),
        (
            report(result("quantize-weights(bits=2)", "approximate", 3), not_timed="not measured for arm64 (why)"),
            (
                "Quantized to weights of 2 bits in 3 places: 60.0% smaller, speed not measured for arm64 (why), "
                "accuracy not measured."
            ),
        ),
        (
            report(
                result(DYNAMIC, "approximate", 2),
                trials=[trial(STATIC, Outcome.INACCURATE), trial(DYNAMIC, Outcome.KEPT)],
            ),
            (
                "Quantized to int8 (dynamic) in 2 places, not to int8 (static) as asked: 60.0% smaller, "
                "speed not measured, accuracy not measured."
            ),
        ),
        (
            report(FUSED, trials=[trial(STATIC, Outcome.SLOWER), trial(DYNAMIC, Outcome.INACCURATE)]),
            (
                "Not quantized: what was tried was slower or less accurate than allowed; the float model after the "
                "exact passes is the output."
            ),
        ),
        (
            report(result(STATIC, "approximate", 0, "it is small", "it is small", "it is odd")),
            "Not quantized: 3 places refused, 2 of them because: it is small; the output is a copy of the input.",
        ),
        (
            report(result("prune-magnitude", "lossy", 0, "its weights are zero")),
            "Not pruned: its weights are zero; the output is a copy of the input.",
        ),
        (
            report(
                FUSED,
                written=False,
                gates=(GateResult(gate="max-size", limit="", found="", outcome=GateOutcome.FAILED, stops=True),),
            ),
            (
                "Not written: --max-size is not met. Rewritten in 8 places by 1 exact pass: 60.0% smaller, speed not "
                "measured."
            ),
        ),
    ],
)
def test_the_verdict(found: Report, said: str) -> None:
    assert verdict.of(found) == said
    shown = msgspec.structs.replace(found, verdict=said)
    assert report_sections(shown)[0].notes == (said,)


def test_the_first_line_is_the_verdict_and_json_has_it_too(tmp_path: Path) -> None:
    first = modelopt("fuse", CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded().err.splitlines()[0]
    assert first.startswith("Rewritten in 8 places by 1 exact pass")
    document = json.loads(modelopt("fuse", CNN, "-o", "y.onnx", *QUICK, "--json", cwd=tmp_path).succeeded().out)
    assert document["verdict"] == first


def test_each_trial_has_its_reason(tmp_path: Path) -> None:
    flags = ("--calib", CALIB, "--eval", EVAL, "--max-drop", "0%", "--activation", "s8", "--per-tensor", "--json")
    run = modelopt("quantize", MLP, *flags, "--no-bench", "-o", "x.onnx", cwd=tmp_path).succeeded()
    found = msgspec.json.decode(run.out, type=Report)
    assert found.trials
    for one in found.trials:
        assert one.reason
        assert one.kept == (one.outcome is Outcome.KEPT)
        if one.outcome is Outcome.INACCURATE:
            assert one.drop is not None
            assert one.reason == f"accuracy fell by {one.drop:.2%}: 0.00% is allowed"


def test_what_the_final_run_refuses_was_not_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The search may find a gain that the last measurement, beside the input, does not confirm."""
    lost = GateResult(gate="must-gain", limit="", found="slower: 0.950×", outcome=GateOutcome.FAILED, stops=True)
    made = [report(result(STATIC, "approximate", 3), written=False, gates=(lost,)), report(FUSED)]
    answers = iter(made)
    monkeypatch.setattr(first_gain, "run", lambda request: request.finish(next(answers)))
    recipe = Recipe(steps=(QuantizeStatic(),))
    request = engine.Request(recipe=recipe, model=tmp_path / "m.onnx", output=tmp_path / "x.onnx")
    offender = Offender(nodes=("n",), share=1.0, restored=True)
    chosen = SearchResult((recipe, recipe), (trial(STATIC, Outcome.KEPT),), (offender,))
    found = first_gain.run_first_that_gains(request, chosen)
    assert [one.restored for one in found.offenders] == [False]
    assert [(one.kept, one.outcome, one.reason) for one in found.trials] == [
        (False, Outcome.NO_GAIN, "no gain beside the input: slower: 0.950×")
    ]
    assert found.verdict.startswith("Not quantized: what was tried was no gain in speed or size")


def test_nothing_stands_between_the_verdict_and_the_sizes_where_no_pass_did_anything(tmp_path: Path) -> None:
    save(tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", [4])], [value("y", [4])])
    lines = modelopt("fold", "m.onnx", "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded().err.splitlines()
    assert lines[0] == "Nothing changed: the output is a copy of the input."
    assert not [line for line in lines if "rewrites" in line or "anything to do" in line]


def test_random_inputs_have_one_name() -> None:
    signature = Signature((TensorSpec("x", "float32", (1, 4)),), ())
    named = datasets.Data(signature, None, None, (), 7).source
    assert data.random_data(signature.inputs, n=1, seed=7).source == named == "random inputs, seed 7"


_ABOUT_DATA = ("calibrated on", "accuracy is flattered", "held out")


@pytest.mark.parametrize("calib", ["random", CALIB])
@pytest.mark.parametrize("search", [(), ("--no-search",)])
def test_nothing_is_said_of_a_calibration_that_did_not_happen(
    tmp_path: Path, calib: str | Path, search: tuple[str, ...]
) -> None:
    flags = ("--calib", calib, "--exclude", "*", *search, "-o", "x.onnx", "--no-bench")
    copied = modelopt("quantize", MLP, *flags, cwd=tmp_path).succeeded()
    assert not [words for words in _ABOUT_DATA if words in copied.err]


def test_what_was_calibrated_on_random_inputs_is_said_although_a_gate_fails(tmp_path: Path) -> None:
    flags = ("--calib", "random", "--eval", EVAL, "--max-drop", "0%", "--activation", "s8", "--per-tensor")
    ran = modelopt("quantize", MLP, *flags, "--everywhere", "-o", "x.onnx", "--no-bench", cwd=tmp_path)
    assert "note: calibrated on random inputs" in ran.err


def test_a_name_that_was_given_stays(tmp_path: Path) -> None:
    run = modelopt("quantize", "--calib", CALIB, MLP, "--exclude", "*", "-o", "mlp.int8.onnx", *QUICK, cwd=tmp_path)
    assert run.succeeded().created == {"mlp.int8.onnx"}
    assert run.err.startswith("Not quantized: ")
