"""The merge passes on random chains of one operator: the outputs stay, and a second run changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.fusion_tools import apply, assert_fuses, feed, float_model, operators, run


def links(count: int) -> list[tuple[str, str]]:
    """The names of the input and the output of each node in a chain from x to y."""
    names = ["x", *(f"v{index}" for index in range(1, count)), "y"]
    return list(itertools.pairwise(names))


def assert_same_bits(name: str, model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> ir.Model:
    """The pass `name` changes no bit of the outputs, and a second run changes nothing."""
    merged = ir.from_proto(model)
    apply(name, merged)
    assert apply(name, merged).rewrites == 0
    np.testing.assert_array_equal(run(merged, feeds)[0], run(ir.from_proto(model), feeds)[0])
    return merged


# merge-transpose, merge-cast, merge-reshape


@settings(max_examples=60, deadline=None)
@given(st.lists(st.permutations(range(3)), min_size=2, max_size=5))
def test_transposes(perms: list[list[int]]) -> None:
    names = [*(f"t{index}" for index in range(len(perms))), "y"]
    nodes = [helper.make_node("Relu", ["x"], ["t0"])]
    nodes += [
        helper.make_node("Transpose", [names[index]], [f"t{index + 1}"], perm=perm) for index, perm in enumerate(perms)
    ]
    nodes.append(helper.make_node("Neg", [f"t{len(perms)}"], ["y"]))
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 12}
    merged = assert_same_bits("merge-transpose", float_model(nodes, {}, 3), feeds)
    assert operators(merged).count("Transpose") <= 1


CAST_TYPES = (1, 2, 3, 5, 6, 7, 9, 10, 11, 12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(CAST_TYPES), min_size=3, max_size=4),
    st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=8),
)
def test_casts(types: list[int], numbers: list[int]) -> None:
    """Merged, the same bits come out, also where integers wrap; other floats than small ones are a matter of luck."""
    small = any(kind in {1, 10, 11} for kind in types)
    values = np.array([number % 2 if small else number for number in numbers], np.int64)
    nodes = [
        helper.make_node("Cast", [source], [target], to=kind)
        for (source, target), kind in zip(links(len(types) - 1), types[1:], strict=True)
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", types[0], [None])],
        [helper.make_tensor_value_info("y", types[-1], [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert_same_bits("merge-cast", model, {"x": values.astype(helper.tensor_dtype_to_np_dtype(types[0]))})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from([(24,), (2, 12), (4, 6), (1, 24), (2, 3, 4), (-1, 2), (0, -1), (3, 0, -1), (2, 0, 3)]),
        min_size=2,
        max_size=5,
    )
)
def test_reshapes(shapes: list[tuple[int, ...]]) -> None:
    """Whatever onnxruntime accepts before, it accepts after, with the same outcome."""
    weights = {f"s{index}": np.array(shape, np.int64) for index, shape in enumerate(shapes)}
    names = ["x", *(f"r{index}" for index in range(len(shapes)))]
    nodes = [
        helper.make_node("Reshape", [names[index], f"s{index}"], [names[index + 1]]) for index in range(len(shapes))
    ]
    nodes.append(helper.make_node("Neg", [names[-1]], ["y"]))
    model = float_model(nodes, weights, 2)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    feeds = {"x": np.arange(24, dtype=np.float32).reshape(4, 6)}
    try:
        run(ir.from_proto(model), feeds)
    except Exception:  # noqa: BLE001 (onnxruntime has an exception type for each way a shape can be wrong)
        assume(condition=False)
    assert_same_bits("merge-reshape", model, feeds)


# merge-clip

BOUND = st.sampled_from([None, -2.0, -1.0, 0.0, 0.5, 1.0, 6.0])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), BOUND, BOUND), min_size=2, max_size=4), st.sampled_from([6, 10, 11, 13, 18]))
def test_clips(chain: list[tuple[bool, float | None, float | None]], opset: int) -> None:
    """Bit for bit, for infinite and undefined numbers too."""
    ordered = all(relu or low is None or high is None or low <= high for relu, low, high in chain)
    assume(opset >= 11 or ordered)  # onnxruntime refuses the attributes otherwise
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for index, ((source, target), (relu, low, high)) in enumerate(zip(links(len(chain)), chain, strict=True)):
        if relu:
            nodes.append(helper.make_node("Relu", [source], [target]))
            continue
        inputs = [source]
        attributes: dict[str, Any] = {}
        for name, bound in (("min", low), ("max", high)):
            if bound is not None and opset < 11:
                attributes[name] = bound
            elif bound is not None:
                weights[f"{name}{index}"] = np.array(bound, np.float32)
            if opset >= 11:
                inputs.append("" if bound is None else f"{name}{index}")
        nodes.append(helper.make_node("Clip", inputs, [target], **attributes))
    model = float_model(nodes, weights, 1, opset=opset)
    values = np.array([-np.inf, -3, -1.5, -0.5, -0.0, 0, 0.25, 0.75, 3, 7, np.inf, np.nan], np.float32)
    assert_same_bits("merge-clip", model, {"x": values})


# merge-concat, merge-slice


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(-3, 2),
            st.integers(-9, 9),
            st.sampled_from([-9, -1, 0, 1, 3, 5, 9, 2**31 - 1, 2**63 - 1]),
            st.sampled_from([1, 1, 1, 2, -1]),
        ),
        min_size=2,
        max_size=4,
    ),
    st.booleans(),
)
def test_slices(cuts: list[tuple[int, int, int, int]], old: bool) -> None:
    weights: dict[str, np.ndarray] = {}
    nodes = []
    for index, ((source, target), cut) in enumerate(zip(links(len(cuts)), cuts, strict=True)):
        axis, start, end, step = cut
        if old:
            nodes.append(helper.make_node("Slice", [source], [target], axes=[axis % 3], starts=[start], ends=[end]))
            continue
        named = {f"{name}{index}": [number] for name, number in (("s", start), ("e", end), ("a", axis), ("t", step))}
        weights |= {name: np.array(number, np.int64) for name, number in named.items()}
        nodes.append(helper.make_node("Slice", [source, *named], [target]))
    model = float_model(nodes, weights, 3, opset=9 if old else 17)
    feeds = {"x": np.arange(7 * 6 * 5, dtype=np.float32).reshape(7, 6, 5)}
    assert_same_bits("merge-slice", model, feeds)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 2), st.integers(0, 2)), min_size=2, max_size=5))
def test_concats(chain: list[tuple[int, int]]) -> None:
    """Nested in any position, along any axis."""
    nodes = []
    for (source, target), (axis, position) in zip(links(len(chain)), chain, strict=True):
        nodes.append(helper.make_node("Tanh", [source], [f"t_{target}"]))
        parts = [f"t_{target}"] * 2
        parts.insert(position, source)
        nodes.append(helper.make_node("Concat", parts, [target], axis=axis))
    model = float_model(nodes, {}, 3)
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    assert_same_bits("merge-concat", model, feeds)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_nested_concats_become_one(axis: int) -> None:
    rng = np.random.default_rng(11)
    nodes = [helper.make_node("Neg", ["x"], ["v0"])]
    nodes += [helper.make_node("Concat", ["x", f"v{i}", "x"], [f"v{i + 1}"], axis=axis) for i in range(4)]
    nodes[-1].output[0] = "y"
    fused = assert_fuses(float_model(nodes, {}, 2), feed(rng, 3, 4), "merge-concat", 3)
    assert operators(fused) == ["Neg", "Concat"]


@pytest.mark.parametrize(("opset", "cuts"), [(9, (2, 5)), (11, (3,)), (17, (1, 2, 3))])
def test_parts_put_together(opset: int, cuts: tuple[int, ...]) -> None:
    """Split and Slice, then Concat of all parts."""
    rng = np.random.default_rng(12)
    bounds = [0, *cuts, 2**31 - 1]
    weights: dict[str, np.ndarray] = {}
    nodes = [helper.make_node("Neg", ["x"], ["n"])]
    names = [f"p{index}" for index in range(len(bounds) - 1)]
    for name, start, end in zip(names, bounds[:-1], bounds[1:], strict=True):
        if opset < 10:
            nodes.append(helper.make_node("Slice", ["n"], [name], starts=[start], ends=[end], axes=[1]))
            continue
        weights |= {f"{name}s": np.array([start], np.int64), f"{name}e": np.array([end], np.int64)}
        weights["one"] = np.array([1], np.int64)
        nodes.append(helper.make_node("Slice", ["n", f"{name}s", f"{name}e", "one"], [name]))
    nodes += [helper.make_node("Concat", names, ["c"], axis=1), helper.make_node("Split", ["c"], ["h1", "h2"], axis=1)]
    nodes += [helper.make_node("Concat", ["h1", "h2"], ["j"], axis=1), helper.make_node("Neg", ["j"], ["y"])]
    fused = assert_fuses(float_model(nodes, weights, 2, opset=opset), feed(rng, 3, 8), "merge-concat", 2)
    assert operators(fused) == ["Neg", "Neg"]
    assert not fused.graph.initializers
