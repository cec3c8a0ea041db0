"""No claim without evidence: what was not compared, not measured or not told from chance is said to be so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import helper

from modelopt import data
from modelopt.commands import first_gain
from modelopt.core import targets
from modelopt.core.errors import InputError
from modelopt.core.signature import Signature, TensorSpec
from modelopt.core.targets import Target, TargetKind
from modelopt.engine import datasets, gates, measurements, settings
from modelopt.engine import optimize as engine
from modelopt.engine.findings import Findings
from modelopt.measure.chance import Guesses, Standing
from modelopt.measure.evaluate import Accuracy, TaskScore
from modelopt.measure.registry import task_for
from modelopt.measure.speed import Ratio, Verdict
from modelopt.measure.stats import proportion_interval
from modelopt.passes.fuse_conv_bn import FuseConvBn
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.recipe.recipe import BenchSpec, EvaluateSpec, Gates, Recipe
from modelopt.report import GateResult, Offender, Outcome, Report, verdict
from modelopt.report.summary import report_sections
from modelopt.search.search_result import SearchResult
from tests.command_line import CALIB, CNN, EVAL, MLP, QUICK, Ran, evaluation, modelopt, save, value
from tests.report_tools import report, result, trial

F = np.float32


# No data


def note_of(run: Ran) -> str | None:
    found = [line for line in run.err.splitlines() if "contract was not checked" in line]
    return found[0] if found else None


@pytest.mark.parametrize(
    "command",
    [
        ("prune",),
        ("quantize", "--mode", "weights", "--bits", "2"),
        ("quantize", "--mode", "dynamic", "--everywhere"),
        ("quantize", "--mode", "storage"),
        ("quantize", "--mode", "fp16"),
        ("quantize", "--mode", "bf16"),
    ],
    ids=" ".join,
)
def test_a_contract_that_was_not_checked_is_said_to_be_so(tmp_path: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, MLP, "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    start = "note: the 1 % contract was not checked: no --calib or --eval (on random inputs "
    assert (note_of(run) or "").startswith(start)
    assert " of 16 answers changed)" in (note_of(run) or "")
    run = modelopt(*command, MLP, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    assert note_of(run) == "note: the 1 % contract was not checked: no --calib or --eval"


def test_a_contract_that_was_checked_or_not_needed_is_not_said_to_be_unchecked(tmp_path: Path) -> None:
    assert note_of(modelopt("prune", MLP, "--eval", EVAL, "-o", "x.onnx", "--no-bench", cwd=tmp_path)) is None
    assert note_of(modelopt("fuse", CNN, "-o", "y.onnx", "--no-bench", cwd=tmp_path)) is None
    assert note_of(modelopt("prune", MLP, "--exclude", "*", "-o", "z.onnx", "--no-bench", cwd=tmp_path)) is None


def test_data_that_are_not_used_are_no_evidence(tmp_path: Path) -> None:
    run = modelopt("quantize", "--everywhere", MLP, "--calib", CALIB, "-o", "x.onnx", *QUICK, cwd=tmp_path)
    assert note_of(run.succeeded()) == "note: the 1 % contract was not checked: no outputs were compared"


def test_random_inputs_are_no_evidence(tmp_path: Path) -> None:
    run = modelopt("quantize", "--everywhere", MLP, "--calib", "random", "-o", "x.onnx", "--no-bench", cwd=tmp_path)
    assert "not checked: random inputs are no evidence (on random inputs " in (note_of(run.succeeded()) or "")


@pytest.mark.parametrize(
    "command",
    [
        ("prune",),
        ("prune", "--eval", "random"),
        ("quantize", "--mode", "dynamic"),
        ("quantize", "--mode", "fp16"),
        ("quantize", "--calib", "random"),
        ("fuse", "--no-verify"),
    ],
    ids=" ".join,
)
def test_a_contract_without_data_is_refused(tmp_path: Path, command: tuple[str, ...]) -> None:
    run = modelopt(*command, CNN, "--max-drop", "1%", "-o", "x.onnx", cwd=tmp_path)
    run.refused(2, "--max-drop needs data", "random inputs say nothing about accuracy", "--eval DATA")


def test_verification_is_evidence_for_exact_passes(tmp_path: Path) -> None:
    run = modelopt("fuse", CNN, "--max-drop", "1%", "-o", "x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    assert "0 (the outputs are the same)  ok" in run.err


def test_a_metric_that_is_no_share_cannot_be_the_contract(tmp_path: Path) -> None:
    flags = ("--eval", EVAL, "--max-drop", "1%", "--metric", "max-abs-error", "--no-bench")
    modelopt("prune", MLP, "-o", "x.onnx", *flags, cwd=tmp_path).refused(2, "max-abs-error is no share", "--metric")


# The verdict

FASTER = Ratio(point=1.5, low=1.4, high=1.6, verdict=Verdict.FASTER, processes=8)
STATIC, DYNAMIC = "quantize-static", "quantize-dynamic(everywhere=True)"
FUSED = result("fuse-conv-bn", "exact", 8)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (report(), "Nothing changed: the output is a copy of the input."),
        (report(FUSED), "Rewritten in 8 places by 1 exact pass: 60.0% smaller, speed not measured."),
        (
            report(FUSED, result(STATIC, "approximate", 3)),
            "Quantized to int8 (static) in 3 places: 60.0% smaller, speed not measured.",
        ),
        (
            report(result("quantize-weights(bits=2)", "approximate", 3), not_timed="not measured for arm64 (why)"),
            "Quantized to weights of 2 bits in 3 places: 60.0% smaller, speed not measured for arm64 (why).",
        ),
        (
            report(
                result(DYNAMIC, "approximate", 2),
                trials=[trial(STATIC, Outcome.INACCURATE), trial(DYNAMIC, Outcome.KEPT)],
            ),
            (
                "Quantized to int8 (dynamic) in 2 places, not to int8 (static) as asked: 60.0% smaller, "
                "speed not measured."
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
            report(FUSED, written=False, gates=(GateResult(gate="max-size", limit="", found="", passed=False),)),
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
    lost = GateResult(gate="must-gain", limit="", found="slower: 0.950×", passed=False)
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


# Chance


@pytest.mark.parametrize(
    ("right", "n", "labels", "answers", "standing"),
    [
        (12, 36, [12, 12, 12], [36, 0, 0], Standing.AT_CHANCE),  # one answer to everything
        (110, 300, [100, 100, 100], [100, 100, 100], Standing.AT_CHANCE),  # noise
        (180, 200, [180, 20], [200, 0], Standing.AT_CHANCE),  # always the most frequent class
        (180, 200, [180, 20], [172, 28], Standing.UNCLEAR),  # as many right, but it tells the classes apart
        (8, 10, [5, 5], [5, 5], Standing.UNCLEAR),  # good, on few samples
        (4, 8, [2, 2, 2, 2], [2, 2, 2, 2], Standing.UNCLEAR),
        (2, 2, [1, 1], [1, 1], Standing.TOO_FEW),  # all right, and could have been guessed
        (20, 20, [18, 2], [18, 2], Standing.TOO_FEW),
        (30, 30, [30, 0], [30, 0], Standing.TOO_FEW),  # labels of one class
        (9, 10, [1] * 10, [1] * 10, Standing.ABOVE),
        (480, 629, [63] * 9 + [62], [63] * 9 + [62], Standing.ABOVE),
    ],
)
def test_a_score_beside_what_guessing_gives(
    right: int, n: int, labels: list[int], answers: list[int], standing: Standing
) -> None:
    counted = Guesses(1)
    counted.add(np.repeat(np.arange(len(answers)), answers)[:, None], np.repeat(np.arange(len(labels)), labels), 0)
    found = counted.chance(right / n, proportion_interval(right, n).low, n)
    assert found is not None
    assert found.standing is standing


def classified(labels: np.ndarray, scores: np.ndarray) -> Accuracy:
    metric = task_for([scores[:1]], [scores[:1]], labels[:1])
    assert metric is not None
    for label, row in zip(labels, scores, strict=True):
        metric.update([row[None]], [row[None]], label[None])
    return Accuracy(
        n=len(labels),
        tasks=(
            TaskScore(
                reference=metric.reference_score(),
                candidate=metric.score(),
                delta=metric.delta(),
                chance=metric.chance(),
            ),
        ),
        outputs=(),
        fidelity=(),
    )


def judged(found: Accuracy, guesses: tuple[str, ...] = ()) -> GateResult:
    findings = Findings(unchanged=False, accuracy=found, guesses=guesses)
    return gates.judge(Gates(max_drop=0.01), 1, 1, findings)[0]


def test_no_gate_passes_on_a_model_that_guesses() -> None:
    labels = np.arange(36) % 3
    found = judged(classified(labels, np.tile(np.array([1, 0, 0], F), (36, 1))), ("scale=1/255", "mean=0"))
    assert (found.passed, found.found) == (False, "0.00% (top1), but the original scores at chance")
    assert "--preprocess scale=1/255,mean=0" in (found.hint or "")
    assert judged(classified(labels, np.eye(3, dtype=F)[labels])).passed


def test_a_good_model_passes_on_few_and_on_uneven_labels() -> None:
    few = np.array([0, 1, 0, 1, 0, 1, 0, 1])
    answers = np.where(np.arange(8) < 6, few, 1 - few)  # 6 of 8 right
    assert judged(classified(few, np.eye(2, dtype=F)[answers])).passed
    uneven = (np.arange(100) % 10 == 0).astype(np.int64)
    answers = np.where(np.isin(np.arange(100), [0, 10, 20, 30, 1, 2, 3, 4]), 1 - uneven, uneven)  # 92 right
    assert judged(classified(uneven, np.eye(2, dtype=F)[answers])).passed


def test_chance_and_guesses_are_named(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    rng = np.random.default_rng(0)
    for number, color in enumerate(([200, 60, 60], [60, 200, 60], [60, 60, 200])):
        folder = tmp_path / "photos" / f"class{number}"
        folder.mkdir(parents=True)
        for i in range(8):
            pixels = np.clip(rng.normal(0, 20, (6, 6, 3)) + color, 0, 255).astype(np.uint8)
            image.fromarray(pixels).save(folder / f"{i}.png")
    weight = rng.normal(0, 1e-4, (3, 3, 6, 6)).astype(F)
    weight[range(3), range(3)] += 1 / 36
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"]), helper.make_node("Flatten", ["c"], ["y"])]
    weights = {"w": weight, "b": np.array([0, 30, 0], F)}  # for pixels of 0 to 255: of 0 to 1 the bias decides
    save(tmp_path / "m.onnx", nodes, [value("x", ["n", 3, 6, 6])], [value("y", ["n", 3])], weights)
    flags = (
        "prune",
        "m.onnx",
        "--sparsity",
        "0.3",
        "--eval",
        "photos",
        "-o",
        "x.onnx",
        "--no-bench",
        "--max-drop",
        "1%",
    )
    run = modelopt(*flags, cwd=tmp_path)
    guessed = "layout=nchw,color=rgb,scale=1/255,mean=0,std=1"
    run.failed(1, "warning: the original itself scores no better than chance (0.333 of 3 classes)")
    assert "but the original scores at chance" in run.err
    assert f"preprocessing guessed for x: float32[n, 3, 6, 6]: {guessed}" in run.err
    assert run.err.splitlines()[-1].endswith(f"--preprocess {guessed}")
    modelopt(*flags, "--preprocess", "scale=1", cwd=tmp_path).succeeded()


# Another machine


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[[TargetKind], None]:
    """Makes this machine one of another kind."""

    def be(kind: TargetKind) -> None:
        monkeypatch.setattr(targets, "detect", lambda: Target(kind, detected=True))

    return be


@pytest.mark.parametrize("here", [TargetKind.X86_VNNI, TargetKind.X86_AVX2, TargetKind.ARM64])
@pytest.mark.parametrize("target", list(TargetKind))
def test_speed_is_measured_for_the_machine_at_hand_only(
    machine: Callable[[TargetKind], None], here: TargetKind, target: TargetKind
) -> None:
    machine(here)
    recipe = Recipe(steps=(), target=target.value, bench=BenchSpec(), gates=Gates(min_speedup=1.1))
    reason = settings.why_not_timed(recipe)
    if target is here:
        assert reason is None
        gates.require(recipe)
        return
    assert (reason or "").startswith(f"not measured for {target.value} (")
    with pytest.raises(InputError, match="--min-speedup cannot be judged here") as caught:
        gates.require(recipe)
    assert reason is not None
    assert reason in (caught.value.note or "")


def test_gains_are_not_judged_on_another_machine() -> None:
    findings = Findings(unchanged=False, not_timed="not measured for arm64 (this machine is x86-vnni)")
    (found,) = gates.judge(Gates(must_gain=True), 100, 50, findings)
    assert (found.gate, found.found, found.passed) == ("must-gain", findings.not_timed, None)
    (found,) = gates.judge(Gates(must_gain=True), 100, 50, Findings(unchanged=False))
    assert (found.found, found.passed) == ("not measured", None)


def test_a_model_for_another_machine_is_not_timed(
    machine: Callable[[TargetKind], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(TargetKind.X86_AVX2)
    monkeypatch.setattr(measurements, "time_both", lambda *_: pytest.fail("it was timed"))
    data = EvaluateSpec(data=str(evaluation("digits_cnn")), limit=8)
    recipe = Recipe(steps=(FuseConvBn(),), target="arm64", bench=BenchSpec(), evaluate=data)
    found = engine.run(engine.Request(recipe=recipe, model=CNN, output=tmp_path / "x.onnx"))
    assert found.latency is None
    assert found.not_timed == "not measured for arm64 (this machine is x86-avx2)"
    elsewhere = "accuracy was measured with the kernels of this machine (provider cpu), not with those of arm64"
    assert found.accuracy is not None
    assert elsewhere in found.notes


def test_quantizing_for_another_machine(tmp_path: Path) -> None:
    """No machine is a TensorRT as long as the provider is the CPU."""
    flags = ("--calib", CALIB, "--eval", EVAL, "--target", "tensorrt", "-o", "x.onnx")
    run = modelopt("quantize", MLP, *flags, "--report", "x.json", cwd=tmp_path).succeeded()
    found = msgspec.json.decode((tmp_path / "x.json").read_bytes(), type=Report)
    reason = "not measured for tensorrt (the provider is cpu)"
    assert (found.latency, found.not_timed) == (None, reason)
    assert {gate.gate: gate.passed for gate in found.gates} == {"must-gain": None, "max-drop": True}
    assert "as fast" not in run.err.replace("faster, or as fast and smaller", "")
    assert "not judged" in run.err
    assert (
        "accuracy was measured with the kernels of this machine (provider cpu), not with those of tensorrt"
        in found.notes
    )
    assert f"speed {reason}" in run.err.splitlines()[0]
    assert all(one.ratio is None and one.on_one_thread is None for one in found.trials)
    run = modelopt("quantize", MLP, *flags, "--min-speedup", "1.1", cwd=tmp_path)
    assert run.code == 2
    assert f"note: speed is {reason}" in run.err
