"""Pruning makes exactly the zeros that were asked for, where they were asked for, and the same ones every time."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelopt import graph
from modelopt.core.errors import InputError
from modelopt.io.compressed_size import COMPRESSOR, new_compressor
from modelopt.passes.prune_magnitude import PruneMagnitude, Scope, SparsityPattern
from modelopt.pruning import masks
from modelopt.pruning.masks import magnitude
from modelopt.pruning.weights import Weight, pattern_rows, reduction_rows
from tests.helpers import WITHOUT_RUNNER
from tests.pruning.magnitude import model_of, prune, value
from tests.runtime_tools import session

scores = hnp.arrays(np.float32, hnp.array_shapes(max_dims=3, max_side=9), elements=st.integers(0, 5).map(float))


def weight_of(model: ir.Model, name: str = "w") -> np.ndarray:
    array = graph.constant(model.graph.initializers[name])
    assert array is not None
    return array


@given(scores, st.data())
def test_smallest_masks_exactly_that_many_and_no_larger_one(values: np.ndarray, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, values.size))
    mask = masks.smallest(values, count)
    assert mask.sum() == count
    if 0 < count < values.size:
        assert values[mask].max() <= values[~mask].min()
        tied = values.reshape(-1) == values[mask].max()
        assert not np.any(np.diff(mask.reshape(-1)[tied].astype(int)) > 0)  # the lower index goes first


def test_smallest_refuses_nan() -> None:
    with pytest.raises(ValueError, match="NaN"):
        masks.smallest(np.array([1, np.nan]), 1)


@given(scores, st.sampled_from([(2, 4), (4, 8), (1, 3)]))
def test_n_of_m_holds_in_every_group_and_keeps_the_rest(values: np.ndarray, pattern: tuple[int, int]) -> None:
    zeros, group = pattern
    mask = masks.n_of_m(values, zeros, group)
    whole = values.shape[-1] // group * group
    groups = mask[..., :whole].reshape(-1, group)
    assert (groups.sum(axis=1) == zeros).all()
    assert not mask[..., whole:].any()
    for kept, each in zip(groups, values[..., :whole].reshape(-1, group), strict=True):
        assert each[kept].max() <= each[~kept].min()


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, (7, 11), elements=st.floats(-4, 4, width=32)),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([Scope.LAYER, Scope.GLOBAL]),  # a row with more zeros than its share keeps them
)
@example(np.full((7, 11), 4e-42, np.float32), 0.5, Scope.LAYER)  # whose squares are 0 in float32
def test_the_sparsity_asked_for_is_the_sparsity_there(weight: np.ndarray, sparsity: float, scope: Scope) -> None:
    model = model_of("MatMul", weight)
    changes = prune(model, sparsity=sparsity, scope=scope)
    pruned = weight_of(model)
    asked, there_before = math.floor(sparsity * weight.size), np.count_nonzero(weight == 0)
    assert np.count_nonzero(pruned == 0) == max(asked, there_before)
    kept = pruned != 0
    np.testing.assert_array_equal(pruned[kept], weight[kept])
    assert (pruned.shape, pruned.dtype) == (weight.shape, weight.dtype)
    assert changes.rewrites == (asked > there_before)
    assert changes.facts["zeros"] == max(asked, there_before)
    assert changes.facts["elements"] == weight.size
    assert prune(model, sparsity=sparsity, scope=scope).rewrites == 0


@pytest.mark.parametrize("scope", list(Scope))
def test_two_layers(scope: Scope) -> None:
    """Layer and row scope halve each; global scope takes all of the small one and none of the large one."""
    small, large = np.arange(1, 17, dtype=np.float32).reshape(4, 4), np.full((4, 4), 100, np.float32)
    model = model_of("MatMul", small)
    v = value("v", large)
    model.graph.register_initializer(v)
    last = ir.node("MatMul", [model.graph.outputs[0], v], name="last")
    last.outputs[0].name = "z"
    model.graph.append(last)
    model.graph.outputs[0] = last.outputs[0]
    prune(model, scope=scope)
    zeros = [np.count_nonzero(weight_of(model, name) == 0) for name in ("w", "v")]
    assert zeros == ([16, 0] if scope is Scope.GLOBAL else [8, 8])


OPERANDS: list[tuple[str, tuple[int, ...], dict[str, Any]]] = [
    ("Conv", (4, 9, 3, 3), {}),
    ("Conv", (6, 8, 5), {"group": 2}),
    ("ConvTranspose", (8, 3, 2, 2), {}),
    ("ConvTranspose", (16, 3, 2), {"group": 2}),
    ("MatMul", (10, 6), {}),
    ("MatMul", (2, 8, 6), {}),
    ("MatMul", (6, 8), {"index": 0}),
    ("Gemm", (8, 6), {}),
    ("Gemm", (6, 9), {"transB": 1}),
    ("Gemm", (6, 8), {"index": 0}),
    ("Gemm", (8, 6), {"index": 0, "transA": 1}),
    ("LSTM", (1, 16, 8), {"inputs": 3, "hidden_size": 4}),
    ("GRU", (2, 12, 4), {"inputs": 3, "index": 2, "hidden_size": 4}),
    ("RNN", (1, 4, 9), {"inputs": 3, "hidden_size": 4}),
]


@pytest.mark.parametrize(("op_type", "shape", "attributes"), OPERANDS)
@pytest.mark.parametrize("pattern", [SparsityPattern.TWO_OF_FOUR, SparsityPattern.FOUR_OF_EIGHT])
def test_patterns_hold_along_what_sparse_kernels_group(
    op_type: str, shape: tuple[int, ...], attributes: dict[str, Any], pattern: SparsityPattern
) -> None:
    model = model_of(op_type, np.random.default_rng(3).standard_normal(shape).astype(np.float32), **attributes)
    prune(model, pattern=pattern)
    node = model.graph[0]
    index = attributes.get("index", 1)
    tensor = graph.constant_tensor(node.inputs[index])
    assert tensor is not None
    assert node.inputs[index] is not None
    rows = pattern_rows(weight_of(model), Weight(model.graph.initializers["w"], tensor, node, index))
    zeros, group = {SparsityPattern.TWO_OF_FOUR: (2, 4), SparsityPattern.FOUR_OF_EIGHT: (4, 8)}[pattern]
    whole = rows.shape[1] // group * group
    assert ((rows[:, :whole].reshape(-1, group) == 0).sum(axis=1) == zeros).all()
    assert (rows[:, whole:] != 0).all()
    assert prune(model, pattern=pattern).rewrites == 0


def _sums(op_type: str, weight: np.ndarray, **attributes: Any) -> np.ndarray:
    """Which weights the first output sums over, as the runtime has it: a weight of ones at one place at a time."""
    model = model_of(op_type, weight, **attributes)
    shape = {"Gemm": (1, 4), "MatMul": (1, 4), "Conv": (1, 4, 1, 1), "ConvTranspose": (1, 4, 1, 1)}[op_type]
    model.graph.inputs[0].shape = ir.Shape(shape)
    return np.asarray(session(model).run(None, {model.graph.inputs[0].name or "": np.ones(shape, np.float32)})[0])


@pytest.mark.parametrize(
    ("op_type", "shape", "attributes"),
    [
        ("Conv", (3, 4, 1, 1), {}),
        ("Conv", (4, 2, 1, 1), {"group": 2}),
        ("ConvTranspose", (4, 3, 1, 1), {}),
        ("ConvTranspose", (4, 3, 1, 1), {"group": 2}),
        ("MatMul", (4, 3), {}),
        ("Gemm", (4, 3), {}),
        ("Gemm", (3, 4), {"transB": 1}),
    ],
)
def test_a_row_is_what_the_runtime_sums(op_type: str, shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    weight = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    model = model_of(op_type, weight, **attributes)
    tensor = graph.constant_tensor(model.graph.initializers["w"])
    assert tensor is not None
    rows = reduction_rows(weight, Weight(model.graph.initializers["w"], tensor, model.graph[0], 1))
    np.testing.assert_allclose(
        np.sort(rows.sum(axis=1)), np.sort(_sums(op_type, weight, **attributes).reshape(-1)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
def test_every_float_type(dtype: Any) -> None:
    weight = np.arange(-8, 8).reshape(4, 4).astype(dtype)
    model = model_of("MatMul", weight)
    assert prune(model).rewrites == 1
    pruned = weight_of(model)
    assert pruned.dtype == dtype
    assert np.count_nonzero(pruned) == 8
    assert magnitude(weight).dtype == (np.float64 if dtype == np.float64 else np.float32)


def test_nan_and_inf() -> None:
    weight = np.array([[1, np.inf], [2, 3]], np.float32)
    model = model_of("MatMul", weight)
    prune(model)
    np.testing.assert_array_equal(weight_of(model), np.array([[0, np.inf], [0, 3]], np.float32))
    weight[0, 0] = np.nan
    changes = prune(model_of("MatMul", weight))
    assert changes.rewrites == 0
    assert changes.skipped[0].reason == "it holds NaN"


def compressed(array: np.ndarray) -> int:
    stream = new_compressor()
    return len(stream.compress(array.tobytes()) + stream.flush())


def test_facts() -> None:
    weight = np.random.default_rng(5).standard_normal((64, 64)).astype(np.float32)
    model = model_of("MatMul", weight)
    facts = PruneMagnitude().apply(model, WITHOUT_RUNNER).facts
    assert facts["sparsity"] == 0.5
    assert facts["zeros"] == 2048
    assert facts["stored_bytes"] == weight.nbytes
    assert facts["compressed_with"] == COMPRESSOR
    assert facts["compressed_before_bytes"] == compressed(weight)
    assert facts["compressed_after_bytes"] == compressed(weight_of(model))
    assert "does not run faster" in str(facts["note"])
    assert all(type(fact) in {int, float, str} for fact in facts.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 1.0}, "not in"),
        ({"sparsity": 70}, "not in"),
        ({"sparsity": -0.1}, "not in"),
        ({"sparsity": math.nan}, "not in"),
        ({"sparsity": 0.3, "pattern": SparsityPattern.TWO_OF_FOUR}, "does not go with pattern 2:4"),
        ({"scope": Scope.GLOBAL, "pattern": SparsityPattern.FOUR_OF_EIGHT}, "does not go with pattern 4:8"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PruneMagnitude(**options)


def test_a_percentage_as_a_plain_number_is_told_what_it_may_mean() -> None:
    with pytest.raises(InputError) as caught:
        PruneMagnitude(sparsity=70)
    assert (
        caught.value.hint
        == "--sparsity 70% takes 70 of 100 weights or channels away; to keep 70 of 100 write --sparsity 30%"
    )


def test_tensorrt_groups_input_channels_at_each_kernel_position() -> None:
    """Not the numbers of one channel's window, which lie together in memory."""
    weight = np.random.default_rng(7).standard_normal((3, 8, 3, 2)).astype(np.float32)
    model = model_of("Conv", weight)
    assert prune(model, pattern=SparsityPattern.TWO_OF_FOUR).facts["sparsity"] == 0.5
    pruned = weight_of(model)
    for c in (0, 4):
        assert ((pruned[:, c : c + 4] == 0).sum(axis=1) == 2).all()


def test_a_first_convolution_has_too_few_channels_for_a_group() -> None:
    changes = prune(model_of("Conv", np.ones((4, 3, 3, 3), np.float32)), pattern=SparsityPattern.TWO_OF_FOUR)
    assert changes.rewrites == 0
    assert changes.skipped[0].reason == "it has fewer than 4 input channels, which a group of weights would hold"


def test_a_row_for_each_pruned_tensor() -> None:
    weight = np.arange(1, 17, dtype=np.float32).reshape(4, 4)
    (row,) = prune(model_of("MatMul", weight)).tensors
    lost = np.square(np.arange(1, 9)).sum() / np.square(weight).sum()
    assert (row.name, row.kind, row.sparsity, row.low, row.high) == ("w", "weight", 0.5, 0.0, 16.0)
    assert row.sqnr_db == pytest.approx(-10 * math.log10(lost))
