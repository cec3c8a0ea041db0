"""Speed is measured for the machine at hand, and not for another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from modelopt.core import targets
from modelopt.core.errors import InputError
from modelopt.core.targets import Target, TargetKind
from modelopt.engine import gates, judging, measurements, settings
from modelopt.engine import optimize as engine
from modelopt.engine.findings import Findings
from modelopt.passes.fuse_conv_bn import FuseConvBn
from modelopt.recipe.recipe import BenchSpec, EvaluateSpec, Gates, Recipe
from modelopt.report import GateOutcome, Report
from tests.command_line import CALIB, CNN, EVAL, MLP, evaluation, modelopt

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
    (found,) = judging.judge(Gates(must_gain=True), 100, 50, findings)
    assert (found.gate, found.found, found.outcome) == ("must-gain", findings.not_timed, GateOutcome.NOT_JUDGED)
    (found,) = judging.judge(Gates(must_gain=True), 100, 50, Findings(unchanged=False))
    assert (found.found, found.outcome) == ("not measured", GateOutcome.NOT_JUDGED)


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
    assert [gate.gate for gate in found.gates if gate.outcome is GateOutcome.NOT_JUDGED] == ["must-gain"]
    assert not any(gate.stops for gate in found.gates)
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
