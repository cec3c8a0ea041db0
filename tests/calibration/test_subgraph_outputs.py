"""Values of If, Loop and Scan bodies are observed as they were, whatever the depth and the shapes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.calibration import subgraph_outputs
from modelopt.graph import invariants
from tests.quant_tools import model, run
from tests.runtime_tools import session

HEADER = '<ir_version: 8, opset_import: ["" : 17]>'
BRANCHES = (
    HEADER
    + """
net (bool c, float[n,2] x) => (float[n,2] y)
{
  start = Relu (x)
  y = If (c) <
    then_branch = yes () => (float[n,2] a) { deep = Exp (start)  a = Neg (deep) },
    else_branch = no () => (float[n,2] b) { b = Identity (x) }
  >
}
"""
)
LOOP = (
    HEADER
    + """
net (int64 count, float[k] x) => (float[k] y, float[s,k] all)
<bool yes = {1}>
{
  y, all = Loop (count, yes, x) <
    body = step (int64 i, bool go, float[k] state) => (bool on, float[k] next, float[k] seen) {
      on = Identity (go)
      next = Add (state, state)
      grown = Concat <axis = 0> (next, x)
      odd = Mod (i, i2)
      take = Cast <to = 9> (odd)
      ignored = If (take) <
        then_branch = yes () => (float[k] a) { a = Neg (next) },
        else_branch = no () => (float[k] b) { b = Identity (next) }
      >
      seen = Identity (state)
    }
  >
}
"""
)


def shown(text: str, names: list[str], feeds: dict[str, np.ndarray], **weights: np.ndarray) -> dict[str, np.ndarray]:
    """What the exposed model gives for `names` and counters; the original outputs are checked on the way."""
    original = model(text, **weights)
    before = ir.to_onnx_text(original)
    exposed = subgraph_outputs.expose(original, names)
    assert ir.to_onnx_text(original) == before
    made = exposed.model
    values = {value.name: value for node in made.graph for value in node.outputs} | {
        v.name: v for v in made.graph.inputs
    }
    own = len(made.graph.outputs)
    made.graph.outputs.extend(values[name] for name in exposed.outputs.values())
    assert invariants.check(made) == []
    arrays = session(made).run(None, feeds)
    for reference, candidate in zip(run(original, feeds), arrays[:own], strict=True):
        np.testing.assert_array_equal(reference, candidate)
    return dict(zip(exposed.outputs, arrays[own:], strict=True))


def test_a_model_without_bodies_is_run_as_it_is() -> None:
    plain = model(HEADER + "net (float[2] x) => (float[2] y) { h = Relu (x)  y = Neg (h) }")
    exposed = subgraph_outputs.expose(plain, ["h", "x"])
    assert exposed.model is plain
    assert exposed.outputs == {"h": "h", "x": "x"}


@pytest.mark.parametrize("taken", [True, False])
def test_a_branch_shows_its_value_and_how_often_it_ran(taken: bool) -> None:
    x = np.array([[1, -2], [3, 4]], np.float32)
    arrays = shown(BRANCHES, ["start", "deep", "a"], {"c": np.array(taken), "x": x})
    np.testing.assert_array_equal(arrays["start"], np.maximum(x, 0))
    expected = np.exp(np.maximum(x, 0)).reshape(-1) if taken else np.zeros(0, np.float32)
    np.testing.assert_allclose(arrays["deep"], expected, rtol=1e-6)
    np.testing.assert_allclose(arrays["a"], -expected, rtol=1e-6)
    assert arrays["runs of deep"].tolist() == [1.0] * taken


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_loop_shows_each_iteration(count: int) -> None:
    x = np.array([1, -2], np.float32)
    feeds = {"count": np.array(count), "x": x}
    arrays = shown(LOOP, ["state", "next", "a"], feeds, i2=np.array(2))
    states = [x * 2**i for i in range(count)]
    empty = np.zeros(0, np.float32)
    np.testing.assert_array_equal(arrays["state"], np.concatenate([empty, *states]))
    np.testing.assert_array_equal(arrays["next"], np.concatenate([empty, *(s * 2 for s in states)]))
    np.testing.assert_array_equal(arrays["a"], np.concatenate([empty, *(-s * 2 for s in states[1::2])]))
    assert arrays["runs of state"].size == count
    assert arrays["runs of a"].size == count // 2


def test_iterations_may_differ_in_shape() -> None:
    text = (
        HEADER
        + """
    net (int64 count, float[k] x) => (float[m] y)
    <bool yes = {1}>
    {
      y = Loop (count, yes, x) <
        body = step (int64 i, bool go, float[p] state) => (bool on, float[q] next)
        { on = Identity (go)  next = Concat <axis = 0> (state, state) }
      >
    }
    """
    )
    arrays = shown(text, ["next"], {"count": np.array(3), "x": np.ones(1, np.float32)})
    assert arrays["next"].shape == (2 + 4 + 8,)


def test_a_scan_shows_each_slice() -> None:
    text = (
        HEADER
        + """
    net (float[2] start, float[t,2] x) => (float[2] y, float[t,2] all)
    {
      y, all = Scan <num_scan_inputs = 1, scan_output_directions = [1],
        body = step (float[2] state, float[2] row) => (float[2] next, float[2] out)
        { next = Add (state, row)  out = Neg (next) }
      > (start, x)
    }
    """
    )
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    arrays = shown(text, ["row", "next"], {"start": np.zeros(2, np.float32), "x": x})
    np.testing.assert_array_equal(arrays["row"], x.reshape(-1))
    np.testing.assert_array_equal(arrays["next"], np.cumsum(x, axis=0).reshape(-1))
    assert arrays["runs of row"].size == 3


def test_a_name_in_two_scopes_is_hidden_with_the_reason() -> None:
    text = BRANCHES.replace("a = Neg (deep)", "b = Neg (deep)").replace("(float[n,2] a)", "(float[n,2] b)")
    exposed = subgraph_outputs.expose(model(text), ["b", "deep"])
    assert "another graph" in exposed.hidden["b"]
    assert set(exposed.outputs) == {"deep", "runs of deep"}


def test_labels_do_not_matter() -> None:
    original = model(BRANCHES)
    assert graph.signature(subgraph_outputs.expose(original, ["deep"]).model) == graph.signature(original)


@pytest.mark.parametrize("taken", [True, False])
def test_a_loop_in_a_branch_in_a_loop(taken: bool) -> None:
    text = (
        HEADER
        + """
    net (bool c, int64 count, float[k] x) => (float[k] y)
    <bool yes = {1}>
    {
      y = Loop (count, yes, x) <
        body = outer (int64 i, bool go, float[k] state) => (bool on, float[k] next) {
          on = Identity (go)
          next = If (c) <
            then_branch = many () => (float[k] a) {
              a = Loop (count, , state) <
                body = inner (int64 j, bool go2, float[k] s) => (bool on2, float[k] n)
                { on2 = Identity (go2)  n = Neg (s) }
              >
            },
            else_branch = once () => (float[k] b) { b = Identity (state) }
          >
        }
      >
    }
    """
    )
    x = np.array([1, -2], np.float32)
    arrays = shown(text, ["n", "s"], {"c": np.array(taken), "count": np.array(2), "x": x})
    np.testing.assert_array_equal(arrays["s"], np.concatenate([x, -x, x, -x]) if taken else np.zeros(0))
    np.testing.assert_array_equal(arrays["n"], -arrays["s"])
    assert arrays["runs of s"].size == 4 * taken


def test_a_body_inside_a_scan_is_hidden_with_the_reason() -> None:
    text = (
        HEADER
        + """
    net (bool c, float[2] start, float[t,2] x) => (float[2] y)
    {
      y = Scan <num_scan_inputs = 1,
        body = step (float[2] state, float[2] row) => (float[2] next)
        {
          sum = Add (state, row)
          next = If (c) <
            then_branch = yes () => (float[2] a) { a = Neg (sum) },
            else_branch = no () => (float[2] b) { b = Identity (sum) }
          >
        }
      > (start, x)
    }
    """
    )
    exposed = subgraph_outputs.expose(model(text), ["sum", "a"])
    assert set(exposed.outputs) == {"sum", "runs of sum"}
    assert "inside the Scan" in exposed.hidden["a"]


def test_named_apart() -> None:
    plain = model(BRANCHES)
    assert subgraph_outputs.named_apart(plain) is plain
    twice = model(BRANCHES.replace("b = Identity (x)", "deep = Neg (x)  b = Identity (deep)"))
    apart = subgraph_outputs.named_apart(twice)
    assert apart is not twice
    assert {"deep", "deep_1"} <= {value.name for node in graph.all_nodes(apart) for value in node.outputs}
    assert subgraph_outputs.expose(apart, ["deep", "deep_1"]).hidden == {}
