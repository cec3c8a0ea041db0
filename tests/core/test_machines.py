"""What follows from the machine, with its detection replaced by that of each family; nothing here needs one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from modelopt import graph
from modelopt.core import targets
from modelopt.core.targets import TargetKind
from modelopt.engine import optimize, settings
from modelopt.io import serialize
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.numerics import saturation
from modelopt.recipe.recipe import BenchSpec, DataSpec, EvaluateSpec, Recipe
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import calibration, evaluation, sample
from tests.machines.__main__ import quantization_tests
from tests.machines.families import BY_NAME, FAMILIES, Family
from tests.paths import ROOT
from tests.quant_tools import context, exactly, model, run
from tests.runtime_tools import session

ThisMachineIs = Callable[[Family], None]
TARGETS = [kind.value for kind in TargetKind]
each_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,8,6,6] x) => (float[n,5] y)
{ c = Conv <pads = [1,1,1,1]> (x, w1)  r = Relu (c)  flat = Flatten (r)  y = Gemm <transB = 1> (flat, w2) }
"""
SHAPES = {"w1": (8, 8, 3, 3), "w2": (5, 288)}


def feeds(count: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [{"x": rng.random((1, 8, 6, 6)).astype(np.float32)} for _ in range(count)]


def weights() -> dict[str, np.ndarray]:
    """All positive, so that neighbours add up to what 16 bits do not hold."""
    rng = np.random.default_rng(1)
    return {name: rng.random(shape).astype(np.float32) / 9 for name, shape in SHAPES.items()}


@each_family
def test_the_target_and_the_line_of_the_report(family: Family, this_machine_is: ThisMachineIs) -> None:
    this_machine_is(family)
    found = targets.detect()
    assert (found.kind, found.detected, found.features) == (family.kind, True, family.features)
    assert str(found) == f"{family.kind.value} (this machine: {', '.join(family.features)})"
    assert targets.resolve("auto") == found
    assert settings.target_of(Recipe(steps=())) == found


@each_family
@pytest.mark.parametrize("target", ["auto", *TARGETS])
def test_who_computes_exactly(family: Family, target: str, this_machine_is: ThisMachineIs) -> None:
    this_machine_is(family)
    recipe = Recipe(steps=(), target=target, bench=BenchSpec(threads=3))
    exact = family.saturates and target not in {"auto", "x86-avx2"}
    assert settings.is_exact(recipe) is exact
    judging, timing = settings.judging_spec(recipe), settings.session_spec(recipe.bench)
    assert (judging.exact, judging.threads, judging.spin) == (exact, 3, False)
    assert (timing.exact, timing.threads, timing.spin) == (False, 3, True)
    note = targets.how_products_were_computed(targets.resolve(target))
    words = f"computed exactly, as {target} does: this machine (x86-avx2) by itself cuts sums of u8 × s8 off at 16 bits"
    assert note == (words if exact else None)


@each_family
def test_what_static_quantization_chooses(family: Family, this_machine_is: ThisMachineIs, runner: WorkerRunner) -> None:
    this_machine_is(family)
    net = model(NET, **weights())
    facts = QuantizeStatic(everywhere=True).apply(net, context(runner, feeds(), "auto")).facts
    assert facts["target"] == str(targets.detect())
    assert facts["activations"] == ("int8 asymmetric" if family.kind is TargetKind.ARM64 else "uint8 asymmetric")
    told = "int8 per channel"
    assert facts["weights"] == told + (", scaled so that no 16-bit sum saturates" if family.saturates else "")
    stored = {name: graph.constant(net.graph.initializers[f"{name}_quantized"]) for name in SHAPES}
    kernels = saturation.conv_matrices(stored["w1"], 1), saturation.stack(stored["w2"].T)  # type: ignore[arg-type, union-attr]
    worst = max(saturation.worst_pairs(matrix).max() for matrices in kernels for matrix in matrices)
    assert bool(worst <= saturation.MOST) is family.saturates


@each_family
def test_what_dynamic_quantization_chooses(
    family: Family, this_machine_is: ThisMachineIs, runner: WorkerRunner
) -> None:
    this_machine_is(family)
    net = model(NET, **weights())
    facts = QuantizeDynamic(everywhere=True).apply(net, context(runner, None, "auto")).facts
    assert facts["target"] == str(targets.detect())
    assert str(facts["weights"]).endswith("saturates") is family.saturates


@pytest.mark.parametrize(
    "name", ["avx2", "avx512-without-vnni", "avx512-vnni", "arm64", "arm64-i8mm", "macos-arm64", "macos-avx2"]
)
def test_from_file_to_file(name: str, this_machine_is: ThisMachineIs, tmp_path: Path) -> None:
    """A classifier is quantized for the family, and is as accurate as the original wherever products are exact."""
    this_machine_is(BY_NAME[name])
    made = tmp_path / "made.onnx"
    recipe = Recipe(
        steps=(QuantizeStatic(everywhere=True),),
        verify=False,
        calibration=DataSpec(data=str(calibration("digits_mlp")), limit=64),
    )
    report = optimize.run(optimize.Request(recipe=recipe, model=sample("digits_mlp"), output=made))
    assert report.target == str(targets.detect())
    assert report.passes[-1].rewrites > 0
    original = sample("digits_mlp").read_bytes()
    assert top1(made.read_bytes()) >= top1(original) - 0.01


def top1(content: bytes) -> float:
    """The share of right answers with exact products."""
    with np.load(evaluation("digits_mlp")) as arrays:
        labels = arrays["label"]
        (name,) = set(arrays) - {"label"}
        images = arrays[name]
    return float(np.mean(session(exactly(content)).run(None, {name: images})[0].argmax(axis=1) == labels))


@pytest.mark.parametrize(
    ("name", "target", "exact"),
    [("avx2", "x86-vnni", True), ("avx2", "auto", False), ("avx512-vnni", "x86-vnni", False)],
)
def test_the_report_says_when_products_were_exact(
    name: str, target: str, exact: bool, this_machine_is: ThisMachineIs, tmp_path: Path
) -> None:
    this_machine_is(BY_NAME[name])
    data = str(calibration("digits_mlp"))
    recipe = Recipe(
        steps=(QuantizeStatic(everywhere=True),),
        target=target,
        calibration=DataSpec(data=data, limit=16),
        evaluate=EvaluateSpec(data=data, limit=16),
    )
    request = optimize.Request(recipe=recipe, model=sample("digits_mlp"), output=tmp_path / "made.onnx")
    report = optimize.run(request)
    assert any(note.startswith("computed exactly, as x86-vnni does") for note in report.notes) is exact


def test_a_model_without_integers_needs_no_such_note(this_machine_is: ThisMachineIs, tmp_path: Path) -> None:
    this_machine_is(BY_NAME["avx2"])
    recipe = Recipe(steps=(), target="x86-vnni", verify=False)
    report = optimize.run(optimize.Request(recipe=recipe, model=sample("digits_mlp"), output=tmp_path / "same.onnx"))
    assert not any("exactly" in note for note in report.notes)


def test_a_model_is_judged_for_its_target(runner: WorkerRunner) -> None:
    """What `run` computes of a model with full 8-bit weights is near the float model, on any machine."""
    net = model(NET, **weights())
    QuantizeStatic(everywhere=True).apply(net, context(runner, feeds(), "x86-vnni"))
    ours = list(runner.run(net, feeds()))
    theirs = [run(net, feed) for feed in feeds()]
    floats = [run(model(NET, **weights()), feed) for feed in feeds()]
    for mine, other, reference in zip(ours, theirs, floats, strict=True):
        np.testing.assert_array_equal(mine[0], other[0])
        np.testing.assert_allclose(mine[0], reference[0], atol=0.02 * np.abs(reference[0]).max())
    assert serialize.to_bytes(net) != exactly(serialize.to_bytes(net))


def test_what_runs_on_other_machines_exists() -> None:
    assert [path for path in quantization_tests() if not (ROOT / path).exists()] == []
