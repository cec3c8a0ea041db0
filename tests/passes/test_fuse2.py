"""The second set of fusion passes keeps what a model computes, on random instances of each pattern."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.passes.test_fuse import PLACES, TRUE, apply, assert_fuses, model_of, run


def floats(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


def feed(rng: np.random.Generator, *shape: int, place: dict[str, bool] | None = None) -> dict[str, np.ndarray]:
    return {"x": floats(rng, *shape)} | ({"p": TRUE} if (place or {}).get("in_branch") else {})


def types(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def rewrites(name: str, model: onnx.ModelProto) -> int:
    return apply(name, ir.from_proto(model)).rewrites


# fuse-conv-branches

KERNELS = [((3, 3), (1, 1)), ((3, 3), (3, 3)), ((5, 3), (3, 1)), ((3, 3), (2, 2)), ((1, 1), (1, 1))]


@pytest.mark.parametrize(("group", "stride", "dilation"), list(itertools.product([1, 4], [1, 2], [1, 2])))
@pytest.mark.parametrize(("large", "small"), KERNELS)
@pytest.mark.parametrize("swapped", [False, True])
def test_two_convolutions(
    group: int, stride: int, dilation: int, large: tuple[int, int], small: tuple[int, int], swapped: bool
) -> None:
    """The smaller kernel lies one tap from the begin of the larger, or at it."""
    rng = np.random.default_rng(1)
    spare = [big - little for big, little in zip(large, small, strict=True)]
    offset = [min(1, taps) for taps in spare]
    pads = [dilation * taps + 1 for taps in offset] + [2 * dilation + 1] * 2
    inner = [1, 1, *(pads[2 + axis] - dilation * (spare[axis] - offset[axis]) for axis in range(2))]
    weights = {"w1": floats(rng, 8, 8 // group, *large), "w2": floats(rng, 8, 8 // group, *small), "b2": floats(rng, 8)}
    same: dict[str, Any] = {"group": group, "strides": [stride] * 2, "dilations": [dilation] * 2}
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], pads=pads, **same),
        helper.make_node("Conv", ["x", "w2", "b2"], ["c2"], pads=inner, **same),
        helper.make_node("Add", ["c2", "c1"] if swapped else ["c1", "c2"], ["y"]),
    ]
    fused = assert_fuses(model_of(nodes, weights, 4), feed(rng, 2, 8, 11, 12), "fuse-conv-branches", 1)
    assert types(fused) == ["Conv"]
    assert len(fused.graph.initializers) == 2


@pytest.mark.parametrize(("dims", "group"), list(itertools.product([1, 2, 3], [1, 2, 4])))
@pytest.mark.parametrize("branch", ["identity", "BatchNormalization", "Mul", "Div", "Sub"])
def test_identity_branches(dims: int, group: int, branch: str) -> None:
    rng = np.random.default_rng(2)
    weights = {"w": floats(rng, 4, 4 // group, *[3] * dims), "b": floats(rng, 4)}
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 2 * dims, group=group)]
    if branch == "BatchNormalization":
        weights |= {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "stmv"}
        nodes.append(helper.make_node(branch, ["x", *"stmv"], ["d"]))
    elif branch != "identity":
        weights["k"] = rng.uniform(0.5, 2, (4, *[1] * dims)).astype(np.float32)
        nodes.append(helper.make_node(branch, ["x", "k"], ["d"]))
    nodes.append(helper.make_node("Sum", ["x" if branch == "identity" else "d", "c"], ["y"]))
    model = model_of(nodes, weights, dims + 2)
    fused = assert_fuses(model, feed(rng, 2, 4, *[5] * dims), "fuse-conv-branches", 1)
    assert types(fused) == ["Conv"]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_block_with_three_branches(place: dict[str, bool]) -> None:
    """RepVGG: 3×3, 1×1 and identity, each with a normalization, wherever the weights are."""
    rng = np.random.default_rng(3)
    weights = {"w3": floats(rng, 4, 4, 3, 3), "w1": floats(rng, 4, 4, 1, 1)}
    weights |= {name: rng.uniform(0.5, 2, 4).astype(np.float32) for name in "stmv"}
    nodes = [
        helper.make_node("Conv", ["x", "w3"], ["c3"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["c3", *"stmv"], ["n3"]),
        helper.make_node("Conv", ["x", "w1"], ["c1"]),
        helper.make_node("BatchNormalization", ["c1", *"stmv"], ["n1"]),
        helper.make_node("BatchNormalization", ["x", *"stmv"], ["n0"]),
        helper.make_node("Add", ["n0", "n1"], ["a"]),
        helper.make_node("Add", ["n3", "a"], ["y"]),
    ]
    model = model_of(nodes, weights, 4, **place)
    fused = ir.from_proto(model)
    assert apply("fuse-conv-bn", fused).rewrites == 2
    assert apply("fuse-conv-branches", fused).rewrites == 2
    assert apply("fuse-conv-branches", fused).rewrites == 0
    feeds = feed(rng, 2, 4, 6, 5, place=place)
    np.testing.assert_allclose(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"kernel": (1, 3), "pads": [0, 1, 0, 1]}, {"kernel": (3, 1), "pads": [1, 0, 1, 0]}),
        ({"kernel": (3, 3), "pads": [1] * 4, "strides": [2, 2]}, {"kernel": (1, 1), "pads": [0] * 4}),
        ({"kernel": (3, 3), "pads": [1] * 4}, {"kernel": (3, 3), "pads": [2] * 4, "dilations": [2, 2]}),
        ({"kernel": (3, 3), "auto_pad": "SAME_UPPER"}, {"kernel": (1, 1)}),
    ],
)
def test_branches_that_do_not_fit(first: dict[str, Any], second: dict[str, Any]) -> None:
    rng = np.random.default_rng(4)
    weights, nodes = {}, []
    for name, branch in (("1", dict(first)), ("2", dict(second))):
        weights[f"w{name}"] = floats(rng, 2, 2, *branch.pop("kernel"))
        nodes.append(helper.make_node("Conv", ["x", f"w{name}"], [f"c{name}"], **branch))
    nodes.append(helper.make_node("Add", ["c1", "c2"], ["y"]))
    assert rewrites("fuse-conv-branches", model_of(nodes, weights, 4)) == 0


# fuse-padded-affine


@pytest.mark.parametrize(("group", "scalar", "div", "sub"), list(itertools.product([1, 4], *[[False, True]] * 3)))
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_padded_affine(group: int, scalar: bool, div: bool, sub: bool, place: dict[str, bool]) -> None:
    rng = np.random.default_rng(5)
    shape = () if scalar else (4, 1, 1)
    weights = {"w": floats(rng, 4, 4 // group, 3, 3)}
    weights |= {name: np.array(rng.uniform(0.5, 2, shape), np.float32) for name in "as"}
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Div" if div else "Mul", ["r", "a"], ["m"]),
        helper.make_node("Sub" if sub else "Add", ["m", "s"], ["n"]),
        helper.make_node("Conv", ["n", "w"], ["y"], pads=[1] * 4, group=group),
    ]
    model = model_of(nodes, weights, 4, **place)
    assert_fuses(model, feed(rng, 2, 4, 5, 6, place=place), "fuse-padded-affine", 1)


# fuse-pad


@pytest.mark.parametrize(("op", "opset"), list(itertools.product(["Conv", "MaxPool", "AveragePool"], [9, 12, 17, 18])))
@pytest.mark.parametrize("own", [0, 1])
def test_pad(op: str, opset: int, own: int) -> None:
    """Asymmetric, behind Relu, with the operator's own padding beside it."""
    rng = np.random.default_rng(6)
    pads = [0, 0, 1, 0, 0, 0, 0, 1]
    weights: dict[str, np.ndarray] = {"w": floats(rng, 3, 2, 3, 3)} if op == "Conv" else {}
    nodes = [helper.make_node("Relu", ["x"], ["r"])]
    if opset < 11:
        nodes.append(helper.make_node("Pad", ["r"], ["d"], pads=pads))
    else:
        weights["p1"] = np.array(pads, np.int64)
        nodes.append(helper.make_node("Pad", ["r", "p1"], ["d"]))
    more: dict[str, Any] = {"count_include_pad": 1} if op == "AveragePool" else {}
    nodes.append(
        helper.make_node(
            op, ["d", *weights][: 2 if op == "Conv" else 1], ["y"], kernel_shape=[3, 3], pads=[own] * 4, **more
        )
    )
    fused = assert_fuses(model_of(nodes, weights, 4, opset=opset), feed(rng, 2, 2, 5, 6), "fuse-pad", 1)
    assert types(fused) == ["Relu", op]


# sink-transpose


@settings(max_examples=100, deadline=None)
@given(
    st.permutations(range(4)),
    st.lists(
        st.sampled_from(["Relu", "Mul", "Add", "Sub", "Square", "Softmax", "keep", "drop"]), min_size=1, max_size=5
    ),
    st.sampled_from([13, 18]),
    st.integers(0, 2**16),
)
def test_transposes(perm: list[int], chain: list[str], opset: int, seed: int) -> None:
    """Any chain between a Transpose and the one that undoes it on the axes that are left."""
    rng = np.random.default_rng(seed)
    nodes = [helper.make_node("Transpose", ["x"], ["v"], perm=perm)]
    weights: dict[str, np.ndarray] = {}
    left, value = list(perm), "v"
    dims = dict(enumerate((2, 3, 4, 5)))
    for index, kind in enumerate(chain):
        target, shape = f"t{index}", [dims[axis] for axis in left]
        if kind in {"Relu", "Softmax"}:
            more: dict[str, Any] = {"axis": int(rng.integers(-len(left), len(left)))} if kind == "Softmax" else {}
            nodes.append(helper.make_node(kind, [value], [target], **more))
        elif kind == "Square":
            nodes.append(helper.make_node("Mul", [value, value], [target]))
        elif kind in {"keep", "drop"}:
            if len(left) < 3:
                continue
            axis = int(rng.integers(0, len(left)))
            weights[f"k{index}"] = np.array([axis - len(left)], np.int64)
            nodes.append(helper.make_node("ReduceSum", [value, f"k{index}"], [target], keepdims=int(kind == "keep")))
            dims[left[axis]] = 1
            if kind == "drop":
                del left[axis]
        else:
            kept = [size if rng.integers(2) else 1 for size in shape][int(rng.integers(0, len(shape))) :]
            weights[f"k{index}"] = floats(rng, *kept)
            nodes.append(helper.make_node(kind, [value, f"k{index}"][:: 1 if rng.integers(2) else -1], [target]))
        value = target
    back = [int(axis) for axis in np.argsort(left)]
    nodes.append(helper.make_node("Transpose", [value], ["y"], perm=back))
    model = model_of(nodes, weights, 4, opset=opset)
    del model.graph.output[0].type.tensor_type.shape.dim[len(left) :]
    if value == "v" or perm == sorted(perm):  # what keeps the order is for eliminate-identity
        return
    fused = assert_fuses(model, feed(rng, 2, 3, 4, 5), "sink-transpose", 1)
    assert "Transpose" not in types(fused) or left == sorted(left)


# fuse-gemm-bn, fuse-gemm-gemm


@pytest.mark.parametrize(("transposed", "bias", "alpha"), list(itertools.product([0, 1], [False, True], [1.0, 0.5])))
@pytest.mark.parametrize("tail", ["BatchNormalization", "Mul", "Add", "Sub", "Div"])
def test_gemm_bn(transposed: int, bias: bool, alpha: float, tail: str) -> None:
    rng = np.random.default_rng(7)
    weights = {"w": floats(rng, 5, 4) if transposed else floats(rng, 4, 5)} | ({"b": floats(rng, 5)} if bias else {})
    nodes = [helper.make_node("Gemm", ["x", *weights], ["g"], transB=transposed, alpha=alpha, beta=0.5)]
    names = "stmv" if tail == "BatchNormalization" else "k"
    weights |= {name: rng.uniform(0.5, 2, 5).astype(np.float32) for name in names}
    nodes.append(helper.make_node(tail, ["g", *names], ["y"]))
    fused = assert_fuses(model_of(nodes, weights, 2), feed(rng, 3, 4), "fuse-gemm-bn", 1)
    assert types(fused) in (["Gemm"], ["MatMul"])


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_matmul_scaled(rank: int, place: dict[str, bool]) -> None:
    rng = np.random.default_rng(8)
    weights = {"w": floats(rng, 4, 5), "k": floats(rng, 5), "one": np.array(0.25, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Mul", ["k", "m"], ["n"]),
        helper.make_node("Div", ["n", "one"], ["y"]),
    ]
    feeds = feed(rng, *[2] * (rank - 1), 4, place=place)
    assert_fuses(model_of(nodes, weights, rank, **place), feeds, "fuse-gemm-bn", 2)


@pytest.mark.parametrize(("first", "second"), list(itertools.product(["Gemm", "MatMul"], repeat=2)))
@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("place", PLACES, ids=str)
def test_gemm_gemm(first: str, second: str, transposed: int, place: dict[str, bool]) -> None:
    rng = np.random.default_rng(9)
    weights, nodes = {}, []
    for index, (op, shape) in enumerate(((first, (4, 8)), (second, (8, 3)))):
        is_gemm = op == "Gemm"
        weights[f"w{index}"] = floats(rng, *(reversed(shape) if is_gemm and transposed else shape))
        weights[f"b{index}"] = floats(rng, shape[1])
        inputs = [["x", "h"][index], f"w{index}", *([f"b{index}"] if is_gemm else [])]
        attributes: dict[str, Any] = {"transB": transposed, "alpha": 0.5} if is_gemm else {}
        nodes.append(helper.make_node(op, inputs, [["h", "y"][index]], **attributes))
        if not is_gemm:
            del weights[f"b{index}"]
    feeds = feed(rng, 3, 4, place=place)
    assert_fuses(model_of(nodes, weights, 2, **place), feeds, "fuse-gemm-gemm", 1)


def test_a_low_rank_pair_stays() -> None:
    rng = np.random.default_rng(10)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    model = model_of(nodes, {"a": floats(rng, 16, 2), "b": floats(rng, 2, 16)}, 2)
    assert rewrites("fuse-gemm-gemm", model) == 0


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
    for index, (relu, low, high) in enumerate(chain):
        source, target = f"v{index}" if index else "x", "y" if index + 1 == len(chain) else f"v{index + 1}"
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
    model = model_of(nodes, weights, 1, opset=opset)
    values = np.array([-np.inf, -3, -1.5, -0.5, -0.0, 0, 0.25, 0.75, 3, 7, np.inf, np.nan], np.float32)
    fused = ir.from_proto(model)
    apply("merge-clip", fused)
    assert apply("merge-clip", fused).rewrites == 0
    np.testing.assert_array_equal(run(fused, {"x": values})[0], run(ir.from_proto(model), {"x": values})[0])


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
    for index, (axis, start, end, step) in enumerate(cuts):
        source, target = f"v{index}" if index else "x", "y" if index + 1 == len(cuts) else f"v{index + 1}"
        if old:
            nodes.append(helper.make_node("Slice", [source], [target], axes=[axis % 3], starts=[start], ends=[end]))
            continue
        named = {f"{name}{index}": [number] for name, number in (("s", start), ("e", end), ("a", axis), ("t", step))}
        weights |= {name: np.array(number, np.int64) for name, number in named.items()}
        nodes.append(helper.make_node("Slice", [source, *named], [target]))
    model = model_of(nodes, weights, 3, opset=9 if old else 17)
    feeds = {"x": np.arange(7 * 6 * 5, dtype=np.float32).reshape(7, 6, 5)}
    fused = ir.from_proto(model)
    apply("merge-slice", fused)
    assert apply("merge-slice", fused).rewrites == 0
    np.testing.assert_array_equal(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 2), st.integers(0, 2)), min_size=2, max_size=5))
def test_concats(chain: list[tuple[int, int]]) -> None:
    """Nested in any position, along any axis."""
    nodes = [helper.make_node("Neg", ["x"], ["n"])]
    for index, (axis, position) in enumerate(chain):
        source, target = f"v{index}" if index else "x", "y" if index + 1 == len(chain) else f"v{index + 1}"
        nodes.append(helper.make_node("Tanh", [source], [f"t{index}"]))
        parts = [f"t{index}"] * 2
        parts.insert(position, source)
        nodes.append(helper.make_node("Concat", parts, [target], axis=axis))
    del nodes[0]
    model = model_of(nodes, {}, 3)
    feeds = {"x": np.arange(8, dtype=np.float32).reshape(2, 2, 2)}
    fused = ir.from_proto(model)
    apply("merge-concat", fused)
    assert apply("merge-concat", fused).rewrites == 0
    np.testing.assert_array_equal(run(fused, feeds)[0], run(ir.from_proto(model), feeds)[0])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_nested_concats_become_one(axis: int) -> None:
    rng = np.random.default_rng(11)
    nodes = [helper.make_node("Neg", ["x"], ["v0"])]
    nodes += [helper.make_node("Concat", ["x", f"v{i}", "x"], [f"v{i + 1}"], axis=axis) for i in range(4)]
    nodes[-1].output[0] = "y"
    fused = assert_fuses(model_of(nodes, {}, 2), feed(rng, 3, 4), "merge-concat", 3)
    assert types(fused) == ["Neg", "Concat"]


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
    fused = assert_fuses(model_of(nodes, weights, 2, opset=opset), feed(rng, 3, 8), "merge-concat", 2)
    assert types(fused) == ["Neg", "Neg"]
    assert not fused.graph.initializers


def graph_output(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """`model` with the intermediate value `name` as one more output."""
    model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    return model


@pytest.mark.parametrize(
    ("name", "nodes", "rank"),
    [
        ("fuse-conv-branches", [("Conv", ["x", "w"]), ("Add", ["h", "x"])], 4),
        ("fuse-pad", [("Pad", ["x", "pads"]), ("Conv", ["h", "w"])], 4),
        ("fuse-gemm-bn", [("MatMul", ["x", "m"]), ("Mul", ["h", "k"])], 2),
        ("fuse-gemm-gemm", [("MatMul", ["x", "m"]), ("MatMul", ["h", "m2"])], 2),
        ("merge-clip", [("Relu", ["x"]), ("Clip", ["h", "k", "top"])], 2),
        ("merge-slice", [("Slice", ["x", "i0", "i9"]), ("Slice", ["h", "i0", "i9"])], 2),
        ("merge-concat", [("Concat", ["x", "x"]), ("Concat", ["h", "x"])], 2),
    ],
)
def test_intermediates_that_are_needed_stay(name: str, nodes: list[tuple[str, list[str]]], rank: int) -> None:
    """The first value is a graph output, or has another consumer, or is captured by a branch."""
    rng = np.random.default_rng(13)
    weights = {
        "w": floats(rng, 2, 2, 3, 3) if name == "fuse-pad" else floats(rng, 2, 2, 1, 1),
        "m": floats(rng, 3, 3),
        "m2": floats(rng, 3, 2),
        "k": np.array(0.5, np.float32),
    }
    weights |= {
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "i0": np.array([0], np.int64),
        "i9": np.array([9], np.int64),
    }
    weights |= {"top": np.array(2, np.float32)}
    joined: dict[str, Any] = {"axis": 0} if name == "merge-concat" else {}
    made = [helper.make_node(op, inputs, [out], **joined) for (op, inputs), out in zip(nodes, ("h", "y"), strict=True)]
    weights = {key: array for key, array in weights.items() if any(key in node.input for node in made)}
    assert rewrites(name, model_of(made, weights, rank)) == 1
    assert rewrites(name, graph_output(model_of(made, weights, rank), "h")) == 0
    fanned = model_of([*made, helper.make_node("Neg", ["h"], ["z"])], weights, rank)
    assert rewrites(name, graph_output(fanned, "z")) == 0
    body = helper.make_graph(
        [helper.make_node("Neg", ["h"], ["n"])], "b", [], [helper.make_tensor_value_info("n", 1, None)]
    )
    captured = helper.make_node("If", ["yes"], ["z"], then_branch=body, else_branch=body)
    model = graph_output(model_of([*made, captured], weights | {"yes": TRUE}, rank), "z")
    assert rewrites(name, model) == 0


EVERY = (
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-conv-branches",
    "fuse-pad",
    "fuse-padded-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "fuse-gemm-bn",
    "fuse-gemm-gemm",
    "merge-transpose",
    "sink-transpose",
    "merge-reshape",
    "merge-clip",
    "merge-slice",
    "merge-concat",
)


@settings(max_examples=40, deadline=None)
@given(st.permutations(EVERY), st.integers(0, 2**16))
def test_in_any_order_the_outputs_stay(order: list[str], seed: int) -> None:
    """One model with a place for each, until nothing changes; in the end nothing is left to do for any of them."""
    rng = np.random.default_rng(seed)
    weights = {"w": floats(rng, 2, 2, 3, 3), "u": floats(rng, 2, 2, 1, 1), "k": rng.uniform(0.5, 2, (2, 1, 1))}
    weights |= {name: rng.uniform(0.5, 2, 2) for name in "stmv"} | {"g": floats(rng, 50, 8), "h": floats(rng, 8, 3)}
    weights = {name: array.astype(np.float32) for name, array in weights.items()}
    weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "flat": np.array([0, 50], np.int64)}
    weights |= {"i0": np.array([0], np.int64), "i9": np.array([9], np.int64), "top": np.array(4, np.float32)}
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["a"]),
        helper.make_node("Add", ["a", "k"], ["b"]),
        helper.make_node("Pad", ["b", "pads"], ["c"]),
        helper.make_node("Conv", ["c", "w"], ["d"]),
        helper.make_node("BatchNormalization", ["d", "s", "t", "m", "v"], ["e"]),
        helper.make_node("Conv", ["e", "w"], ["f1"], pads=[1] * 4),
        helper.make_node("Conv", ["e", "u"], ["f2"]),
        helper.make_node("Add", ["f1", "f2"], ["f3"]),
        helper.make_node("Add", ["f3", "e"], ["f"]),
        helper.make_node("Relu", ["f"], ["r"]),
        helper.make_node("Clip", ["r", "", "top"], ["r2"]),
        helper.make_node("Transpose", ["r2"], ["t1"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["t1", "s"], ["t2"]),
        helper.make_node("Transpose", ["t2"], ["t3"], perm=[0, 3, 1, 2]),
        helper.make_node("Slice", ["t3", "i0", "i9"], ["s1"]),
        helper.make_node("Slice", ["s1", "i0", "i9"], ["s2"]),
        helper.make_node("Reshape", ["s2", "flat"], ["n"]),
        helper.make_node("MatMul", ["n", "g"], ["n1"]),
        helper.make_node("Mul", ["n1", "top"], ["n2"]),
        helper.make_node("Gemm", ["n2", "h"], ["n3"]),
        helper.make_node("Concat", ["n3", "n3"], ["n4"], axis=1),
        helper.make_node("Concat", ["n4", "n3"], ["y"], axis=1),
    ]
    model = model_of(nodes, weights, 4)
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    fused = ir.from_proto(model)
    for _ in range(3):
        for name in order:
            apply(name, fused)
    assert [apply(name, fused).rewrites for name in order] == [0] * len(order)
    feeds = feed(rng, 2, 2, 5, 5)
    expected = run(ir.from_proto(model), feeds)[0]
    np.testing.assert_allclose(run(fused, feeds)[0], expected, rtol=1e-3, atol=1e-4 * float(np.abs(expected).max()))
    assert types(fused)[:2] == ["Mul", "Add"] or types(fused)[0] == "Add"
    assert "Transpose" not in types(fused)
    assert types(fused).count("Gemm") + types(fused).count("MatMul") == 1
