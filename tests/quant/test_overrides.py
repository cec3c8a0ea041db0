"""What the user says of single tensors and nodes: what becomes of it in a static int8 model."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.changes import Changes
from modelopt.core.errors import InputError
from modelopt.graph import invariants
from modelopt.passes.quantize_static import QuantFormat, QuantizeStatic
from modelopt.quant.numerics.scheme import Grid, IntType, Symmetry
from modelopt.quant.static.overrides import Overrides, split
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, relative_error, run

RNG = np.random.default_rng(0)


TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,16] x) => (float[n,8] y)
{
  [first] a = MatMul (x, w)  [relu] r = Relu (a)  [second] b = MatMul (r, v)  [third] y = MatMul (b, u)
}
"""


WEIGHTS = {
    name: RNG.standard_normal(shape).astype(np.float32)
    for name, shape in {"w": (16, 12), "v": (12, 12), "u": (12, 8)}.items()
}


FEEDS = [{"x": RNG.standard_normal((32, 16)).astype(np.float32)} for _ in range(4)]
U8 = Grid(IntType.U8, Symmetry.ASYMMETRIC)


def quantized(
    runner: WorkerRunner, plain: dict[str, Any], target: str = "x86-vnni", **more: Any
) -> tuple[ir.Model, Changes]:
    result = model(TEXT, **WEIGHTS)
    step = QuantizeStatic(everywhere=True, override=Overrides.parse(plain), **more)
    changes = step.apply(result, context(runner, FEEDS, target))
    assert invariants.check(result) == []
    return result, changes


def numbers(result: ir.Model) -> dict[str, tuple[str, float, int]]:
    """By the name of what is quantized at run time: type, scale and zero point."""
    found = {}
    for node in result.graph:
        if node.op_type == "QuantizeLinear":
            scale, zero_point = graph.constant(node.inputs[1]), graph.constant(node.inputs[2])
            assert node.inputs[0] is not None
            assert scale is not None
            assert zero_point is not None
            found[node.inputs[0].name or ""] = (str(zero_point.dtype), float(scale), int(zero_point))
    return found


def test_one_activation_in_16_bits(runner: WorkerRunner) -> None:
    plain, _ = quantized(runner, {})
    result, changes = quantized(runner, {"b": {"type": "u16"}})
    assert numbers(result)["b"][0] == "uint16"
    assert {name: kind for name, (kind, *_) in numbers(result).items() if name != "b"} == {"x": "uint8", "r": "uint8"}
    assert graph.opset(result) >= 21
    assert "overrides_of_no_use" not in changes.facts
    feeds = FEEDS[0]
    errors = [relative_error(run(model(TEXT, **WEIGHTS), feeds)[0], run(each, feeds)[0]) for each in (result, plain)]
    assert errors[0] < errors[1]


def test_ranges_scales_and_zero_points_are_taken_as_said(runner: WorkerRunner) -> None:
    usual = numbers(quantized(runner, {})[0])
    said = {"x": {"range": [-2, 6]}, "r": {"scale": 0.0625, "zero-point": 3}, "b": {"max": 200, "type": "s8"}}
    found = numbers(quantized(runner, said)[0])
    assert found["x"][1] == pytest.approx(8 / 255)
    assert found["x"][::2] == ("uint8", 64)
    assert found["r"] == ("uint8", 0.0625, 3)
    low = -usual["b"][1] * usual["b"][2]
    assert found["b"][1] == pytest.approx((200 - low) / 255, rel=1e-2)
    assert found["b"][0] == "int8"


def test_a_node_stands_for_what_it_makes_and_patterns_name_several(runner: WorkerRunner) -> None:
    assert numbers(quantized(runner, {"first": {"type": "u16"}})[0])["r"][0] == "uint16"  # a Relu is fused to it
    kinds = {name: kind for name, (kind, *_) in numbers(quantized(runner, {"op:MatMul": {"type": "u16"}})[0]).items()}
    assert kinds == {"x": "uint8", "r": "uint16", "b": "uint16"}
    assert numbers(quantized(runner, {"re:[xb]": {"type": "u16"}})[0])["x"][0] == "uint16"


@pytest.mark.parametrize("name", ["second", "b", "v", "re:sec.*"])
def test_what_is_to_be_f32_stays_in_float(runner: WorkerRunner, name: str) -> None:
    result, changes = quantized(runner, {name: {"type": "f32"}})
    floats = {node.name for node in result.graph if node.op_type == "MatMul" and graph.constant_tensor(node.inputs[1])}
    assert "second" in floats
    assert "first" not in floats
    assert changes.rewrites == (1 if name == "b" else 2)


def test_a_weight_may_have_a_scale_or_a_range_for_all_its_channels(runner: WorkerRunner) -> None:
    result, _ = quantized(runner, {"v": {"range": [-1, 1]}, "u": {"scale": 0.05}})
    stored = {value.name: graph.constant(value) for value in result.graph.initializers.values()}
    clipped = np.clip(np.rint(WEIGHTS["v"].astype(np.float64) * 127), -127, 127)
    assert np.abs(stored["v_quantized"] - clipped).max() <= 1
    assert (stored["u_quantized"] == np.rint(WEIGHTS["u"] / np.float32(0.05))).all()


def test_a_range_that_is_said_needs_no_good_observation(runner: WorkerRunner) -> None:
    text = TEXT.replace("x) => (", "x, float[n,16] dead) => (float[n,12] z, ").replace("{", "{ z = MatMul (dead, w)", 1)
    feeds = [{**feed, "dead": np.zeros_like(feed["x"])} for feed in FEEDS]
    told: dict[str, Any] = {"dead": {"range": [-8, 8]}}
    for plain, expected in (({}, 3), (told, 4)):
        result = model(text, **WEIGHTS)
        step = QuantizeStatic(everywhere=True, override=Overrides.parse(plain))
        assert step.apply(result, context(runner, feeds)).facts["kernels_quantized"] == expected


def test_what_is_moved_shares_a_scale(runner: WorkerRunner) -> None:
    text = TEXT.replace("[second] b = MatMul (r, v)", "t = Reshape (r, shape)  [second] b = MatMul (t, v)")
    weights = {**WEIGHTS, "shape": np.array([-1, 12])}
    said = Overrides.parse({"t": {"range": [0, 9]}})
    result = model(text, **weights)
    QuantizeStatic(everywhere=True, override=said).apply(result, context(runner, FEEDS))
    assert numbers(result)["r"][1] == pytest.approx(9 / 255)
    both = Overrides.parse({"t": {"range": [0, 9]}, "r": {"range": [0, 8]}})
    with pytest.raises(InputError, match="share one scale"):
        QuantizeStatic(everywhere=True, override=both).apply(model(text, **weights), context(runner, FEEDS))


def test_the_operator_form_holds_8_bits_only(runner: WorkerRunner) -> None:
    result, changes = quantized(runner, {"b": {"type": "u16"}}, format=QuantFormat.QOPERATOR)
    assert any("8 bits, not 16" in skip.reason for skip in changes.skipped)
    run(result, FEEDS[0])


def test_an_override_without_use_is_named(runner: WorkerRunner) -> None:
    _, changes = quantized(runner, {"y": {"type": "u16"}, "x": {"min": -3}})
    assert changes.facts["overrides_of_no_use"] == "y"


@pytest.mark.parametrize(
    ("plain", "target", "fact", "hint"),
    [
        ({"secnd": {"type": "u16"}}, "x86-vnni", "'secnd' names no tensor and no node", "did you mean 'second'?"),
        ({"op:Matmul": {"type": "u16"}}, "x86-vnni", "names no tensor and no node", "did you mean 'op:MatMul'?"),
        ({"v": {"type": "u16"}}, "x86-vnni", "the weight 'v' can be s8 or f32 only", None),
        ({"v": {"zero-point": 3}}, "x86-vnni", "the zero point of 'v' can only be 0", None),
        (
            {"x": {"zero-point": 300}},
            "x86-vnni",
            "the zero point 300 of 'x' is none of its integers",
            "uint8: 0 to 255",
        ),
        ({"x": {"min": 100}}, "x86-vnni", "the range of 'x' would be 100 to", None),
        ({"x": {"type": "u16"}}, "tensorrt", "8-bit signed activations only", None),
        ({"x": {"type": "f16"}}, "x86-vnni", "is f16, which this pass does not make", None),
    ],
)
def test_what_this_model_cannot_have(
    runner: WorkerRunner, plain: dict[str, Any], target: str, fact: str, hint: str | None
) -> None:
    with pytest.raises(InputError, match=fact) as caught:
        quantized(runner, plain, target)
    assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize(
    ("plain", "fact"),
    [
        ({"x": {"typ": "u16"}}, "unknown key 'typ'"),
        ({"x": {"type": "u61"}}, "the type 'u61' of 'x' is none"),
        ({"x": {}}, "no mapping"),
        ({"x": "u16"}, "no mapping"),
        ("u16", "a mapping of names"),
        ({"x": {"scale": 0}}, "the scale of 'x' is 0"),
        ({"x": {"scale": -0.1}}, "the scale of 'x' is -0.1"),
        ({"x": {"scale": float("nan")}}, "not a number"),
        ({"x": {"scale": True}}, "not a number"),
        ({"x": {"range": [3, 1]}}, "the range of 'x' is empty"),
        ({"x": {"range": [1]}}, "no pair of numbers"),
        ({"x": {"range": [0, "a"]}}, "not a number"),
        ({"x": {"range": [0, 1], "min": 0}}, "says its range twice"),
        ({"x": {"range": [0, 1], "scale": 0.1}}, "says a scale and a range"),
        ({"x": {"zero-point": 1.5}}, "not an integer"),
        ({"x": {"type": "u8", "zero-point": 256}}, "none of its integers"),
        ({"x": {"zero-point": 70000}}, "none of its integers"),
        ({"x": {"type": "f32", "scale": 0.1}}, "no scale and no range"),
    ],
)
def test_what_cannot_be_said(plain: Any, fact: str) -> None:
    with pytest.raises(InputError, match=fact) as caught:
        Overrides.parse(plain)
    assert caught.value.hint
    assert "\n" not in caught.value.fact


def test_a_zero_point_alone_keeps_the_range() -> None:
    setting = Overrides.parse({"x": {"zero-point": 100}}).settings["x"]
    params = setting.params("x", U8, -1.0, 2.0)
    assert int(params.zero_point) == 100
    assert float(params.scale) == pytest.approx(2.0 / 155)
    assert float(setting.params("x", U8, -4.0, 2.0).scale) == pytest.approx(4.0 / 100)


def test_names_may_hold_what_yaml_does_not_like() -> None:
    assert split("*: {type: u16}") == ("*", "{type: u16}")
    assert split("op:Conv: {type: f32}") == ("op:Conv", "{type: f32}")
    assert split("'/a[0]: b' :{range: [0, 1]}") == ("/a[0]: b", "{range: [0, 1]}")
    for text in ("x", "x: u16", "{type: u16}", "x={type: u16}"):
        with pytest.raises(InputError, match="is not NAME"):
            split(text)
