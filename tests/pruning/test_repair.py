"""Repair in closed form is exact where it can be, never worse on held-out samples, and refuses what it cannot do."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.io import serialize
from modelopt.passes.prune_channels import PruneChannels
from modelopt.pruning.block_elimination import EliminatedLayer, elimination_costs
from modelopt.pruning.ridge import FOLDS, ResidualSums
from modelopt.runtime.worker_runner import WorkerRunner
from tests.pruning.repair_tools import error, feeds, pruned, weights
from tests.quant_tools import context, model
from tests.runtime_tools import session

CONVOLUTIONS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3,9,9] x) => (float[N,4] y) {
  a = Conv<pads=[1,1,1,1]>(x, w1, b1)
  b = Relu(a)
  c = Conv<pads=[1,1,1,1], group=16>(b, w2, b2)
  d = Relu(c)
  e = Conv(d, w3)
  f = Relu(e)
  p = GlobalAveragePool(f)
  q = Flatten(p)
  y = Gemm<transB=1, alpha=0.5, beta=2.0>(q, w4, b4)
}
"""
PRODUCTS = """
<ir_version: 8, opset_import: ["" : 17]>
g (float[N,5,6] x) => (float[N,5,3] y) {
  a = MatMul(x, w1)
  b = Relu(a)
  c = MatMul(b, w2)
  y = Add(b2, c)
}
"""


def convolutions() -> ir.Model:
    names = ("w1", "b1", "w2", "b2", "w3", "w4", "b4")
    shapes = ((16, 3, 3, 3), (16,), (16, 1, 3, 3), (16,), (8, 16, 3, 3), (4, 8), (4,))
    return model(CONVOLUTIONS, **dict(zip(names, weights(*shapes), strict=True)))


def products(copies: bool = False) -> ir.Model:
    """With `copies` the last four channels of the hidden layer are sums of others' copies."""
    w1, w2, b2 = weights((6, 12), (12, 3), (3,))
    if copies:
        w1[:, 8:] = w1[:, :4]
    return model(PRODUCTS, w1=w1, w2=w2, b2=b2)


def test_a_correction_finds_what_is_linear_in_the_inputs() -> None:
    rng = np.random.default_rng(0)
    sums = ResidualSums(1, 6, 2)
    true, shift = rng.normal(size=(6, 2)), np.array([3.0, -1.0])
    for fold in range(FOLDS):
        inputs = rng.normal(size=(40, 6)) + 5
        sums.observe(inputs[:, None], (inputs @ true + shift)[:, None], fold)
    found = sums.correction(intercept=True)
    assert found is not None
    np.testing.assert_allclose(found.matrix[0], true, atol=1e-4)
    np.testing.assert_allclose(found.bias[0], shift, atol=1e-3)


def test_noise_gets_no_correction() -> None:
    rng = np.random.default_rng(1)
    sums = ResidualSums(1, 30, 3)
    for fold in range(FOLDS):
        missing = rng.normal(size=(8, 3))
        sums.observe(rng.normal(size=(8, 1, 30)), (missing - missing.mean(0))[:, None], fold)
    found = sums.correction(intercept=False)
    assert found is None or np.abs(found.matrix).max() < 0.1


def test_one_fold_alone_is_not_fitted() -> None:
    sums = ResidualSums(1, 2, 1)
    sums.observe(np.ones((9, 1, 2)), np.ones((9, 1, 1)), 0)
    assert sums.correction(intercept=True) is None


def test_channels_that_are_copies_of_others_cost_nothing_once() -> None:
    rng = np.random.default_rng(2)
    inputs = rng.normal(size=(200, 6))
    inputs[:, 5] = inputs[:, 0]
    layer = EliminatedLayer(rng.normal(size=(6, 4)), inputs.T @ inputs, [np.array([index]) for index in range(6)])
    costs = elimination_costs([layer])
    first = int(np.argmin(costs))
    assert first in {0, 5}
    assert costs[first] < 0.2 * np.sort(costs)[1]
    assert costs[5 - first] >= np.sort(costs)[1]


def test_copies_are_removed_without_any_error(runner: WorkerRunner) -> None:
    original = products(copies=True)
    ctx = context(runner, feeds((5, 6), 12))
    after = pruned(original, ctx, importance="second-order", repair=True, sparsity=1 / 3)
    assert graph.constant(after.graph.initializers["w1"]).shape == (6, 8)  # type: ignore[union-attr]
    unseen = feeds((5, 6), 4, seed=9)
    plain = pruned(original, ctx, importance="second-order", sparsity=1 / 3)
    assert error(original, after, unseen) < 1e-6 < 1e-3 < error(original, plain, unseen)


@pytest.mark.parametrize("importance", ["l1", "stability", "second-order"])
def test_repair_helps_on_samples_that_it_has_not_seen(runner: WorkerRunner, importance: str) -> None:
    original, ctx = convolutions(), context(runner, feeds((3, 9, 9), 16))
    unseen = feeds((3, 9, 9), 6, seed=5)
    plain = pruned(original, ctx, importance=importance, sparsity=0.4)
    repaired = pruned(original, ctx, importance=importance, sparsity=0.4, repair=True)
    assert error(original, repaired, unseen) < 0.5 * error(original, plain, unseen)


def test_the_same_seed_gives_the_same_bytes(runner: WorkerRunner) -> None:
    original, ctx = convolutions(), context(runner, feeds((3, 9, 9), 8))
    first, second = (
        serialize.to_bytes(pruned(original, ctx, importance="wanda", repair=True, sparsity=0.4)) for _ in range(2)
    )
    assert first == second
    others = pruned(original, replace(ctx, seed=1), importance="random", sparsity=0.4)
    assert serialize.to_bytes(others) != serialize.to_bytes(pruned(original, ctx, importance="random", sparsity=0.4))


def test_a_normalization_behind_an_activation_keeps_its_means(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,9,9] x) => (float[N,8,7,7] y) {
      a = Conv<pads=[1,1,1,1]>(x, w1)
      b = Relu(a)
      c = ConvTranspose<pads=[2,2,2,2]>(b, w2)
      d = Relu(c)
      y = BatchNormalization(d, scale, shift, mean, var)
    }
    """
    w1, w2, scale, shift, mean = weights((16, 3, 3, 3), (16, 8, 3, 3), (8,), (8,), (8,))
    arrays = {"w1": w1, "w2": w2, "scale": scale + 2, "shift": shift, "mean": mean, "var": np.ones(8, np.float32)}
    original, ctx = model(text, **arrays), context(runner, feeds((3, 9, 9), 16))
    plain, repaired = (pruned(original, ctx, sparsity=0.5, repair=repair) for repair in (False, True))
    unseen = feeds((3, 9, 9), 8, seed=5)
    means = [
        np.mean([session(each).run(None, x)[0].mean((0, 2, 3)) for x in unseen], 0)
        for each in (original, plain, repaired)
    ]
    assert np.abs(means[2] - means[0]).max() < 0.3 * np.abs(means[1] - means[0]).max()


def test_a_target_in_macs_is_kept(runner: WorkerRunner) -> None:
    original = convolutions()
    changes = PruneChannels(macs=0.6).apply(original, context(runner))
    before, after = changes.facts["macs_before"], changes.facts["macs_after"]
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert 0.5 * before < after <= 0.6 * before
    again = PruneChannels(macs=1.0).apply(original, context(runner)).facts  # counted anew, from the smaller shapes
    assert again["macs_before"] == after


def test_widths_are_multiples_where_asked(runner: WorkerRunner) -> None:
    original = convolutions()
    PruneChannels(sparsity=0.4, align=8).apply(original, context(runner))
    assert [graph.constant(original.graph.initializers[name]).shape[0] for name in ("w1", "w3")] == [16, 8]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"repair": True}, "repair needs calibration data"),
        ({"importance": "wanda"}, "importance wanda needs calibration data"),
        ({"importance": "second-order"}, "importance second-order needs calibration data"),
        ({"macs": 0.001}, "macs 0.001 cannot be reached"),
    ],
)
def test_what_cannot_be_done_is_refused(runner: WorkerRunner, options: dict[str, object], fact: str) -> None:
    original = convolutions()
    before = serialize.to_bytes(original)
    with pytest.raises(InputError, match=fact) as refused:
        PruneChannels(**options).apply(original, context(runner))  # type: ignore[arg-type]
    assert refused.value.hint is not None
    assert serialize.to_bytes(original) == before


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"importance": "wand"}, "importance 'wand' is not known"),
        ({"macs": 70.0}, "macs 70.0 is not in"),
        ({"align": 0}, "align 0 is no multiple"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, object], fact: str) -> None:
    with pytest.raises(InputError, match=fact):
        PruneChannels(**options)  # type: ignore[arg-type]
