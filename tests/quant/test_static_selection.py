"""Which nodes static quantization takes, which it leaves in float, and the reason it gives."""

from __future__ import annotations

import numpy as np
import pytest

from modelopt.core.errors import InputError
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static.plan import SelectionRules
from modelopt.quant.static.selection import select
from modelopt.runtime import installation
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.static_models import net
from tests.quant_tools import context, model, op_types, random_feeds

EVERYWHERE = QuantizeStatic(everywhere=True)


def test_nan_and_masks_are_skipped_with_the_reason(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,2] x) => (float[1,2] y, float[1,2] z, float[1,2] u)
    <float zero = {0}, float mask = {-3.4e38}>
    {
      broken = Div (x, zero)  y = MatMul (broken, w)
      masked = Max (x, x)  low = Add (masked, mask)  z = MatMul (low, w)
      u = MatMul (x, w)
    }
    """
    quantized = model(text, w=np.eye(2, dtype=np.float32))
    changes = EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 2)))
    assert changes.rewrites == 1
    reasons = {skip.reason for skip in changes.skipped}
    assert any("broken held" in reason and "infinities" in reason for reason in reasons)
    assert any("low holds a mask" in reason for reason in reasons)
    assert changes.facts["tensors_skipped"] == 2


def test_hardswish_stays_whole(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,4,6,6] x) => (float[1,4,6,6] y)
    <float three = {3}, float zero = {0}, float six = {6}>
    {
      c = Conv (x, w)  shifted = Add (c, three)  clipped = Clip (shifted, zero, six)
      product = Mul (c, clipped)  h = Div (product, six)  y = Conv (h, w)
    }
    """
    quantized = model(text, w=np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32))
    EVERYWHERE.apply(quantized, context(runner, random_feeds(1, 4, 6, 6)))
    inside = [node for node in quantized.graph if node.op_type in {"Add", "Clip", "Mul", "Div"}]
    for node in inside[1:]:
        assert any(value is not None and value.producer() in inside for value in node.inputs)
    assert op_types(quantized)["QuantizeLinear"] == 4  # x, c, h, y


def test_include_and_exclude(runner: WorkerRunner) -> None:
    samples = random_feeds(1, 3, 12, 12)
    only = QuantizeStatic(everywhere=True, include=("op:Gemm",)).apply(net(), context(runner, samples))
    assert only.facts["kernels_quantized"] == 1
    without = QuantizeStatic(everywhere=True, exclude=("re:c[12]",)).apply(net(), context(runner, samples))
    assert without.facts["kernels_quantized"] == 2
    assert {skip.reason for skip in without.skipped if skip.node.startswith("c1")} == {"excluded"}


def test_a_pattern_that_names_nothing_is_refused(runner: WorkerRunner) -> None:
    with pytest.raises(InputError, match="names no node") as caught:
        QuantizeStatic(exclude=("op:Cov",)).apply(net(), context(runner, random_feeds(1, 3, 12, 12)))
    assert caught.value.hint == "did you mean 'op:Conv'?"


def test_large_convolutions_between_floats_pay_and_small_ones_do_not(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[1,C,8,8] x) => (float[1,C,8,8] y)
    { h = HardSwish (x)  c = Conv (h, w)  y = HardSwish (c) }
    """
    paid = {}
    for channels in (8, 512):
        weight = np.ones((channels, channels, 1, 1), np.float32)
        quantized = model(text.replace("C", str(channels), 1).replace(",C,", f",{channels},"), w=weight)
        changes = QuantizeStatic().apply(quantized, context(runner, random_feeds(1, channels, 8, 8, n=2)))
        paid[channels] = changes.rewrites
    assert paid == {8: 0, 512: 1}


def test_bodies_stay_float_where_the_runtime_loses_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    branches = """
<ir_version: 8, opset_import: ["" : 17]>
net (bool c, float[n,8] x) => (float[n,8] y)
{
  y = If (c) <
    then_branch = yes () => (float[n,8] a) { a = MatMul (x, w) },
    else_branch = no () => (float[n,8] b) { b = Relu (x) }
  >
}"""
    given = model(branches, w=np.ones((8, 8), np.float32))
    lost = "onnxruntime before 1.31 loses integers that a body reads from outside"
    for keeps in (True, False):
        monkeypatch.setattr(installation, "keeps_captured_integers", lambda keeps=keeps: keeps)
        plan = select(given, SelectionRules())
        assert (lost in [skip.reason for skip in plan.skipped]) is not keeps
        assert bool(plan.choices) is keeps
