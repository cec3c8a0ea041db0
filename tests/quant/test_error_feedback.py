"""Weights rounded with error feedback (GPTQ) in static quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelopt.graph import invariants
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.correction.gptq_rounding import WeightRounding
from modelopt.quant.numerics import im2col
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant.correction_models import normal
from tests.quant_tools import context, model, relative_error, run

# WeightRounding with error feedback

GPTQ = QuantizeStatic(everywhere=True, rounding=WeightRounding.GPTQ)


DEEP = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,4,10,10] x) => (float[n,6,5,5] y)
{ y = Conv <pads = [1,1,1,1], strides = [2,2]> (x, w) }
"""


def smooth_images(n: int, seed: int) -> list[dict[str, np.ndarray]]:
    """Neighbours are alike, as in images: the errors of one weight can be made up for by the next."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 4, 10, 10), np.float32).cumsum(axis=3).cumsum(axis=2)} for _ in range(n)]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_error_feedback_lowers_the_error(runner: WorkerRunner, group: int) -> None:
    weight = normal(np.random.default_rng(0), 8, 4 // group, 3, 3)
    text = DEEP.replace("strides", f"group = {group}, strides").replace("[n,6,", "[n,8,")
    plain, fed_back, samples = model(text, w=weight), model(text, w=weight), smooth_images(16, 1)
    QuantizeStatic(everywhere=True).apply(plain, context(runner, samples))
    changes = GPTQ.apply(fed_back, context(runner, samples))
    assert changes.facts["weights_rounded_again"] == 1
    assert invariants.check(fed_back) == []
    scales = [
        [v.const_value.numpy().tolist() for n, v in m.graph.initializers.items() if n.endswith("_scale")]  # type: ignore[union-attr]
        for m in (plain, fed_back)
    ]
    assert scales[0] == scales[1]
    (held_out,) = smooth_images(1, 2)
    original = run(model(text, w=weight), held_out)[0]
    assert relative_error(original, run(fed_back, held_out)[0]) < relative_error(original, run(plain, held_out)[0])


@pytest.mark.parametrize("attributes", ["pads = [1,0,2,1]", "strides = [2,3]", "dilations = [2,1]", "pads = [0,0,0,0]"])
def test_rows_times_weight_are_the_convolution(attributes: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[2,4,10,10] x) => (float[a,b,c,d] y) {{ y = Conv <{attributes}> (x, w) }}
    """
    rng = np.random.default_rng(0)
    weight, images = normal(rng, 6, 4, 3, 2), rng.standard_normal((2, 4, 10, 10), np.float32)
    conv = model(text, w=weight)
    node = next(iter(conv.graph))
    found = im2col.rows(images, im2col.window_of(node, (3, 2)))
    expected = np.moveaxis(run(conv, {"x": images})[0], 1, 3).reshape(-1, 6)
    np.testing.assert_allclose(found.reshape(len(found), -1) @ weight.reshape(6, -1).T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"w": (6, 4, 3, 3), "attributes": 'auto_pad = "SAME_UPPER"'}, "padding depends on the image"),
        ({"w": (6, 4, 50, 50), "attributes": "pads = [25,25,25,25]"}, "10000 inputs"),
    ],
)
def test_what_is_rounded_to_nearest_says_why(runner: WorkerRunner, changed: dict[str, Any], reason: str) -> None:
    text = f"""
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[n,4,10,10] x) => (float[a,b,c,d] y) {{ y = Conv <{changed["attributes"]}> (x, w) }}
    """
    kept = model(text, w=normal(np.random.default_rng(0), *changed["w"]))
    changes = GPTQ.apply(kept, context(runner, smooth_images(4, 1)))
    assert changes.facts["weights_rounded_again"] == 0
    assert any(reason in skip.reason for skip in changes.skipped)


def test_where_sums_may_not_saturate_weights_stay_as_scaled(runner: WorkerRunner) -> None:
    kept = model(DEEP, w=normal(np.random.default_rng(0), 6, 4, 3, 3))
    changes = GPTQ.apply(kept, context(runner, smooth_images(4, 1), "x86-avx2"))
    assert "weights_rounded_again" not in changes.facts
    assert any("16-bit sum" in skip.reason for skip in changes.skipped)
