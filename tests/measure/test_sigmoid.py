"""Small values of a sigmoid are rounding: onnxruntime computes it to an absolute precision."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.measure import sigmoid


@pytest.mark.parametrize(
    ("nodes", "found"),
    [
        ("y = Sigmoid (x)", True),
        ("s = Sigmoid (x) y = Transpose (s)", True),
        ("s = Sigmoid (x) y = Concat <axis = 0> (x, s)", True),
        ("s = Sigmoid (x) y = Mul (s, x)", False),
        ("y = Relu (x)", False),
    ],
)
def test_where_an_output_is_a_sigmoid(nodes: str, found: bool) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]>\ng (float[2, 2] x) => (float[N, M] y) {{ {nodes} }}'
    assert sigmoid.positions(ir.from_onnx_text(text)) == (frozenset({0}) if found else frozenset())


def test_only_what_is_rounding_is_settled() -> None:
    expected = [np.array([5.6e-7, 0.5, 1e-3], np.float32)] * 2
    found = [np.array([6.8e-7, 0.5001, 1.001e-3], np.float32)] * 2
    plain, settled = sigmoid.settled(expected, found, frozenset({1}))
    assert np.array_equal(plain, found[0])
    assert np.array_equal(settled, np.array([5.6e-7, 0.5001, 1.001e-3], np.float32))
