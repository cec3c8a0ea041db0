"""What a repair costs: no node runs again without need, and memory does not grow with the number of layers."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.passes.prune_channels import PruneChannels
from modelopt.pruning.kept_arrays import KeptArrays
from modelopt.pruning.normalization_sums import NormalizationSums
from modelopt.runtime.worker_runner import WorkerRunner
from tests.pruning.repair_tools import error, feeds, pruned, weights
from tests.quant_tools import context, model


def chain(layers: int, width: int = 16) -> ir.Model:
    """Products one behind another."""
    nodes = [f"a{i} = MatMul({f'b{i - 1}' if i else 'x'}, w{i})  b{i} = Tanh(a{i})" for i in range(layers)]
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,{width}] x) => (float[N,{width}] y) {{ {" ".join(nodes)}  y = Identity(b{layers - 1}) }}"""
    arrays = weights(*[(width, width)] * layers)
    return model(text, **{f"w{i}": array for i, array in enumerate(arrays)})


class Counting(WorkerRunner):
    """Counts the nodes that run."""

    nodes = 0

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        self.nodes += sum(node.op_type != "Constant" for node in model.graph)
        return super().run(model, feeds, outputs)


def test_a_repair_runs_each_node_a_few_times_however_many_layers_there_are() -> None:
    layers, runner = 24, Counting()
    try:
        pruned(chain(layers), context(runner, feeds((16,), 8)), sparsity=0.25, repair=True)
    finally:
        runner.close()
    nodes = 2 * layers
    assert 2 * nodes < runner.nodes < 5 * nodes  # once in the original, and in the pruned model as it was and is


def test_what_later_layers_read_is_what_is_repaired(runner: WorkerRunner) -> None:
    original, unseen = chain(6), feeds((16,), 8, seed=5)
    ctx = context(runner, feeds((16,), 40))
    errors = [
        error(original, pruned(original, ctx, sparsity=0.25, repair=True, repair_depth=depth), unseen)
        for depth in (1, 3, None)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.7 * error(original, pruned(original, ctx, sparsity=0.25), unseen)


def test_a_repair_goes_no_deeper_than_asked(runner: WorkerRunner) -> None:
    original = chain(5)
    only = {"include": ("MatMul_0",), "sparsity": 0.5}
    for number, node in enumerate(original.graph):
        node.name = f"{node.op_type}_{number // 2}"
    ctx = context(runner, feeds((16,), 8))
    plain, repaired = (
        pruned(original, ctx, **only, repair=repair, repair_depth=1 if repair else None) for repair in (False, True)
    )
    same = [
        np.array_equal(*(graph.constant(each.graph.initializers[f"w{i}"]) for each in (plain, repaired)))  # type: ignore[arg-type]
        for i in range(5)
    ]
    assert same == [True, False, True, True, True]
    with pytest.raises(InputError, match="repair_depth 0"):
        PruneChannels(repair_depth=0)


def test_the_sums_of_a_layer_go_when_it_is_repaired(runner: WorkerRunner) -> None:
    peaks = []
    for layers in (3, 18):
        original, ctx = chain(layers, 128), replace(context(runner, feeds((128,), 8)), seed=0)
        tracemalloc.start()
        PruneChannels(sparsity=0.25, repair=True).apply(original, ctx)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    stored = 128 * 128 * 4 * 15  # the weights of the other layers
    assert peaks[1] - peaks[0] < 4 * stored


@pytest.mark.parametrize("array", [np.float32(2.5), np.arange(6).reshape(2, 3).T, np.zeros((0, 2), bool)])
def test_arrays_come_back_as_they_were(tmp_path: Path, array: np.ndarray) -> None:
    kept = KeptArrays(tmp_path)
    kept.put("a/b", 3, np.asarray(array))
    found = kept.get("a/b", 3)
    assert found.shape == np.shape(array)
    assert found.dtype == np.asarray(array).dtype
    np.testing.assert_array_equal(found, array)
    kept.drop("a/b")
    assert "a/b" not in kept
    assert not list(tmp_path.iterdir())


def test_a_normalization_is_not_made_to_repeat_what_is_wrong_in_its_input() -> None:
    """Half of what it reads is wrong: with the deviation that the whole had, that half would grow. Means come back."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[N,4] x) => (float[N,4] y) { y = BatchNormalization(x, scale, shift, mean, var) }"""
    zeros, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    made = model(text, scale=ones, shift=zeros, mean=zeros, var=ones)
    (node,) = made.graph
    sums, rng = NormalizationSums(node, 0, 16), np.random.default_rng(3)
    shift = np.array([0, 1, -2, 3], np.float32)
    for index in range(16):
        common, wrong, gone = rng.normal(size=(3, 200, 4)).astype(np.float32)
        sums.observe(sums.rows_wanted(common + gone + shift, index), {"y": common + wrong}, index)
    assert sums.apply(graph.NameSource(made))
    scale, added = (graph.constant(made.graph.initializers[name]) for name in ("scale", "shift"))
    assert scale is not None
    assert added is not None
    np.testing.assert_array_equal(scale, ones)
    np.testing.assert_allclose(added, shift, atol=0.1)
