"""Layers that are repaired through what they read: copies of channels cost nothing, whatever operator reads them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.runtime.worker_runner import WorkerRunner
from tests.pruning.repair_tools import error, feeds, pruned, weights
from tests.quant_tools import context, model

_HEAD = '<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>'
_CHANNELS, _COPIES = 12, 4


def _first(shape: tuple[int, ...], axis: int, channels: int = _CHANNELS) -> np.ndarray:
    """Weights whose last channels are copies of the first ones, a quarter as large: so they go first."""
    array = np.moveaxis(weights(shape)[0], axis, 0)
    copies = channels // 3
    array[-copies:] = array[:copies] / 4
    return np.ascontiguousarray(np.moveaxis(array, 0, axis))


def transposed() -> tuple[ir.Model, tuple[int, ...]]:
    text = f"""{_HEAD} g (float[N,3,6,6] x) => (float[N,5,12,12] y) {{
      a = Conv<pads=[1,1,1,1]>(x, w1)  b = Relu(a)  y = ConvTranspose<strides=[2,2]>(b, w2, b2)
    }}"""
    w2, b2 = weights((_CHANNELS, 5, 2, 2), (5,))
    return model(text, w1=_first((_CHANNELS, 3, 3, 3), 0), w2=w2, b2=b2), (3, 6, 6)


def wide() -> tuple[ir.Model, tuple[int, ...]]:
    text = f"""{_HEAD} g (float[N,3,80] x) => (float[N,5,80] y) {{
      a = Conv(x, w1)  b = Relu(a)  y = Conv<pads=[60,60]>(b, w2)
    }}"""
    (w2,) = weights((5, 60, 121))
    return model(text, w1=_first((60, 3, 1), 0, 60), w2=w2), (3, 80)


def recurrent(op_type: str, gates: int, options: str) -> tuple[ir.Model, tuple[int, ...]]:
    text = f"""{_HEAD} g (float[1,7,6] x) => (float[7,1,1,5] y) {{
      t = Transpose<perm=[1,0,2]>(x)  a = MatMul(t, w1)  b = Relu(a)
      y = {op_type}<hidden_size=5{options}>(b, w, r, bias)
    }}"""
    w, r, bias = weights((1, gates * 5, _CHANNELS), (1, gates * 5, 5), (1, 2 * gates * 5))
    return model(text, w1=_first((6, _CHANNELS), 1), w=w, r=r, bias=bias), (7, 6)


def attention() -> tuple[ir.Model, tuple[int, ...]]:
    text = f"""{_HEAD} g (float[N,7,6] x) => (float[N,7,4] y) {{
      a = MatMul(x, w1)  b = Relu(a)  y = com.microsoft.Attention<num_heads=2>(b, w, bias)
    }}"""
    w, bias = weights((_CHANNELS, 12), (12,))
    return model(text, w1=_first((6, _CHANNELS), 1), w=w, bias=bias), (7, 6)


def states() -> tuple[ir.Model, tuple[int, ...]]:
    """A GRU in two directions whose last four units are copies of the first ones, and read like them."""
    text = f"""{_HEAD} g (float[1,7,6] x) => (float[1,7,3] y) {{
      t = Transpose<perm=[1,0,2]>(x)
      s = GRU<hidden_size={_CHANNELS}, direction="bidirectional", linear_before_reset=1>(t, w, r, bias)
      u = Transpose<perm=[2,0,1,3]>(s)  v = Reshape(u, shape)  y = MatMul(v, w2)
    }}"""
    w, r, bias, w2 = weights((2, 3, _CHANNELS, 6), (2, 3, _CHANNELS, _CHANNELS), (2, 6, _CHANNELS), (2 * _CHANNELS, 3))
    for array in (w, r, bias):
        array[:, :, -_COPIES:] = array[:, :, :_COPIES]
    found = model(
        text,
        w=w.reshape(2, -1, 6),
        r=r.reshape(2, -1, _CHANNELS),
        bias=bias.reshape(2, -1),
        w2=w2,
        shape=np.array([1, 7, 2 * _CHANNELS]),
    )
    return found, (7, 6)


@pytest.mark.parametrize(
    ("made", "left"),
    [
        (transposed(), 1e-4),
        (wide(), 1e-3),
        (recurrent("GRU", 3, ", linear_before_reset=1"), 1e-4),
        (recurrent("LSTM", 4, ""), 1e-4),
        (recurrent("RNN", 1, ""), 1e-4),
        (attention(), 1e-4),
        (states(), 0.1),  # of equal units both may go
    ],
    ids=["ConvTranspose", "wide Conv", "GRU", "LSTM", "RNN", "Attention", "states of a GRU"],
)
def test_copies_cost_nothing_whatever_reads_them(
    runner: WorkerRunner, made: tuple[ir.Model, tuple[int, ...]], left: float
) -> None:
    original, shape = made
    ctx, unseen = context(runner, feeds(shape, 16)), feeds(shape, 4, seed=9)
    plain, repaired = (pruned(original, ctx, sparsity=1 / 3, repair=repair) for repair in (False, True))
    assert error(original, repaired, unseen) < left * error(original, plain, unseen)


def test_a_mean_that_went_is_put_into_the_bias(runner: WorkerRunner) -> None:
    """Channels that hardly change are no more than a bias of a recurrent operator."""
    original, shape = recurrent("GRU", 3, ", linear_before_reset=1")
    w1 = original.graph.initializers["w1"]
    array = np.asarray(w1.const_value.numpy()).copy()  # type: ignore[union-attr]
    array[:, -3:] *= 0.01
    w1.const_value = ir.tensor(array, name="w1")
    ctx = context(runner, [{"x": each["x"] + 3} for each in feeds(shape, 16)])
    unseen = [{"x": each["x"] + 3} for each in feeds(shape, 4, seed=9)]
    plain, repaired = (pruned(original, ctx, importance="l2", sparsity=0.25, repair=repair) for repair in (False, True))
    assert error(original, repaired, unseen) < 0.2 * error(original, plain, unseen)
