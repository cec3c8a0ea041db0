"""The numbers behind pruning by data: rows are what weights are multiplied by, scores and fits are the closed forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.pruning import element_importance, masks, weight_update
from modelopt.pruning.element_importance import ElementImportance
from modelopt.pruning.input_moments import InputMoments
from modelopt.pruning.input_rows import InputRows, rows_of
from modelopt.pruning.weights import Weight, all_operands, reduction_rows
from tests.quant_tools import model, run

PRODUCTS = [
    ("Conv <strides = [2, 1], pads = [1, 0, 0, 1]> (x, w)", (2, 4, 5, 6), (6, 4, 3, 2)),
    ("Conv <group = 2, dilations = [1, 2]> (x, w)", (2, 4, 5, 6), (6, 2, 2, 2)),
    ("Conv <group = 4> (x, w)", (1, 4, 5, 5), (4, 1, 3, 3)),
    ("MatMul (x, w)", (2, 3, 4), (4, 5)),
    ("MatMul (w, x)", (4, 3), (5, 4)),
    ("Gemm (x, w)", (3, 4), (4, 5)),
    ("Gemm <transA = 1, transB = 1> (x, w)", (4, 3), (5, 4)),
    ("Gemm <transA = 1> (w, x)", (4, 3), (4, 5)),
    ("Gemm <transB = 1> (w, x)", (3, 4), (5, 4)),
]


def one_node(text: str, x: np.ndarray, w: np.ndarray) -> tuple[ir.Model, Weight]:
    shape = ",".join(map(str, x.shape))
    source = f'<ir_version: 8, opset_import: ["" : 17]> net (float[{shape}] x) => (float y) {{ y = {text} }}'
    made = model(source, w=w)
    node, index, value = next(iter(all_operands(made)))
    assert value.const_value is not None
    return made, Weight(value, value.const_value, node, index)


@pytest.mark.parametrize(("text", "x_shape", "w_shape"), PRODUCTS)
def test_rows_are_what_the_weight_is_multiplied_by(
    text: str, x_shape: tuple[int, ...], w_shape: tuple[int, ...]
) -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal(x_shape).astype(np.float32), rng.standard_normal(w_shape).astype(np.float32)
    made, weight = one_node(text, x, w)
    read = rows_of(weight, made.graph)
    assert isinstance(read, InputRows)
    matrix = reduction_rows(w, weight)
    blocks = matrix.reshape(read.groups, -1, read.width)
    products = np.einsum("ngk,grk->ngr", read.of(x, 10**9), blocks).reshape(-1, len(matrix))
    (y,) = run(made, {"x": x})
    expected = np.moveaxis(y, 1, -1).reshape(-1, len(matrix)) if "Conv" in text else y.reshape(-1, len(matrix))
    if weight.index == 0:
        expected = y.T
    np.testing.assert_allclose(products, expected, rtol=1e-4, atol=1e-5)
    assert len(read.of(x, 2)) == 2


def test_transposed_convolutions_read_channels_and_recurrent_operators_their_states() -> None:
    made, weight = one_node("ConvTranspose <group = 2> (x, w)", np.zeros((1, 4, 3, 3)), np.zeros((4, 3, 2, 2)))
    read = rows_of(weight, made.graph)
    assert isinstance(read, InputRows)
    assert (read.groups, read.width, read.of(np.zeros((2, 4, 3, 3)), 99).shape) == (2, 2, (18, 2, 2))
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (float[5,2,3] x) => (float y) { y, h = GRU <hidden_size = 4, direction = "bidirectional"> (x, w, r) }
    """
    made = model(text, w=np.zeros((2, 12, 3), np.float32), r=np.zeros((2, 12, 4), np.float32))
    found = {}
    for node, index, value in all_operands(made):
        assert value.const_value is not None
        found[index] = rows_of(Weight(value, value.const_value, node, index), made.graph)
    inputs, states = found[1], found[2]
    assert isinstance(inputs, InputRows)
    assert isinstance(states, InputRows)
    assert (inputs.name, inputs.groups, inputs.width) == ("x", 1, 3)
    assert (states.name, states.groups, states.width) == ("y", 2, 4)
    given = np.arange(5 * 2 * 2 * 4).reshape(5, 2, 2, 4)
    np.testing.assert_array_equal(states.of(given, 99)[1, 1], given[0, 1, 1])


def moments_of(x: np.ndarray) -> InputMoments:
    found = InputMoments(1, x.shape[1], with_gram=True)
    for sample in np.split(x, 4):
        found.observe(sample[:, None])
    return found


def inputs(n: int = 400, k: int = 7) -> np.ndarray:
    rng = np.random.default_rng(1)
    return rng.standard_normal((n, k)) @ rng.standard_normal((k, k)) + rng.standard_normal(k)


def test_scores_are_their_closed_forms() -> None:
    x, w = inputs(), np.random.default_rng(2).standard_normal((3, 7))
    found = moments_of(x)
    gram = x.T @ x / len(x)
    damped = gram + 0.01 * np.trace(gram) / 7 * np.eye(7)
    expected = {
        ElementImportance.WANDA: np.square(w) * np.square(x).mean(axis=0),
        ElementImportance.SECOND_ORDER: np.square(w) / np.diagonal(np.linalg.inv(damped)),
    }
    for kind, scores in expected.items():
        made = element_importance.scores(w, element_importance.input_weights(kind, found))
        np.testing.assert_allclose(made, scores, rtol=1e-4)
    np.testing.assert_allclose(found.gram()[0], gram, rtol=1e-4, atol=1e-5)


def test_energies_are_the_variances_of_the_outputs() -> None:
    x, w = inputs(), np.random.default_rng(2).standard_normal((3, 7))
    variances = (x @ w.T).var(axis=0)
    shares = element_importance.row_energies(w, moments_of(x), is_convolution=True)
    np.testing.assert_allclose(shares, variances / variances.mean(), rtol=1e-3)
    roots = element_importance.row_energies(w, moments_of(x), is_convolution=False)
    np.testing.assert_allclose(roots, np.sqrt(shares), rtol=1e-6)


def test_an_input_that_differs_from_sample_to_sample_is_less_stable() -> None:
    x = np.ones((4, 2))
    x[:, 1] = (2, 0, 0, 0)  # the same norm over all samples
    found = moments_of(x)
    np.testing.assert_allclose(found.norms(), [[1, 1]])
    np.testing.assert_allclose(found.stable_norms(), [[1, 0.25]])


@pytest.mark.parametrize(("groups", "width"), [(3, 7), (1, 140)])
def test_the_update_is_the_least_error_that_the_zeros_permit(groups: int, width: int) -> None:
    rng = np.random.default_rng(3)
    grams = np.stack([np.cov(rng.standard_normal((width, 3 * width))) for _ in range(groups)])
    w = rng.standard_normal((2 * groups, width))
    gone = masks.in_rows(np.abs(w), 0.5)
    found = weight_update.updated(w, gone, grams, damping=0.01)
    assert not found[gone].any()
    for row, zero, fitted, gram in zip(w, gone, found, np.repeat(grams, 2, axis=0), strict=True):
        damped = gram + 0.01 * np.trace(gram) / width * np.eye(width)
        least = np.linalg.solve(damped[np.ix_(~zero, ~zero)], (damped @ row)[~zero])
        np.testing.assert_allclose(fitted[~zero], least, rtol=1e-2, atol=1e-3)


def test_an_input_without_a_signal_changes_nothing_but_the_zeros() -> None:
    w = np.random.default_rng(4).standard_normal((2, 5))
    gone = masks.in_rows(np.abs(w), 0.4)
    np.testing.assert_array_equal(weight_update.updated(w, gone, np.zeros((1, 5, 5))), np.where(gone, 0, w))
    assert weight_update.relative_error(w, w, np.zeros((1, 5, 5))) is None


def test_rows_share_the_zeros_evenly() -> None:
    rng: Any = np.random.default_rng(5)
    mask = masks.in_rows(rng.random((7, 9)), 0.4)
    assert mask.sum() == int(0.4 * 63)
    assert set(mask.sum(axis=1)) <= {3, 4}
