"""Weights chosen by what they are multiplied by: as many zeros as asked for, and less lost than by magnitude."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.changes import Changes
from modelopt.core.errors import InputError
from modelopt.passes.prune_magnitude import PruneMagnitude, Scope, SparsityPattern
from modelopt.pruning.element_importance import ElementImportance
from modelopt.pruning.weights import Weight, pattern_rows
from tests.pruning.in_process_runner import lent
from tests.quant_tools import model, random_feeds, run

SECOND = {"importance": ElementImportance.SECOND_ORDER, "update": True}

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,4,6,6] x) => (float[n,5] y)
{
  a = Conv <pads = [1, 1, 1, 1]> (x, k, b)  r = Relu (a)  d = Conv <group = 8> (r, depthwise)
  p = GlobalAveragePool (d)  f = Flatten (p)  y = Gemm (f, w)
}
"""


def net(dtype: Any = np.float32) -> ir.Model:
    rng = np.random.default_rng(2)
    shapes = {"k": (8, 4, 3, 3), "b": (8,), "depthwise": (8, 1, 3, 3), "w": (8, 5)}
    return model(
        NET.replace("float[", {np.float32: "float[", np.float16: "float16["}[dtype]),
        **{name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()},
    )


def mixed_feeds(n: int = 12) -> list[dict[str, np.ndarray]]:
    """Images whose channels are of different size, and depend on each other."""
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((4, 4)) * np.array([4, 2, 1, 0.2])
    return [{"x": np.einsum("nchw,cd->ndhw", f["x"], mix).astype(np.float32)} for f in random_feeds(2, 4, 6, 6, n=n)]


def prune(subject: ir.Model, feeds: list[dict[str, np.ndarray]] | None, **options: Any) -> Changes:
    return PruneMagnitude(**{"min_elements": 1, **options}).apply(subject, lent(feeds))


def weights(subject: ir.Model) -> dict[str, np.ndarray]:
    found = {name: graph.constant(subject.graph.initializers[name]) for name in ("k", "depthwise", "w")}
    return {name: array for name, array in found.items() if array is not None}


def lost(subject: ir.Model) -> float:
    """The squared error of the outputs on samples that pruning did not see."""
    whole = net()
    feeds = mixed_feeds(20)[12:]
    return sum(float(np.square(run(whole, feed)[0] - run(subject, feed)[0]).sum()) for feed in feeds)


@pytest.mark.parametrize("scope", list(Scope))
@pytest.mark.parametrize("importance", list(ElementImportance))
@pytest.mark.parametrize("update", [False, True])
def test_exactly_as_many_zeros_as_asked_for(scope: Scope, importance: ElementImportance, update: bool) -> None:
    subject = net()
    changes = prune(subject, mixed_feeds(3), sparsity=0.37, scope=scope, importance=importance, update=update)
    zeros = {name: int((array == 0).sum()) for name, array in weights(subject).items()}
    sizes = {name: array.size for name, array in weights(subject).items()}
    if scope is Scope.GLOBAL:
        assert sum(zeros.values()) == math.floor(0.37 * sum(sizes.values()))
    else:
        assert zeros == {name: math.floor(0.37 * size) for name, size in sizes.items()}
    assert changes.facts["zeros"] == sum(zeros.values())
    assert [row.sparsity for row in changes.tensors] == [zeros[row.name] / sizes[row.name] for row in changes.tensors]


@pytest.mark.parametrize("pattern", [SparsityPattern.TWO_OF_FOUR, SparsityPattern.FOUR_OF_EIGHT])
def test_patterns_hold_after_the_update(pattern: SparsityPattern) -> None:
    subject = net()
    prune(subject, mixed_feeds(), pattern=pattern, **SECOND)
    zeros, group = {SparsityPattern.TWO_OF_FOUR: (2, 4), SparsityPattern.FOUR_OF_EIGHT: (4, 8)}[pattern]
    nodes = {node.inputs[1].name: node for node in subject.graph if len(node.inputs) > 1 and node.inputs[1] is not None}
    for name, array in weights(subject).items():
        value = subject.graph.initializers[name]
        tensor = graph.constant_tensor(value)
        assert tensor is not None
        rows = pattern_rows(array, Weight(value, tensor, nodes[name], 1))
        whole = rows.shape[1] // group * group
        assert ((rows[:, :whole].reshape(-1, group) == 0).sum(axis=1) == zeros).all()
        assert (rows[:, whole:] != 0).all()


@pytest.mark.parametrize("options", [{"sparsity": 0.5}, {"pattern": SparsityPattern.TWO_OF_FOUR}])
def test_the_update_loses_less_than_magnitude(options: dict[str, Any]) -> None:
    plain, chosen, fitted = net(), net(), net()
    prune(plain, None, **options)
    prune(chosen, mixed_feeds(), importance=ElementImportance.SECOND_ORDER, **options)
    prune(fitted, mixed_feeds(), **SECOND, **options)
    assert lost(fitted) < 0.5 * lost(plain)
    assert lost(fitted) < lost(chosen) < lost(plain)


@pytest.mark.parametrize("options", [SECOND, {"importance": ElementImportance.WANDA, "scope": Scope.ROW}])
def test_the_same_every_time_and_nothing_the_second_time(options: dict[str, Any]) -> None:
    first, second = net(), net()
    prune(first, mixed_feeds(), **options)
    prune(second, mixed_feeds(), **options)
    for name, array in weights(first).items():
        np.testing.assert_array_equal(array, weights(second)[name])
    assert prune(first, mixed_feeds(), **options).rewrites == 0


def test_random_depends_on_the_seed_alone() -> None:
    def zeros(seed: int) -> np.ndarray:
        subject = net()
        step = PruneMagnitude(min_elements=1, importance=ElementImportance.RANDOM)
        step.apply(subject, lent(None, seed))
        return np.asarray(weights(subject)["k"] == 0)

    np.testing.assert_array_equal(zeros(0), zeros(0))
    assert (zeros(0) != zeros(1)).any()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"importance": ElementImportance.WANDA}, "importance wanda needs calibration data"),
        ({"update": True}, "update needs calibration data"),
    ],
)
def test_without_data_it_is_refused_with_the_flag(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said) as caught:
        prune(net(), None, **options)
    assert "--calib" in (caught.value.hint or "")
    with pytest.raises(InputError, match="holds no sample"):
        prune(net(), [], **options)


def test_what_cannot_be_observed_is_chosen_by_magnitude() -> None:
    subject = model(
        """
        <ir_version: 8, opset_import: ["" : 17]>
        net (float[n,4] x, bool p) => (float[n,4] y)
        { z = MatMul (x, v)  y = If (p) <
            then_branch = a () => (float[n,4] q) { q = MatMul (z, w) },
            else_branch = b () => (float[n,4] o) { o = Identity (z) } > }
        """,
        v=np.where(np.eye(4) > 0, np.inf, np.arange(1, 17).reshape(4, 4)).astype(np.float32),
        w=np.arange(1, 17, dtype=np.float32).reshape(4, 4),
    )
    changes = prune(subject, [{"x": np.ones((2, 4), np.float32), "p": np.array([1], bool)[0]}], **SECOND)
    reasons = {skip.reason for skip in changes.skipped}
    assert reasons == {
        "it is chosen by magnitude: it holds infinities",
        "it is chosen by magnitude: it is inside a control-flow body or a function",
    }
    assert changes.facts["zeros"] == 16


def test_inputs_with_nan_and_masks_are_left_out() -> None:
    clean, dirty = net(), net()
    feeds = mixed_feeds()
    bad = {"x": np.full((2, 4, 6, 6), np.nan, np.float32)}
    prune(clean, feeds, **SECOND)
    prune(dirty, [*feeds, bad], **SECOND)
    assert all(np.isfinite(array).all() for array in weights(dirty).values())
    assert lost(dirty) < 2 * lost(clean)


def test_an_input_that_is_always_zero_goes_first() -> None:
    feeds = random_feeds(8, 6)
    for feed in feeds:
        feed["x"][:, 2] = 0
    text = '<ir_version: 8, opset_import: ["" : 17]> net (float[n,6] x) => (float[n,3] y) { y = MatMul (x, w) }'
    for importance in (ElementImportance.WANDA, ElementImportance.SECOND_ORDER, ElementImportance.STABILITY):
        subject = model(text, w=np.full((6, 3), 5, np.float32))
        prune(subject, feeds, sparsity=1 / 6 + 1e-9, importance=importance, update=True)
        array = graph.constant(subject.graph.initializers["w"])
        assert array is not None
        assert (array[2] == 0).all(), importance


def test_half_precision_keeps_the_number_of_zeros() -> None:
    rng = np.random.default_rng(5)
    array = (rng.standard_normal((16, 8)) * np.exp(rng.uniform(-16, 0, (16, 8)))).astype(np.float16)
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float16[n,16] x) => (float16[n,8] y) { y = MatMul (x, w) }
    """
    subject = model(text, w=array)
    feeds = [{"x": feed["x"].astype(np.float16)} for feed in random_feeds(20, 16)]
    prune(subject, feeds, sparsity=0.5, **SECOND)
    pruned = graph.constant(subject.graph.initializers["w"])
    assert pruned is not None
    assert pruned.dtype == np.float16
    assert int((pruned == 0).sum()) == max(64, int((array == 0).sum()))
