"""Whole residual blocks: which are found, and that removing one is what zeros in its last layer are."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants
from modelopt.pruning.residual_blocks import remove_block, residual_blocks, zero_block
from tests.runtime_tools import session

HEADER = '<ir_version: 10, opset_import: ["" : 20]>\n'

CONVOLUTIONS = """g (float[N, 2, 4, 4] x) => (float[N, 2, 4, 4] y)
<float[2, 2, 1, 1] w = {1, 2, 3, 4}, float[2, 2, 1, 1] v = {1, -2, 3, 1}, float[2] b = {1, 2}>
{
  c = Conv (x, w)
  r = Relu (c)
  d = Conv (r, v, b)
  s = Add (x, d)
  y = Relu (s)
}"""

PRODUCTS = """g (float[N, 2] x) => (float[N, 2] y)
<float[2, 3] w = {1, 2, 3, 4, 5, 6}, float[3, 2] v = {1, -2, 3, 1, 0, 2}, float[2] b = {1, 2}, float[2] k = {2, 3}>
{
  n = LayerNormalization (x, k)
  c = MatMul (n, w)
  r = Relu (c)
  d = MatMul (r, v)
  e = Add (b, d)
  s = Add (e, x)
  m = MatMul (s, w)
  p = MatMul (m, v)
  t = Add (s, p)
  y = Neg (t)
}"""


def loaded(text: str) -> ir.Model:
    model = ir.from_onnx_text(HEADER + text)
    for node in model.graph:  # all values of these models have the shape of the input, or of their first input
        for value in node.outputs:
            if value.shape is None:
                value.shape = model.graph.inputs[0].shape
    return model


def outputs(model: ir.Model) -> list[np.ndarray]:
    spec = graph.signature(model).inputs[0]
    shape = [size if isinstance(size, int) else 3 for size in spec.shape or ()]
    feed = {spec.name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    result: list[np.ndarray] = session(model).run(None, feed)
    return result


@pytest.mark.parametrize(("text", "names", "left"), [(CONVOLUTIONS, ["s"], 1), (PRODUCTS, ["s", "t"], 1)])
def test_removed_blocks_are_zeroed_blocks(text: str, names: list[str], left: int) -> None:
    removed, zeroed, plain = loaded(text), loaded(text), loaded(text)
    found = residual_blocks(removed)
    assert [block.name for block in found.blocks] == names
    for block in found.blocks:
        remove_block(block)
        remove_block(block)  # the second time changes nothing
    fresh = graph.NameSource(zeroed)
    for block in residual_blocks(zeroed).blocks:
        zero_block(block, fresh)
    assert len(list(removed.graph)) == left
    assert not removed.graph.initializers
    assert invariants.check(removed) == []
    np.testing.assert_allclose(outputs(removed)[0], outputs(zeroed)[0], rtol=1e-6)
    assert not np.allclose(outputs(removed)[0], outputs(plain)[0])


def test_one_block_of_two_leaves_the_weights_of_the_other() -> None:
    model, zeroed = loaded(PRODUCTS), loaded(PRODUCTS)
    remove_block(residual_blocks(model).blocks[1])
    zero_block(residual_blocks(zeroed).blocks[1], graph.NameSource(zeroed))
    assert {*model.graph.initializers} == {"w", "v", "b", "k"}
    np.testing.assert_allclose(outputs(model)[0], outputs(zeroed)[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("y = Relu (s)", "y = Relu (r)", None),  # nothing reads the sum
        ("d = Conv (r, v, b)", "d = Sigmoid (r)", "held against zeros"),
        ("y = Relu (s)", "q = Add (s, d) y = Relu (q)", "holds no weights"),
        ("s = Add (x, d)", "s = Add (d, b1)", None),
    ],
)
def test_what_is_no_block(old: str, new: str, reason: str | None) -> None:
    text = CONVOLUTIONS.replace(old, new)
    if "b1" in new:
        text = text.replace("float[2] b = {1, 2}", "float[2] b = {1, 2}, float[1] b1 = {1}")
    found = residual_blocks(loaded(text))
    if reason is None:
        assert len(found.blocks) == ("Relu (r)" in new)
    else:
        assert found.blocks == ()
        assert any(reason in why for why in found.refused)


def test_an_output_that_would_become_an_input_stays() -> None:
    text = CONVOLUTIONS.replace("s = Add (x, d)\n  y = Relu (s)", "y = Add (x, d)")
    assert residual_blocks(loaded(text)).refused == {"the sum is an output of the model": 1}


def test_a_sum_that_is_wider_than_what_is_added_to_stays() -> None:
    model = loaded(CONVOLUTIONS.replace("float[N, 2, 4, 4] x)", "float[N, 2, 1, 1] x)"))
    next(node for node in model.graph if node.op_type == "Add").inputs[1].shape = ir.Shape(["N", 2, 4, 4])  # type: ignore[union-attr]
    assert residual_blocks(model).refused == {"the sum has another shape than what is added to": 1}


def test_a_sum_with_its_own_transposition_is_no_block() -> None:
    text = CONVOLUTIONS.replace("s = Add (x, d)", "t = Transpose <perm = [0, 1, 2, 3]> (d)  s = Add (d, t)")
    assert residual_blocks(loaded(text)).refused == {"what it would save holds no weights": 1}
