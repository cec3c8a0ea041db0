"""Fixtures of the tests of child processes: models, and a worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from modelopt.runtime.worker import Worker
from tests.command_line import save, save_endless, value

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3)
"""The weight of `linear`."""


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """Y = relu(x @ W)."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    return save(tmp_path / "linear.onnx", nodes, [value("x", ["n", 4])], [value("y", ["n", 3])], {"w": WEIGHT})


@pytest.fixture
def endless(tmp_path: Path) -> Path:
    """A Loop that counts to 2^60."""
    return save_endless(tmp_path / "endless.onnx")


@pytest.fixture
def hungry(tmp_path: Path) -> Path:
    """A tensor of as many floats as the input says, made over and over so that it stays resident."""
    nodes = [
        helper.make_node("ConstantOfShape", ["n"], ["zeros"]),
        helper.make_node("Cos", ["zeros"], ["a"]),
        helper.make_node("Sin", ["a"], ["b"]),
        helper.make_node("Exp", ["b"], ["c"]),
        helper.make_node("Concat", ["a", "b", "c", "a", "b", "c"], ["d"], axis=0),
        helper.make_node("Sin", ["d"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["y"]),
    ]
    return save(tmp_path / "hungry.onnx", nodes, [value("n", [1], TensorProto.INT64)], [value("y", [1])])


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as each:
        yield each
