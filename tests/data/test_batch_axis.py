"""Which axis of an array holds samples: by what the user says, by names, by sizes; else a file is one feed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from modelopt.core.errors import InputError
from modelopt.core.signature import Dim, TensorSpec
from modelopt.data import BatchAxes, open_data
from modelopt.data.batch_axis import batch_name, layout_of
from modelopt.measure.batch_rows import batch_axis, rows_first
from modelopt.measure.heads import Head, heads_of
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import DataSpec, Recipe
from tests.command_line import modelopt

NOTHING = BatchAxes({})
RATE = TensorSpec("rate", "int64", ())


def specs(x: tuple[Dim, ...], state: tuple[Dim, ...]) -> tuple[TensorSpec, ...]:
    return TensorSpec("x", "float32", x), TensorSpec("state", "float32", state), RATE


def axes(
    x: tuple[Dim, ...], state: tuple[Dim, ...], arrays: tuple[tuple[int, ...], ...], batch_axes: BatchAxes = NOTHING
) -> object:
    """The batch axis of the state; ``"whole"`` where a file is one feed."""
    found = layout_of(specs(x, state), {"x": arrays[0], "state": arrays[1], "rate": ()}, batch_axes)
    return "whole" if found.is_whole else found.axes.get("state", 0)


@pytest.mark.parametrize(
    ("x", "state", "arrays", "expected"),
    [
        (("batch", "t"), (2, "batch", 4), ((6, 9), (2, 6, 4)), 1),  # a name
        (("N", "t"), (2, 4, "N"), ((6, 9), (2, 4, 6)), 2),
        ((None, None), (2, None, 4), ((6, 9), (2, 6, 4)), 1),  # a size
        ((-1, "?"), (2, "?", 4), ((6, 9), (2, 6, 4)), 1),
        ((1, 9), (2, 1, 4), ((6, 9), (2, 6, 4)), 1),  # the model takes one at a time
        ((None, None), (2, 3, 4), ((6, 9), (2, 3, 4)), 0),  # a table for all samples
        ((None, None), (2, None, 4), ((1, 9), (2, 1, 4)), 0),  # one sample
        ((None, None), (2, None, 4), ((6, 9), (2, 1, 4)), 0),
        ((None, None), (None, 5), ((6, 9), (6, 5)), 0),
        ((None, None), (2, None, 4), ((6, 9), (2, 5, 4)), "whole"),  # nothing fits
        ((None, None), (2, None, None), ((6, 9), (2, 6, 6)), "whole"),  # two fit
        (("s", "b", 8), ("b", "s"), ((6, 3, 8), (3, 6)), 0),  # a short name for the batch
        (("s", "u", 8), ("u", "s"), ((6, 3, 8), (3, 6)), "whole"),  # either may be it
        (("seq", "batch_size", 8), ("batch_size", 4), ((6, 3, 8), (3, 4)), 0),
    ],
)
def test_the_axis_follows_from_names_and_sizes(
    x: tuple[Dim, ...], state: tuple[Dim, ...], arrays: tuple[tuple[int, ...], ...], expected: object
) -> None:
    assert axes(x, state, arrays) == expected


def test_a_dimension_called_batch_is_the_batch_wherever_it_stands() -> None:
    assert batch_name([TensorSpec("x", "float32", ("seq", "batch_size", 8))]) == "batch_size"
    found = layout_of([TensorSpec("x", "float32", ("seq", "batch", 8))], {"x": (9, 4, 8)}, NOTHING)
    assert found.axes == {"x": 1}
    assert batch_name([TensorSpec("x", "float32", ("?", "?"))]) is None
    assert batch_name([TensorSpec("x", "float32", ("unk__1", 3)), TensorSpec("y", "float32", ("unk__2", 3))]) is None


def test_what_the_user_says_comes_first(tmp_path: Path) -> None:
    unclear = ((None, None), (2, None, None), ((6, 9), (2, 6, 6)))
    assert axes(*unclear, BatchAxes({"state": 2})) == 2
    assert axes(("batch", "t"), (2, "batch", 4), ((6, 9), (2, 6, 4)), BatchAxes({}, whole_files=True)) == "whole"
    np.savez(tmp_path / "x.npz", x=np.ones((6, 9), np.float32), state=np.ones((2, 6, 4), np.float32), rate=16000)
    inputs = specs((None, None), (2, None, 4))
    with pytest.raises(InputError, match="no input 'stat'"):
        open_data(str(tmp_path / "x.npz"), inputs, batch_axes=BatchAxes({"stat": 1}))
    with pytest.raises(InputError, match="no such axis"):
        open_data(str(tmp_path / "x.npz"), inputs, batch_axes=BatchAxes({"state": 3}))
    with pytest.raises(InputError, match="no batch axis to name"):
        open_data("random", inputs, batch_axes=BatchAxes({"state": 1}))


def test_samples_are_cut_along_their_own_axes_and_labels_along_the_first(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, state = rng.standard_normal((5, 9)).astype(np.float32), rng.standard_normal((2, 5, 4)).astype(np.float32)
    np.savez(tmp_path / "a.npz", x=x, state=state, rate=16000, label=np.arange(5))
    inputs = specs((None, None), (2, None, 4))
    data = open_data(str(tmp_path / "a.npz"), inputs, batch=2)
    assert [(sample.feeds["x"].shape, sample.feeds["state"].shape, sample.rows) for sample in data] == [
        ((2, 9), (2, 2, 4), 2),
        ((2, 9), (2, 2, 4), 2),
        ((1, 9), (2, 1, 4), 1),
    ]
    second = list(data)[1]
    np.testing.assert_array_equal(second.feeds["state"], state[:, 2:4])
    assert second.feeds["state"].flags.c_contiguous
    assert second.label is not None
    assert second.label.tolist() == [2, 3]
    whole = open_data(str(tmp_path / "a.npz"), inputs, batch_axes=BatchAxes({}, whole_files=True))
    (only,) = whole
    assert only.feeds["state"].shape == (2, 5, 4)
    assert only.label is not None
    assert only.label.tolist() == [0, 1, 2, 3, 4]
    assert whole.digest() != open_data(str(tmp_path / "a.npz"), inputs).digest()


def test_files_whose_axes_are_not_certain_are_one_feed_each_and_a_note_says_so(tmp_path: Path) -> None:
    for i in range(3):
        np.savez(tmp_path / f"{i}.npz", x=np.ones((6, 9), np.float32), state=np.ones((2, 5, 4), np.float32), rate=8000)
    data = open_data(str(tmp_path), specs((None, None), (2, None, 4)))
    assert len(data) == 3
    (note,) = data.notes
    assert note.startswith("which axis of 'state' holds the samples is not certain: each file is taken for one feed")
    assert "--batch-axis 'state=AXIS'" in note


def test_an_error_names_the_arrays_and_the_sizes_that_disagree(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.ones((6, 9), np.float32), state=np.ones((2, 5, 4), np.float32), rate=8000)
    with pytest.raises(InputError, match="'x' and 'state' differ in their number of samples") as caught:
        open_data(str(tmp_path / "x.npz"), specs(("batch", None), (2, "batch", 4)))
    assert caught.value.note is not None
    assert "'x' [6, 9] has 6 (6 rows, 1 each) along axis 0" in caught.value.note
    assert "'state' [2, 5, 4] has 5 (5 rows, 1 each) along axis 1" in caught.value.note
    assert "--batch-axis NAME=AXIS" in str(caught.value.hint)


# Outputs


def test_outputs_are_split_along_the_axis_that_has_the_batch_by_name_or_by_size() -> None:
    named = Head(batch_axis=1)
    assert batch_axis(named, np.zeros((9, 3, 4)), None) == 1
    assert batch_axis(Head(), np.zeros((9, 3, 4)), 3) == 1
    assert batch_axis(Head(), np.zeros((3, 3, 4)), 3) == 0
    assert batch_axis(Head(), np.zeros((9, 3, 3)), 3) == 0  # two fit: one feed is one sample
    assert batch_axis(Head(), np.zeros((9, 1, 4)), 1) == 0
    (moved,) = rows_first([np.zeros((9, 3, 4))], [1])
    assert moved.shape == (3, 9, 4)


TIME_FIRST = """<ir_version: 9, opset_import: ["" : 17]>
g (float[time, batch, 4] x, float[2, batch, 3] state) => (float[time, batch, 5] y, float[2, batch, 3] next)
<float[4, 5] w = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}> {
  y = MatMul(x, w)
  sums = ReduceMean<axes = [0, 2], keepdims = 1>(x)
  next = Add(state, sums)
}"""


def test_heads_know_where_outputs_have_the_batch() -> None:
    import onnx_ir as ir

    found = heads_of(ir.from_proto(onnx.parser.parse_model(TIME_FIRST)))
    assert (found["y"].batch_axis, found["y"].dims) == (1, (None, None, 5))
    assert (found["next"].batch_axis, found["next"].dims) == (1, (None, 2, 3))


def test_commands_take_a_model_with_time_first_and_one_feed_a_file(tmp_path: Path) -> None:
    onnx.save(onnx.parser.parse_model(TIME_FIRST), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    rng = np.random.default_rng(0)
    for i in range(4):
        x, state = rng.standard_normal((7, 6, 4)), rng.standard_normal((2, 6, 3))
        np.savez(tmp_path / "data" / f"{i}.npz", x=x.astype(np.float32), state=state.astype(np.float32))
    run = modelopt("compare", "m.onnx", "m.onnx", "--eval", "data", "--no-bench", cwd=tmp_path).succeeded()
    assert "(n=24)" in run.err + run.out.decode()
    run = modelopt("compare", "m.onnx", "m.onnx", "--eval", "data", "--whole-files", "--no-bench", cwd=tmp_path)
    assert "(n=4)" in run.err + run.out.decode()
    quantized = modelopt("quantize", "m.onnx", "--calib", "data", "--no-bench", "-o", "x.onnx", cwd=tmp_path)
    assert quantized.code == 0, quantized.err
    timed = modelopt(
        *("bench", "m.onnx", "--data", "data", "--batch-axis", "state=1", "--budget", "1", "--warmup", "0"),
        cwd=tmp_path,
    )
    assert timed.code == 0, timed.err
    wrong = modelopt("compare", "m.onnx", "m.onnx", "--eval", "data", "--batch-axis", "x=0", cwd=tmp_path)
    assert wrong.code == 2
    assert "'x' [7, 6, 4] has 7 (7 rows, 1 each) along axis 0" in wrong.err


# Flags and recipes


def test_the_flags_are_keys_of_a_recipe(tmp_path: Path) -> None:
    words = ("--batch-axis", "state=1", "--batch-axis", "x=0", "--whole-files", "--print-recipe")
    printed = modelopt("quantize", "--calib", "data", "--eval", "more", *words, "m.onnx", cwd=tmp_path).succeeded()
    recipe = parse(printed.out.decode())
    for spec in (recipe.calibration, recipe.evaluate):
        assert spec is not None
        assert spec.batch_axis == {"state": 1, "x": 0}
        assert spec.whole_files
    assert "batch-axis:" in dump(Recipe(steps=(), calibration=DataSpec(data="d", batch_axis={"state": 1})))


@pytest.mark.parametrize("words", [("--batch-axis", "state=1"), ("--whole-files",)])
@pytest.mark.parametrize("command", [("fold", "m.onnx"), ("compare", "m.onnx", "m.onnx"), ("bench", "m.onnx")])
def test_the_flags_need_data(tmp_path: Path, command: tuple[str, ...], words: tuple[str, ...]) -> None:
    run = modelopt(*command, *words, cwd=tmp_path)
    assert run.code == 2
    assert "need" in run.err
    assert "data" in run.err


def test_an_axis_is_a_number_from_0(tmp_path: Path) -> None:
    run = modelopt("fold", "m.onnx", "--eval", "d.npz", "--batch-axis", "state=last", cwd=tmp_path)
    assert run.code == 2
    assert "is not NAME=AXIS with an axis from 0" in run.err
