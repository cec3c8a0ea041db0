"""The campaign in small: `make pruned` runs it whole."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from modelopt import graph
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns import prunable_models, pruned
from tests.pruning.layers import SEQUENCE, layer

SEED_THAT_LEAVES_THE_LAST = next(seed for seed in range(99) if np.random.default_rng(seed).permutation(6)[-1] == 5)


def test_generated_models_equal_the_zeroed_originals(runner: WorkerRunner) -> None:
    totals: Counter[str] = Counter()
    for name, model in pruned.generated(14, seed=0):
        held = pruned.hold(model, runner, pruned.random_feeds(model, 0), share=0.5, seed=0)
        assert held.error < 1e-4, name
        totals.update(groups=held.groups, heads=held.heads, removed=held.removed, moved=held.moved > 1e-3)
    assert totals["groups"] > 40
    assert totals["heads"] > 3
    assert totals["removed"] > 100
    assert totals["moved"] > 12


def test_generated_models_without_blocks_equal_those_with_zeroed_ones(runner: WorkerRunner) -> None:
    removed = 0
    for name, model in pruned.generated(20, seed=100):
        blocks, error = pruned.hold_blocks(model, runner, pruned.random_feeds(model, 0), seed=0)
        assert error < 1e-4, name
        removed += blocks
    assert removed >= 8


@pytest.mark.parametrize("number", [np.inf, np.nan])
@pytest.mark.parametrize("name", ["w", "v"])
def test_channels_that_hold_no_finite_numbers(name: str, number: float, runner: WorkerRunner) -> None:
    """Without such a channel the outputs are what the others give; only what is left may be no number."""
    model = layer("m = MatMul (x, w)  a = Relu (m)  y = MatMul (a, v)", (6,), x=SEQUENCE, w=(4, 6), v=(6, 2)).model()
    weights = np.array(graph.constant(model.graph.initializers[name]))
    weights[(slice(None), slice(5)) if name == "w" else slice(5)] = number
    graph.set_constant(model.graph.initializers[name], weights)
    held = pruned.hold(model, runner, pruned.random_feeds(model, 0), share=0.99, seed=SEED_THAT_LEAVES_THE_LAST)
    assert held.removed == 5
    assert held.error < 1e-5


def test_a_seed_is_a_model() -> None:
    assert prunable_models.model(5) == prunable_models.model(5)
    assert prunable_models.model(5) != prunable_models.model(6)
