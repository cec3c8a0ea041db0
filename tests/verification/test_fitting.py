"""Ways to feed a model that is particular: dimensions that belong together, rates, windows, sizes that weights fix."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from modelopt import io
from modelopt.core.signature import Signature, TensorSpec
from modelopt.engine import datasets
from modelopt.recipe.recipe import DataSpec, Recipe
from modelopt.runtime.worker import Worker
from modelopt.verification.fitting import FeedAttempt, Fit, Integers, Needs, attempts, with_names
from modelopt.verification.input_sizes import lengths_in, sizes_of
from modelopt.verification.input_uses import InputUse
from modelopt.verification.prepare import Original, Prepared, prepare

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'

# What a streaming speech model looks like: a state with the batch on its second axis, a rate that decides the window.
STREAMING = f"""{HEADER}
g (float[?, ?] x, float[2, ?, 4] state, int64 rate) => (float[?, ?, ?] next)
<int64 wide = {{16000}}, int64[1] one = {{1}}> {{
  is_wide = Equal(rate, wide)
  channel = Unsqueeze(x, one)
  windows = If(is_wide) <
    then_branch = a () => (wa) {{ wa = Conv<strides = [512]>(channel, long) }},
    else_branch = b () => (wb) {{ wb = Conv<strides = [256]>(channel, short) }}
  >
  mean = ReduceMean<axes = [2], keepdims = 1>(windows)
  turned = Transpose<perm = [2, 0, 1]>(mean)
  next = Concat<axis = 0>(turned, state)
}}"""


def prepared(folder: Path, text: str) -> Prepared:
    """Constructed feeds for a model, each tried on it."""
    path = save(folder, text)
    with Worker() as worker:
        loaded = io.load(path, scratch=folder)
        original = Original.of(loaded.model, path, datasets.signature_of(loaded.model), Needs.of(loaded.model))
        return prepare(original, [], worker, lambda: io.load(path, scratch=folder).model, folder, 0)


def save(folder: Path, text: str) -> Path:
    onnx.save(onnx.parser.parse_model(text), folder / "m.onnx")
    return folder / "m.onnx"


def sizes(found: Prepared, name: str) -> set[tuple[int, ...]]:
    return {feed.arrays[name].shape for feed in found.feeds}


def test_a_streaming_speech_model_gets_its_rate_its_window_and_a_state_for_each_of_the_batch(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(STREAMING)
    for name, window in (("long", 512), ("short", 256)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((4, 1, window), np.float32), name))
    onnx.save(model, tmp_path / "m.onnx")
    with Worker() as worker:
        loaded = io.load(tmp_path / "m.onnx", scratch=tmp_path)
        original = Original.of(loaded.model, loaded.path, datasets.signature_of(loaded.model), Needs.of(loaded.model))
        found = prepare(original, [], worker, lambda: io.load(loaded.path, scratch=tmp_path).model, tmp_path, 0)
        assert {feed.arrays["x"].shape[0] for feed in found.feeds} >= {1, 2, 3}
        assert all(feed.arrays["state"].shape[1] == feed.arrays["x"].shape[0] for feed in found.feeds)
        assert {int(feed.arrays["rate"]) for feed in found.feeds} >= {16000, 16001}
        recipe = Recipe(steps=(), calibration=DataSpec(data="random", limit=2))
        data = datasets.open_all(recipe, loaded.model)
        datasets.fit_random(recipe, data, worker, loaded.path)
        assert data.calibration is not None
        first = next(iter(data.calibration))
        assert first.feeds["x"].shape[1] >= 256
        assert first.feeds["state"].shape == (2, 1, 4)


def test_a_mask_is_as_long_as_past_and_new_tokens_together(tmp_path: Path) -> None:
    found = prepared(
        tmp_path,
        f"""{HEADER}
        g (float[b, new, 4] x, float[b, past, 4] cache, float[b, total] mask) => (float[b, n] y) {{
          joined = Concat<axis = 1>(cache, x)
          sums = ReduceSum<keepdims = 0>(joined, axis)
          y = Add(sums, mask)
        }}""".replace("(float[b, n] y) {", "(float[b, n] y) <int64[1] axis = {2}> {"),
    )
    for feed in found.feeds:
        parts = (feed.arrays[name].shape[1] for name in ("x", "cache"))
        # a sum of one term each would broadcast: only feeds of the right sizes run
        assert feed.arrays["mask"].shape[1] in {sum(parts), 1}
    assert any(feed.arrays["mask"].shape[1] > 1 for feed in found.feeds)


def test_sums_stand_in_the_names_that_exporters_write(tmp_path: Path) -> None:
    inputs = (
        TensorSpec("cache", "float32", ("b", 4, "past", 8)),
        TensorSpec("mask", "int64", ("b", "past + 1")),
        TensorSpec("pair", "int64", ("b", "2*past + new")),
        TensorSpec("x", "int64", ("b", "new")),
    )
    first = next(attempts(Signature(inputs, ()), Needs()))
    assert first.fit.sums == {"past + 1": (("past",), 1), "2*past + new": (("past", "past", "new"), 0)}


def test_sizes_that_weights_fix_are_kept_in_every_feed(tmp_path: Path) -> None:
    text = f"""{HEADER}
    g (float[?, ?, ?] x) => (float[?, ?, ?] y) <float[5, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}}> {{
      r = Relu(x)
      t = Transpose<perm = [0, 2, 1]>(r)
      y = MatMul(t, w)
    }}"""
    assert sizes_of(io.load(save(tmp_path, text), scratch=tmp_path).model) == {("x", 1): 5}
    found = prepared(tmp_path, text)
    assert {shape[1] for shape in sizes(found, "x")} == {5}
    assert len({shape[2] for shape in sizes(found, "x")}) > 1


@pytest.mark.parametrize(
    ("node", "shape", "axis", "size"),
    [
        ("y = Conv<group = 2>(x, w)", (4, 3, 1), 1, 6),
        ("y = ConvTranspose(x, w)", (4, 3, 1), 1, 4),
        ("y = MatMul(x, w)", (7, 2), 2, 7),
        ("y = Add(x, w)", (9, 1), 1, 9),
        ("u = Unsqueeze(x, one)\n y = MatMul(u, w)", (7, 2), 2, 7),
    ],
)
def test_each_kind_of_weight_fixes_the_axis_that_it_reads(
    tmp_path: Path, node: str, shape: tuple[int, ...], axis: int, size: int
) -> None:
    dims = ", ".join(map(str, shape))
    text = f"{HEADER} g (float[?, ?, ?] x) => (float y) <float[{dims}] w = {{0}}, int64[1] one = {{1}}> {{\n {node} }}"
    text = text.replace("= {0}", f"= {{{', '.join('1' for _ in range(int(np.prod(shape))))}}}")
    assert sizes_of(io.load(save(tmp_path, text), scratch=tmp_path).model)[("x", axis)] == size


def test_lengths_that_the_graph_mentions_are_tried(tmp_path: Path) -> None:
    text = f"""{HEADER}
    g (float[b, length] x) => (float[b, 7, 11] y) <int64[3] size = {{-1, 7, 11}}, int64[1] nothing = {{0}}> {{
      y = Reshape(x, size)
    }}"""
    assert set(lengths_in(io.load(save(tmp_path, text), scratch=tmp_path).model)) == {7, 11}


def test_lengths_reach_those_of_recordings() -> None:
    wave = Signature((TensorSpec("x", "float32", ("b", "samples")),), ())
    tried = [attempt.length for attempt in attempts(wave, Needs())]
    assert {512, 576, 16_000, 48_000, 160_000} <= set(tried)
    frames = Signature((TensorSpec("x", "float32", ("b", "frames", 80)),), ())
    assert {100, 3000} <= {attempt.length for attempt in attempts(frames, Needs())}


def test_the_likeliest_attempts_come_first_and_none_twice() -> None:
    inputs = (
        TensorSpec("x", "float32", (None, None)),
        TensorSpec("n", "int64", ()),
        TensorSpec("h", "float32", (2, None)),
    )
    signature = with_names(Signature(inputs, ()))
    assert [spec.shape for spec in signature.inputs] == [(None, "x:1"), (), (2, "h:1")]
    tried = list(attempts(signature, Needs({"n": InputUse(constants=(8000.0, 16000.0))}), {}))
    assert tried[0] == FeedAttempt(8, Fit())
    assert tried[1] == FeedAttempt(8, Fit(integers=Integers.PLAIN))
    assert len({(each.length, repr(each.fit)) for each in tried}) == len(tried)
    assert any(each.fit.of_batch == {"h:1"} and each.fit.turn == 1 for each in tried)
