"""Samples that a Python program holds in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import BatchAxes, open_data, open_memory
from modelopt.data.in_memory import repeatable

X, Y = TensorSpec("x", "float32", ("n", 4)), TensorSpec("y", "int64", ("n",))


def floats(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_arrays_are_cut_as_those_of_a_file(tmp_path: Path) -> None:
    arrays = {"x": floats(7, 4), "label": np.arange(7)}
    np.savez(tmp_path / "d.npz", **arrays)  # type: ignore[arg-type]
    for settings in ({}, {"batch": 3}, {"limit": 4, "seed": 5}, {"batch_axes": BatchAxes({}, whole_files=True)}):
        of_file = list(open_data(str(tmp_path / "d.npz"), [X], **settings))
        in_memory = list(open_memory(arrays, [X], source="d.npz", **settings))
        assert [sample.name for sample in in_memory] == [sample.name for sample in of_file]
        for one, other in zip(in_memory, of_file, strict=True):
            np.testing.assert_array_equal(one.feeds["x"], other.feeds["x"])
            np.testing.assert_array_equal(one.label, other.label)


def test_one_array_is_the_only_input() -> None:
    assert len(open_memory(floats(7, 4), [X], source="s")) == 7
    with pytest.raises(InputError, match="one array was given, the model has 2 inputs"):
        open_memory(floats(7, 4), [X, Y], source="s")


def test_labels_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("3\n1\n2\n")
    data = open_memory(floats(3, 4), [X], source="s", labels=tmp_path / "labels.txt")
    assert [int(np.asarray(sample.label).item()) for sample in data] == [3, 1, 2]


def test_each_item_of_an_iterable_is_a_feed() -> None:
    rows = floats(6, 4)
    feeds = [({"x": row[None]}, i) for i, row in enumerate(rows)]
    data = open_memory(feeds, [X], source="s")
    assert (len(data), data.has_labels) == (6, True)
    assert [sample.name for sample in data.select([1, 4])] == ["s[1]", "s[4]"]
    bare = open_memory([row[None] for row in rows], [X], source="s")
    assert not bare.has_labels
    for one, other in zip(data, bare, strict=True):
        np.testing.assert_array_equal(one.feeds["x"], other.feeds["x"])
    assert len(open_memory(feeds, [X], source="s", limit=2)) == 2


def test_an_iterator_is_kept() -> None:
    data = open_memory(repeatable(row[None] for row in floats(3, 4)), [X], source="s")
    assert [len(list(data)), len(list(data))] == [3, 3]


def test_equal_digests_are_equal_samples() -> None:
    def digest(data: Any, **settings: Any) -> str:
        return open_memory(data, [X], source="s", **settings).digest()

    rows = floats(3, 4)
    assert digest(rows) == digest({"x": rows.copy()})
    assert digest(rows) != digest(rows + 1)
    assert digest(rows) != digest(rows, batch=2)
    feeds = [{"x": row[None]} for row in rows]
    assert digest(feeds) == digest(tuple(feeds))
    assert digest(feeds) != digest(feeds[:2])
    assert digest(feeds) != digest([(feed, 0) for feed in feeds])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "holds no sample"),
        ({}, "x"),
        ({"x": floats(3, 5)}, "has size 5"),
        ({"x": [1.0, 2.0]}, "not an array"),
        ({"x": np.array([{}], dtype=object)}, "not an array of numbers"),
        ([{"x": floats(1, 4)}, ({"x": floats(1, 4)}, 1)], "some samples have a label"),
        ([{"x": [1.0]}], "not an array"),
        (["a"], "is a str, not feeds"),
        (3, "a int is not data"),
        (np.full((2, 4), np.nan, np.float32), "NaN"),
    ],
)
def test_what_is_no_data(data: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        list(open_memory(data, [X], source="s"))


def test_an_iterable_has_no_batch_axis() -> None:
    with pytest.raises(InputError, match="one feed"):
        open_memory([{"x": floats(1, 4)}], [X], source="s", batch_axes=BatchAxes({"x": 0}))
