"""Constructed feeds: sizes, scales and the numbers that graphs ask for, drawn the same each time."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph, io
from modelopt.core.errors import InputError
from modelopt.core.signature import Signature, TensorSpec
from modelopt.runtime.worker import Worker
from modelopt.verification.feed_maker import Maker
from modelopt.verification.feed_plan import plan
from modelopt.verification.feed_values import LARGE
from modelopt.verification.feeds import Feed, Shape, Values
from modelopt.verification.fitting import MAX_VALUES, Needs
from modelopt.verification.input_uses import InputUse
from modelopt.verification.prepare import PATIENCE_SECONDS, Original, Prepared, prepare

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'
X = TensorSpec("x", "float32", ("b", 6))


def maker(*inputs: TensorSpec, uses: dict[str, InputUse] | None = None) -> Maker:
    return Maker(Signature(inputs, ()), uses or {}, 0)


def made(
    *inputs: TensorSpec, values: Values, use: InputUse | None = None, number: int = 1, batch: int = 4
) -> np.ndarray:
    feed = maker(*inputs, uses={inputs[0].name: use or InputUse()}).make(number, Shape(batch, 8), (values,))
    return feed.arrays[inputs[0].name]


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (Values.ORDINARY, 0.5, 5),
        (Values.SCALED_UP, 10, 50),
        (Values.SCALED_DOWN, 0.05, 0.5),
        (Values.ZEROS, 0, 0),
        (Values.LARGE, LARGE / 2, LARGE),
    ],
)
def test_floats_have_the_scale_that_their_kind_says(values: Values, low: float, high: float) -> None:
    assert low <= np.abs(made(X, values=values)).max() <= high


def test_nan_and_infinities_stand_among_numbers() -> None:
    assert np.isnan(made(X, values=Values.NAN)).sum() == 1
    infinite = made(X, values=Values.INFINITE)
    assert sorted(infinite[np.isinf(infinite)].tolist()) == [-np.inf, np.inf]


def test_numbers_near_constants_lie_on_both_sides_and_on_them() -> None:
    found = made(X, values=Values.NEAR_CONSTANTS, use=InputUse(constants=(6.0,)), batch=50)
    assert {np.sign(value - 6) for value in found[np.abs(found - 6) <= 1].tolist()} == {-1, 0, 1}


def test_integers_reach_their_whole_range_and_both_sides_of_what_they_are_compared_with() -> None:
    ids = TensorSpec("i", "int64", ("b", "s"))
    drawn = made(ids, values=Values.ORDINARY, use=InputUse(0, 9), batch=50)
    assert set(drawn.ravel().tolist()) == set(range(10))
    asked = made(ids, values=Values.ORDINARY, use=InputUse(0, 999, (500.0,)), batch=50)
    assert {499, 500, 501} <= set(asked.ravel().tolist())
    assert made(ids, values=Values.LARGE, use=InputUse(0, 9)).min() == 9
    assert made(TensorSpec("u", "uint8", ("b", 64)), values=Values.ORDINARY).max() > 200


def test_a_lone_integer_takes_its_values_in_turn() -> None:
    trips = TensorSpec("n", "int64", ())
    found = [made(trips, values=Values.ORDINARY, use=InputUse(0, 5), number=number).item() for number in range(4)]
    assert sorted(found) == [0, 1, 2, 5]
    rate = [made(trips, values=Values.ORDINARY, use=InputUse(constants=(16000.0,)), number=n).item() for n in range(3)]
    assert rate == [16000, 16001, 15999]


def test_rows_of_a_batch_may_differ_in_kind_wherever_the_batch_axis_is() -> None:
    state = TensorSpec("state", "float32", (2, "b", 5))
    feed = maker(X, state).make(1, Shape(3, 8), (Values.ORDINARY, Values.ZEROS, Values.LARGE))
    assert feed.arrays["x"].shape == (3, 6)
    assert not feed.arrays["x"][1].any()
    assert feed.arrays["state"].shape == (2, 3, 5)
    assert not feed.arrays["state"][:, 1].any()
    assert feed.is_extreme


def test_the_plan_has_three_batch_sizes_and_three_lengths() -> None:
    it = maker(TensorSpec("x", "float32", ("b", "s", 4)))
    steps = [(shapes[0], values) for shapes, values in plan(it, Shape(1, 8), heavy=False)]
    assert {1, 2, 3} <= {shape.batch for shape, _ in steps}
    assert len({shape.length for shape, _ in steps}) >= 3
    assert set(Values) - {Values.NEAR_CONSTANTS} == {value for _, values in steps for value in values}


def test_feeds_are_the_same_each_time() -> None:
    first, second = (made(X, values=Values.ORDINARY, number=3) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, made(X, values=Values.ORDINARY, number=4))


# On a model


def prepared(
    tmp_path: Path, text: str, *real: dict[str, np.ndarray], clock: Callable[[], float] = lambda: 0.0
) -> Prepared:
    path = tmp_path / "m.onnx"
    io.remove_aside(path)
    io.write_aside(ir.from_onnx_text(f"{HEADER} {text}"), path)

    def load() -> ir.Model:
        return io.load(path, scratch=tmp_path).model

    model = load()
    with Worker() as worker:
        original = Original.of(model, path, graph.signature(model), Needs.of(model))
        return prepare(original, real, worker, load, tmp_path, 0, clock)


def kinds(found: Prepared) -> set[Values]:
    return {value for feed in found.feeds for value in feed.values}


def test_the_users_data_come_first(tmp_path: Path) -> None:
    sample = {"x": np.ones((1, 4), np.float32)}
    found = prepared(tmp_path, "g (float[b,4] x) => (float[b,4] y) { y = Neg (x) }", sample, sample)
    assert [feed.is_real for feed in found.feeds[:4]] == [True, True, True, False]
    assert found.feeds[2].arrays["x"].shape == (2, 4)  # both as one batch
    assert found.real == 3


def test_branches_that_no_feed_takes_are_named(tmp_path: Path) -> None:
    body = "t () => (float[b,4] o) { o = Neg (x) }, else_branch = e () => (float[b,4] p) { p = Abs (x) }"
    text = f"""g (float[b,4] x) => (float[b,4] y) <float most = {{1e30}}> {{
        m = ReduceMax <keepdims = 0> (x) c = Less (m, most) [pick] y = If (c) <then_branch = {body}> }}"""
    found = prepared(tmp_path, text)
    assert [missed for missed in found.not_executed if "branch" in missed] in ([], ["else-branch of pick"])
    unreachable = text.replace("Less (m, most)", "IsNaN (most)")
    assert "then-branch of pick" in prepared(tmp_path, unreachable).not_executed


def test_both_branches_are_taken_where_an_input_decides(tmp_path: Path) -> None:
    text = """g (float[b,4] x, bool flag) => (float[b,4] y) { y = If (flag) <
        then_branch = t () => (float[b,4] o) { o = Neg (x) }, else_branch = e () => (float[b,4] p) { p = Abs (x) }> }"""
    assert not any("branch" in missed for missed in prepared(tmp_path, text).not_executed)


def test_sizes_that_no_feed_has_are_named(tmp_path: Path) -> None:
    text = "g (float[b,s,4] x) => (float[b,s,4] y) { y = Neg (x) }"
    assert prepared(tmp_path, text).not_executed == ("batch sizes above 17", "sizes of 's' above 56")
    fixed = "g (float[2,4] x) => (float[2,4] y) { y = Neg (x) }"
    assert prepared(tmp_path, fixed).not_executed == ()


def test_lengths_that_the_original_refuses_are_left_out_for_others(tmp_path: Path) -> None:
    pairs = "g (float[b,s,4] x) => (float[b,n,8] y) <int64[3] to = {0,-1,8}> { y = Reshape (x, to) }"
    lengths = {feed.arrays["x"].shape[1] for feed in prepared(tmp_path, pairs).feeds}
    assert lengths == {4, 8, 24, 56}
    assert all(length % 2 == 0 for length in lengths)


def test_trips_beyond_those_that_ran_are_named(tmp_path: Path) -> None:
    text = """g (float[4] x, int64 n) => (float[4] y) <bool go = {1}> {
        y = Loop (n, go, x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] o) {
            d = Identity (c) o = Neg (a) }> }"""
    assert prepared(tmp_path, text).not_executed == ("more than 5 trips by 'n'",)


def test_a_slow_model_gets_fewer_feeds_and_the_report_says_so(tmp_path: Path) -> None:
    ticks = itertools.count(step=PATIENCE_SECONDS / 2.5)
    text = "g (float[b,4] x) => (float[b,4] y) { y = Neg (x) }"
    found = prepared(tmp_path, text, clock=lambda: next(ticks))
    assert len(found.feeds) == 3
    assert "more constructed feeds, because runs of this model take long" in found.not_executed[0]


def test_long_signals_are_tried_where_an_input_may_be_one(tmp_path: Path) -> None:
    text = """g (float[b,n] x) => (float[b,1,m] y) <int64[1] one = {1}, int64[3] size = {1,1,400}> {
        w = ConstantOfShape (size) u = Unsqueeze (x, one) y = Conv (u, w) }"""
    assert {512, 525} <= {feed.arrays["x"].shape[1] for feed in prepared(tmp_path, text).feeds}


def test_a_model_that_runs_on_nothing_says_why(tmp_path: Path) -> None:
    text = "g (float[b,4] x) => (float[b,s] y) <int64[2] to = {7919,-1}> { y = Reshape (x, to) }"
    with pytest.raises(InputError, match="does not run on constructed inputs") as caught:
        prepared(tmp_path, text)
    assert caught.value.note
    assert "--eval" in (caught.value.hint or "")


def test_a_feed_says_what_it_is() -> None:
    assert str(Feed({})) == "the user's data"
    assert str(maker(X).make(1, Shape(2, 8), (Values.LARGE,))) == "large numbers of both signs, batch=2"


def test_few_feeds_are_kept_where_they_hold_many_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "g (float[4] x, float[4] w) => (float[4] y) { y = Add (x, w) }"
    assert len(prepared(tmp_path, text).feeds) > 2
    monkeypatch.setattr("modelopt.verification.prepare.MAX_FEED_ARRAYS", 3)
    found = prepared(tmp_path, text)
    assert len(found.feeds) == 2
    assert any("more constructed feeds" in missed for missed in found.not_executed)


@pytest.mark.parametrize(("weights", "most"), [(0, MAX_VALUES), (2**23, 2**26)])
def test_a_large_model_may_have_larger_feeds(weights: int, most: int) -> None:
    text = f"{HEADER} g (float[4] x) => (float[4] y) <float[4] w = {{1, 2, 3, 4}}> {{ y = Add (x, w) }}"
    model = ir.from_onnx_text(text)
    if weights:
        model.graph.initializers["w"].const_value = ir.tensor(np.zeros(weights, np.uint8), name="w")
    assert Needs.of(model).most_values == most
