"""Arrays from .npz and .npy: how they are cut into samples, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelopt.core.errors import InputError, Refused
from modelopt.core.signature import TensorSpec
from modelopt.data import arrays, open_data
from modelopt.data.array_part import ArrayPart
from tests.data_tools import X, error, floats, npz, spec, unknown


@pytest.mark.parametrize(
    ("inputs", "stored", "batch", "expected"),
    [
        ([spec("x", "n", 4)], {"x": (3, 4)}, 1, [{"x": (1, 4)}] * 3),
        ([spec("x", "n", 4)], {"x": (5, 4)}, 2, [{"x": (2, 4)}] * 2 + [{"x": (1, 4)}]),
        ([spec("x", None, 4)], {"x": (2, 4)}, 1, [{"x": (1, 4)}] * 2),
        ([spec("x", -1, 4)], {"x": (2, 4)}, 1, [{"x": (1, 4)}] * 2),
        ([spec("x", 2, 4)], {"x": (5, 4)}, 1, [{"x": (2, 4)}] * 2),
        ([spec("x", 2, 4)], {"x": (3, 2, 4)}, 1, [{"x": (2, 4)}] * 3),
        ([spec("x", "n", 4)], {"x": (3, 7, 4)}, 1, [{"x": (7, 4)}] * 3),
        ([spec("x", "n", 4), spec("s")], {"x": (3, 4), "s": (3,)}, 1, [{"x": (1, 4), "s": ()}] * 3),
        ([spec("x", "n", 4), spec("s")], {"x": (3, 4), "s": ()}, 1, [{"x": (1, 4), "s": ()}] * 3),
        ([spec("s")], {"s": ()}, 1, [{"s": ()}]),
        ([spec("s")], {"s": (2,)}, 1, [{"s": ()}] * 2),
        ([spec("x", "n", 4), spec("h", 2, 3)], {"x": (3, 4), "h": (2, 3)}, 1, [{"x": (1, 4), "h": (2, 3)}] * 3),
        ([spec("x", "n", 4), spec("h", 2, 3)], {"x": (3, 4), "h": (3, 2, 3)}, 1, [{"x": (1, 4), "h": (2, 3)}] * 3),
        ([spec("x", 1, "t"), spec("lo")], {"x": (1, 9), "lo": ()}, 1, [{"x": (1, 9), "lo": ()}]),
        ([unknown("x")], {"x": (3, 4)}, 1, [{"x": (3, 4)}]),
        ([spec("x", "n", 4), spec("kv", "n", 0)], {"x": (2, 4), "kv": (2, 0)}, 1, [{"x": (1, 4), "kv": (1, 0)}] * 2),
    ],
)
def test_arrays_are_cut_as_the_rules_say(
    tmp_path: Path, inputs: list[TensorSpec], stored: dict[str, tuple[int, ...]], batch: int, expected: list[Any]
) -> None:
    dataset = open_data(npz(tmp_path, **{k: floats(*shape) for k, shape in stored.items()}), inputs, batch=batch)
    assert len(dataset) == len(expected)
    for _ in range(2):  # restartable
        assert [{k: a.shape for k, a in sample.feeds.items()} for sample in dataset] == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(1, 23), batch=st.integers(1, 9), fixed=st.booleans(), fortran=st.booleans())
def test_the_samples_together_are_the_array(
    tmp_path: Path, rows: int, batch: int, *, fixed: bool, fortran: bool
) -> None:
    array = np.asarray(floats(rows, 3, 2), order="F" if fortran else "C")
    source = npz(tmp_path, x=array, labels=np.arange(rows))
    inputs = [spec("x", batch if fixed else "n", 3, 2)]
    if fixed and rows < batch:
        error(InputError, source, inputs)
        return
    dataset = open_data(source, inputs, batch=1 if fixed else batch)
    samples = list(dataset)
    kept = rows - dataset.dropped
    assert dataset.dropped == (rows % batch if fixed else 0)
    np.testing.assert_array_equal(np.concatenate([s.feeds["x"] for s in samples]), array[:kept])
    np.testing.assert_array_equal(np.concatenate([np.asarray(s.label) for s in samples]), np.arange(kept))
    assert all(s.feeds["x"].flags.c_contiguous and s.feeds["x"].flags.owndata for s in samples)
    assert len(samples) == len(dataset)


def test_samples_have_names_labels_and_native_bytes(tmp_path: Path) -> None:
    source = npz(tmp_path, **{"in/a b:0": floats(2, 4).astype(">f4"), "label": np.array([7, 8])})
    dataset = open_data(source, [spec("in/a b:0", "n", 4)])
    first, second = dataset
    assert (first.name, second.name) == ("calib.npz[0]", "calib.npz[1]")
    assert first.feeds["in/a b:0"].dtype.isnative
    assert second.label is not None
    assert second.label.tolist() == [8]
    assert dataset.has_labels


def test_one_label_per_whole_feed_and_per_fixed_batch(tmp_path: Path) -> None:
    whole = open_data(npz(tmp_path, x=floats(2, 3, 4), labels=np.array([5, 6])), [X])
    assert [int(np.asarray(s.label)) for s in whole] == [5, 6]
    fixed = open_data(npz(tmp_path, x=floats(4, 4), labels=np.array([5, 6])), [spec("x", 2, 4)])
    assert [int(np.asarray(s.label)) for s in fixed] == [5, 6]


def test_an_input_named_label_is_an_input(tmp_path: Path) -> None:
    dataset = open_data(npz(tmp_path, label=floats(2, 4)), [spec("label", "n", 4)])
    assert not dataset.has_labels
    assert len(dataset) == 2


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4"])
def test_ml_dtypes_survive_numpy_files(tmp_path: Path, name: str) -> None:
    array = np.array([[1, 2], [3, 4]], dtype=getattr(ml_dtypes, name))
    samples = list(open_data(npz(tmp_path, x=array), [spec("x", "n", 2, dtype=name)]))
    assert samples[1].feeds["x"].dtype == array.dtype
    assert samples[1].feeds["x"].astype(np.float32).tolist() == [[3, 4]]


def test_unicode_arrays_feed_strings(tmp_path: Path) -> None:
    text = spec("t", "n", dtype="string")
    samples = list(open_data(npz(tmp_path, t=np.array(["äb", "c"])), [text]))
    assert samples[0].feeds["t"].dtype == object
    assert samples[0].feeds["t"].tolist() == ["äb"]
    assert "unicode" in str(error(Refused, npz(tmp_path, t=np.array([b"x"])), [text]).hint)
    assert "wants strings" in error(InputError, npz(tmp_path, t=floats(2)), [text]).fact


def test_npy_is_memory_mapped_and_takes_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats(3, 4))
    (tmp_path / "labels.txt").write_text("cat\ndog\ncat\n")
    dataset = open_data(str(tmp_path / "x.npy"), [X], labels=tmp_path / "labels.txt")
    assert [np.asarray(s.label).tolist() for s in dataset] == [["cat"], ["dog"], ["cat"]]
    np.save(tmp_path / "empty.npy", np.zeros((2, 0), np.float32))
    assert "no values" in error(InputError, str(tmp_path / "empty.npy"), [spec("x", "n", 0)]).fact


def test_a_folder_is_read_in_order_with_one_label_list(tmp_path: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    npz(folder, "b.npz", x=floats(2, 4) + 100)
    npz(folder, "a.npz", x=floats(1, 4))
    (folder / ".hidden.npz").write_bytes(b"no")
    np.save(tmp_path / "y.npy", np.array([1, 2, 3]))
    dataset = open_data(str(folder), [X], labels=tmp_path / "y.npy")
    assert [s.name for s in dataset] == ["a.npz", "b.npz[0]", "b.npz[1]"]
    assert [np.asarray(s.label).tolist() for s in dataset] == [[1], [2], [3]]
    assert [s.name for s in dataset.select([0, 2])] == ["a.npz", "b.npz[1]"]
    with pytest.raises(IndexError):
        list(dataset.select([3]))


def test_labels_in_some_files_only_are_ignored_and_said(tmp_path: Path) -> None:
    npz(tmp_path, "a.npz", x=floats(1, 4), labels=np.array([1]))
    npz(tmp_path, "b.npz", x=floats(1, 4), extra=floats(1))
    dataset = open_data(str(tmp_path), [X])
    assert not dataset.has_labels
    assert [s.label for s in dataset] == [None, None]
    assert any("1 of 2 files" in note for note in dataset.notes)
    assert any("'extra'" in note for note in dataset.notes)


def test_dropped_rows_and_split_vectors_are_said(tmp_path: Path) -> None:
    assert "dropped" in open_data(npz(tmp_path, x=floats(3, 4)), [spec("x", 2, 4)]).notes[0]
    assert "array[None]" in open_data(npz(tmp_path, x=floats(3)), [spec("x", "t")]).notes[0]


@pytest.mark.parametrize(
    ("inputs", "arrays", "fact"),
    [
        ([X], {"x": np.zeros((2, 4))}, "float64"),
        ([X], {"x": np.zeros((2, 4), np.int32)}, "int32"),
        ([X], {"x": floats(2, 5)}, "size 5 on axis 1"),
        ([X], {"x": floats(2, 2, 5)}, "size 5 on axis 1"),
        ([X], {"x": floats(4)}, "1 axes"),
        ([X], {"x": floats(2, 2, 2, 4)}, "4 axes"),
        ([spec("s")], {"s": floats(2, 2)}, "2 axes"),
        ([X], {"x": floats(0, 4)}, "no sample"),
        ([X], {"x": floats(0, 2, 4)}, "no sample"),
        ([spec("x", 4, 4)], {"x": floats(3, 4)}, "size 3 on axis 0"),
        ([spec("x", 0, 4)], {"x": floats(3, 4)}, "size 3 on axis 0"),
        ([X], {"y": floats(2, 4)}, "nothing for the model's input 'x'"),
        ([X, spec("m", "n", 4)], {"x": floats(2, 4)}, "nothing for the model's input 'm'"),
        ([X, spec("m", "n", 4)], {"x": floats(2, 4), "m": floats(3, 4)}, "'m' and 'x' differ"),
        ([X, spec("s")], {"x": floats(3, 4), "s": floats(2)}, "differ in their number"),
        ([X, unknown("u")], {"x": floats(3, 4), "u": floats(2)}, "differ in their number"),
        ([X], {"x": np.full((2, 4), np.nan, np.float32)}, "NaN or Inf"),
        ([X], {"x": np.full((2, 4), -np.inf, np.float32)}, "NaN or Inf"),
        ([X], {"x": floats(2, 4), "labels": np.arange(3)}, "labels do not match: 3 labels for 2 samples"),
        ([X], {"x": floats(2, 4), "labels": np.array(3)}, "labels do not match"),
        ([X], {"x": np.array([["a", "b", "c", "d"]])}, "str"),
        ([X], {}, "nothing for"),
        ([], {"x": floats(2, 4)}, "no inputs"),
    ],
)
def test_what_does_not_fit_is_one_error(
    tmp_path: Path, inputs: list[TensorSpec], arrays: dict[str, np.ndarray], fact: str
) -> None:
    assert fact in error(InputError, npz(tmp_path, **arrays), inputs).fact


def test_batches_that_end_elsewhere_are_refused(tmp_path: Path) -> None:
    source = npz(tmp_path, x=floats(17, 4), m=floats(20, 4))
    assert "differ" in error(InputError, source, [X, spec("m", "n", 4)], batch=8).fact


def test_hints_say_what_to_do(tmp_path: Path) -> None:
    assert 'astype("float32")' in str(error(InputError, npz(tmp_path, x=np.zeros((2, 4))), [X]).hint)
    assert "array[None]" in str(error(InputError, npz(tmp_path, x=floats(4)), [X]).hint)
    renamed = error(InputError, npz(tmp_path, inputs=floats(1, 4)), [spec("input", "n", 4)])
    assert "did you mean 'inputs'" in str(renamed.hint)
    assert "input: float32[n, 4]" in str(renamed.note)
    assert "rename 'q' to 'x'" in str(error(InputError, npz(tmp_path, q=floats(1, 4)), [X]).hint)
    assert "'calib.npz'" in str(error(InputError, str(tmp_path / "calid.npz"), [X]).hint)
    assert "network" in str(error(InputError, "https://example.org/calib.npz", [X]).hint)


def test_nonfinite_values_are_accepted_when_asked(tmp_path: Path) -> None:
    source = npz(tmp_path, x=np.full((2, 4), -np.inf, np.float32))
    assert len(list(open_data(source, [X], allow_nonfinite=True))) == 2


def test_tensors_only(tmp_path: Path) -> None:
    source = npz(tmp_path, x=floats(2, 4))
    error(Refused, source, [TensorSpec("x", "seq(tensor(float))", None)])
    error(Refused, source, [TensorSpec("x", "finfo", None)])


def test_npy_feeds_one_input(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats(2, 4))
    assert "2 inputs" in error(InputError, str(tmp_path / "x.npy"), [X, spec("y", "n")]).fact


def test_the_digest_follows_the_contents(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    here = open_data(npz(tmp_path, x=floats(2, 4)), [X])
    same = open_data(npz(tmp_path / "other", x=floats(2, 4)), [X])
    assert here.digest() == same.digest() == here.digest()
    assert here.digest() != open_data(here.source, [X], batch=2).digest()
    before = here.digest()
    npz(tmp_path, x=floats(2, 4) + 1)
    assert here.digest() != before


@pytest.mark.parametrize("options", [{"batch": 0}, {"limit": 0}, {"seed": -1}])
def test_options_out_of_range(tmp_path: Path, options: dict[str, int]) -> None:
    error(InputError, npz(tmp_path, x=floats(2, 4)), [X], **options)


def test_small_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        np.savez(tmp_path / f"{number}.npz", x=np.full((2, 3), number, np.float32))
    loads: list[str] = []
    whole = ArrayPart.load

    def load(part: ArrayPart) -> Mapping[str, np.ndarray]:
        loads.append(part.name)
        return whole(part)

    monkeypatch.setattr(ArrayPart, "load", load)
    dataset = open_data(str(tmp_path), [spec("x", "n", 3)])
    first = [sample.feeds["x"].copy() for sample in dataset]
    again = [sample.feeds["x"] for sample in dataset]
    assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
    assert loads == ["0.npz", "1.npz", "2.npz"]
    monkeypatch.setattr(arrays, "KEPT_BYTES", 50)
    large = open_data(str(tmp_path), [spec("x", "n", 3)])
    assert len([*large, *large]) == 12
    assert len(loads) == 9
