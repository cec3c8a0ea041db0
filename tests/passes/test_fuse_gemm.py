"""fuse-matmul-add, fuse-gemm-bn and fuse-gemm-gemm on random matrices: the outputs stay."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tests.fusion_tools import PLACES, assert_fuses, feed, float_model, floats, operators, rewrites


@pytest.mark.parametrize("place", PLACES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (3,), (1, 3), (1, 1)], ids=str)
def test_matmul_add(shape: tuple[int, ...], place: dict[str, bool]) -> None:
    rng = np.random.default_rng(14)
    weights = {"w": rng.standard_normal((4, 3)).astype(np.float32), "b": rng.standard_normal(shape).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["b", "m"], ["y"])]
    feeds = feed(rng, 5, 4, place=place)
    # A function does not know the rank of what it is called with.
    expected = 0 if place.get("in_function") else 1
    assert_fuses(float_model(nodes, weights, 2, **place), feeds, "fuse-matmul-add", expected)


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
    fused = assert_fuses(float_model(nodes, weights, 2), feed(rng, 3, 4), "fuse-gemm-bn", 1)
    assert operators(fused) in (["Gemm"], ["MatMul"])


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
    assert_fuses(float_model(nodes, weights, rank, **place), feeds, "fuse-gemm-bn", 2)


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
    assert_fuses(float_model(nodes, weights, 2, **place), feeds, "fuse-gemm-gemm", 1)


def test_a_low_rank_pair_stays() -> None:
    rng = np.random.default_rng(10)
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    model = float_model(nodes, {"a": floats(rng, 16, 2), "b": floats(rng, 2, 16)}, 2)
    assert rewrites("fuse-gemm-gemm", model) == 0
