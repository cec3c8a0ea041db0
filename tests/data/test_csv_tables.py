"""Tables: which columns feed which input, where labels come from, and what a hostile file ends in."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from modelopt.core.errors import InputError
from modelopt.data import csv_tables, open_data
from modelopt.data.columns import Columns
from tests.command_line import evaluation, modelopt, sample
from tests.data_tools import spec


def table(folder: Path, text: str, name: str = "t.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_columns_feed_inputs_by_name(tmp_path: Path) -> None:
    path = table(tmp_path, "id,n,x,label\na,3,0.5,1\nb,4,-1.5,0\n")
    data = open_data(path, [spec("x", "n", 1), spec("n", "n", dtype="int64")])
    first, second = data
    assert first.feeds["x"].tolist() == [[0.5]]
    assert second.feeds["n"].tolist() == [4]
    assert [each.label.tolist() for each in data if each.label is not None] == [[1], [0]]
    assert data.notes[-1] == "column 'id' is not an input of the model: ignored"


def test_numbered_columns_feed_one_input_in_their_order(tmp_path: Path) -> None:
    path = table(tmp_path, "x[1];x[0];y\n2;1;7\n4;3;8\n")
    data = open_data(path, [spec("x", "n", 2), spec("y", "n")], batch=2)
    (whole,) = data
    assert whole.feeds["x"].tolist() == [[1, 2], [3, 4]]
    assert whole.feeds["y"].tolist() == [7, 8]


def test_one_input_takes_all_columns_but_the_labels(tmp_path: Path) -> None:
    path = table(tmp_path, "length\twidth\tkind\n1.5\t2\tcat\n3\t4\tdog\n", "t.tsv")
    data = open_data(path, [spec("x", "n", 2)], columns=Columns("kind"))
    assert np.concatenate([each.feeds["x"] for each in data]).tolist() == [[1.5, 2], [3, 4]]
    assert [each.label.tolist() for each in data if each.label is not None] == [["cat"], ["dog"]]


def test_a_table_without_names_and_an_input_of_several_axes(tmp_path: Path) -> None:
    path = table(tmp_path, "1,2,3,4\n5,6,7,8\n")
    (labels := tmp_path / "labels.txt").write_text("1\n0\n")
    data = open_data(path, [spec("x", "n", 2, "w")], labels=labels)
    assert [each.feeds["x"].tolist() for each in data] == [[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]]
    assert data.has_labels


def test_calibration_may_lack_the_column_of_the_labels(tmp_path: Path) -> None:
    path = table(tmp_path, "x\n1\n")
    data = open_data(path, [spec("x", "n", 1)], columns=Columns("kind", require_label=False))
    assert not data.has_labels


def test_equal_tables_have_equal_digests(tmp_path: Path) -> None:
    inputs = [spec("x", "n", 1)]
    first = open_data(table(tmp_path, "x\n1\n2\n"), inputs).digest()
    assert open_data(table(tmp_path, "x\n1\n3\n"), inputs).digest() != first
    assert open_data(table(tmp_path, "x\n1\n2\n"), inputs).digest() == first


def test_text_and_truths(tmp_path: Path) -> None:
    path = table(tmp_path, 'name,flag\n"a, b",true\n"c\nd",0\n')
    data = list(open_data(path, [spec("name", "n", dtype="string"), spec("flag", "n", dtype="bool")]))
    assert [each.feeds["name"].tolist() for each in data] == [["a, b"], ["c\nd"]]
    assert [each.feeds["flag"].tolist() for each in data] == [[True], [False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("x,y\n", "no sample|no values"),
        ("x,x\n1,2\n", "two columns are called 'x'"),
        ("x,y\n1,2\n3\n", "line 3: 1 cells, the first line has 2"),
        ("x,y\n1,two\n", "line 2: 'two' is no float32"),
        ("x,y\n1,\n", "line 2: an empty cell is no float32"),
        ("x,y,z\n1,2,3\n", "3 columns do not make a row of the model's input"),
        ('x,y\n"1,2\n', "this is no CSV"),
        ("x,y\nnan,1\n", "NaN or Inf"),
        ("x,y\n\x00,1\n", "is no float32|no CSV"),
    ],
)
def test_malformed_tables_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(open_data(table(tmp_path, text), [spec("v", "n", 2)]))
    assert "\n" not in caught.value.fact


def test_a_table_that_is_not_utf8_or_whose_numbers_are_too_large(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"x\n\xff\xfe\n")
    with pytest.raises(InputError, match="not UTF-8"):
        open_data(str(tmp_path / "t.csv"), [spec("x", "n")])
    for number in ("300", "9" * 30, "9" * 5000):
        with pytest.raises(InputError, match=r"too large|is no int8"):
            open_data(table(tmp_path, f"x\n{number}\n"), [spec("x", "n", dtype="int8")])
    with pytest.raises(InputError, match="NaN or Inf"):
        list(open_data(table(tmp_path, "x\n1e30\n"), [spec("x", "n", dtype="float16")]))


def test_a_missing_column_of_labels_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no column 'kinds'") as caught:
        open_data(table(tmp_path, "x,kind\n1,2\n"), [spec("x", "n")], columns=Columns("kinds"))
    assert "kind" in (caught.value.hint or "")
    np.savez(tmp_path / "a.npz", x=np.zeros(2, np.float32))
    with pytest.raises(InputError, match="has no columns"):
        open_data(str(tmp_path / "a.npz"), [spec("x", "n")], columns=Columns("kind"))


@pytest.mark.parametrize("bomb", ["line", "quoted", "cells"])
def test_a_bomb_takes_little_memory(tmp_path: Path, bomb: str) -> None:
    path = tmp_path / "t.csv"
    with path.open("wb") as file:
        file.write(b"x\n")
        if bomb == "line":
            file.truncate(1 << 30)
        elif bomb == "quoted":
            file.write(b'"' + b"1\n" * 600_000)
        else:
            file.write(b'"1\n",' * 300_000)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"too long|too large|no CSV"):
            open_data(str(path), [spec("x", "n")])
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()


def test_a_table_of_too_many_cells_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_tables, "MAX_CELLS", 10)
    assert len(open_data(table(tmp_path, "x\n" + "1\n" * 10), [spec("x", "n")])) == 10
    with pytest.raises(InputError, match="is too large"):
        open_data(table(tmp_path, "x\n" + "1\n" * 11), [spec("x", "n")])


def test_evaluate_reads_a_table_and_refuses_a_bomb(tmp_path: Path) -> None:
    arrays = np.load(evaluation("digits_mlp"))
    (name,) = (key for key in arrays.files if key not in ("label", "labels"))
    labels = next(arrays[key] for key in ("label", "labels") if key in arrays.files)
    rows = [
        ",".join(map(repr, [*map(float, row), int(label)]))
        for row, label in zip(arrays[name].reshape(len(labels), -1)[:60], labels, strict=False)
    ]
    width = arrays[name][0].size
    header = ",".join([*(f"{name}[{column}]" for column in range(width)), "digit"])
    table(tmp_path, "\n".join([header, *rows]))
    model = sample("digits_mlp")
    found = modelopt("evaluate", model, "--eval", "t.csv", "--label-column", "digit", "--metric", "f1", cwd=tmp_path)
    assert b"f1" in found.succeeded().out
    modelopt("evaluate", model, "--eval", "t.csv", "--label-column", "digits", cwd=tmp_path).refused(
        2, "has no column 'digits'"
    )
    with (tmp_path / "bomb.csv").open("wb") as file:
        file.truncate(1 << 30)
    modelopt("evaluate", model, "--eval", "bomb.csv", cwd=tmp_path).refused(2, "the row is too long")
