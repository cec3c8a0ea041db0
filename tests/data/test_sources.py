"""Functions, test sets, random data, and parts of data sets."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt.core.errors import InputError, ModeloptError, Refused
from modelopt.core.signature import TensorSpec
from modelopt.data import open_data, overlap, random_data, split, user_files
from tests.data_tools import error, error_of, spec

X = spec("x", "n", 2)


def script(folder: Path, body: str) -> str:
    (folder / "feeds.py").write_text("import numpy as np\n" + body)
    return f"{folder / 'feeds.py'}:make"


GOOD = """
def make():
    for i in range(5):
        yield {"x": np.full((1, 2), i, np.float32)}, i
"""


def test_a_function_feeds_samples_again_and_again(tmp_path: Path) -> None:
    dataset = open_data(script(tmp_path, GOOD), [X])
    assert len(dataset) == 5
    for _ in range(2):
        assert [np.asarray(s.label).item() for s in dataset] == [0, 1, 2, 3, 4]
    assert [s.name.rpartition("/")[2] for s in dataset.select([1, 3])] == ["feeds.py:make[1]", "feeds.py:make[3]"]
    assert not (tmp_path / "__pycache__").exists()
    with pytest.raises(IndexError):
        list(dataset.select([3, 1]))
    with pytest.raises(IndexError):
        list(dataset.select([5]))
    assert dataset.digest() == open_data(dataset.source, [X]).digest()


def test_a_function_may_take_the_inputs_and_never_end(tmp_path: Path) -> None:
    body = """
def make(inputs):
    while True:
        yield {spec.name: np.zeros((1, 2), spec.dtype) for spec in inputs}
"""
    dataset = open_data(script(tmp_path, body), [X], limit=3)
    assert len(dataset) == 3
    assert not dataset.has_labels


def test_an_endless_function_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["modelopt.data.stream"], "MAX_SAMPLES", 10)
    body = 'def make():\n    while True:\n        yield {"x": np.zeros((1, 2), np.float32)}\n'
    assert "does not end" in error(InputError, script(tmp_path, body), [X]).fact


@pytest.mark.parametrize(
    ("body", "fact"),
    [
        ("raise ValueError('early')", "line 2: ValueError: early"),
        ("def make(:", "line 2: SyntaxError"),
        ("import sys\nsys.exit(3)", "line 3: SystemExit"),
        ("def make():\n    raise KeyError('k')\n", "line 3: KeyError"),
        ("def make():\n    yield {'x': 1 / 0}\n", "line 3: ZeroDivisionError"),
        ("def make():\n    return 5\n", "returned a int"),
        ("def make():\n    return {}\n", "returned a dict"),
        ("def make():\n    return []\n", "yields no sample"),
        ("def make(a, b):\n    return []\n", "wants 2 arguments"),
        ("def make():\n    yield np.zeros((1, 2))\n", "not feeds"),
        ("def make():\n    yield {'x': [[1.0, 2.0]]}\n", "not an array"),
        ("def make():\n    yield {'x': np.zeros((1, 2))}\n", "float64"),
        ("def make():\n    yield {'x': np.array([[None, 1]])}\n", "object array"),
        ("def make():\n    yield {'x': np.zeros((1, 3), 'f4')}\n", "size 3 on axis 1"),
        ("def make():\n    yield {'x': np.full((1, 2), np.nan, 'f4')}\n", "NaN"),
        ("def make():\n    yield {'y': np.zeros((1, 2), 'f4')}\n", "nothing for"),
        ("def make():\n    yield {'x': np.zeros((1, 2), 'f4')}, object()\n", "the label"),
        ("def make():\n    yield {'x': np.zeros((1, 2), 'f4')}, [[1], [2, 3]]\n", "the label"),
        (
            "def make():\n    yield {'x': np.zeros((1, 2), 'f4')}\n    yield {'x': np.zeros((1, 2), 'f4')}, 1\n",
            "some have none",
        ),
        ("def mack():\n    pass\n", "no function 'make'"),
    ],
)
def test_errors_in_a_function_name_file_and_line(tmp_path: Path, body: str, fact: str) -> None:
    caught = error(InputError, script(tmp_path, body), [X])
    assert fact in caught.fact
    assert "feeds.py" in caught.fact


def test_scripts_take_no_labels_and_must_exist(tmp_path: Path) -> None:
    error(InputError, script(tmp_path, GOOD), [X], labels=tmp_path / "feeds.py")
    error(InputError, str(tmp_path / "none.py:make"), [X])


def test_scalars_from_a_function_stay_scalars(tmp_path: Path) -> None:
    source = script(tmp_path, "def make():\n    return [{'s': np.float32(3)}]\n")
    (sample,) = open_data(source, [spec("s")])
    assert sample.feeds["s"].shape == ()
    assert isinstance(sample.feeds["s"], np.ndarray)


def tensor(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx.numpy_helper.from_array(array).SerializeToString())


def test_backend_test_layout(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        tensor(tmp_path / f"test_data_set_{number}" / "input_0.pb", np.full((1, 2), number, np.float32))
        tensor(tmp_path / f"test_data_set_{number}" / "input_1.pb", np.array(number, np.int64))
        tensor(tmp_path / f"test_data_set_{number}" / "output_0.pb", np.zeros(3, np.float32))
    (tmp_path / "labels.txt").write_text("4\n5\n6")
    inputs = [X, spec("k", dtype="int64")]
    dataset = open_data(str(tmp_path), inputs, labels=tmp_path / "labels.txt")
    assert [(s.name, s.feeds["k"].item()) for s in dataset] == [
        ("test_data_set_0", 0),
        ("test_data_set_2", 2),
        ("test_data_set_10", 10),
    ]
    assert [np.asarray(s.label).item() for s in dataset] == [4, 5, 6]
    assert len(open_data(str(tmp_path / "test_data_set_2"), inputs)) == 1
    assert dataset.digest() != open_data(str(tmp_path), inputs).digest()
    assert "holds 2 inputs" in error(InputError, str(tmp_path), [X]).fact
    (tmp_path / "test_data_set_2" / "input_0.pb").rename(tmp_path / "test_data_set_2" / "input_3.pb")
    assert "input_0.pb is missing" in error(InputError, str(tmp_path), inputs).fact


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"", b"\x08\xff\xff\xff\xff\x0f\x10\x01"])
def test_damaged_tensors(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "input_0.pb").write_bytes(content)
    error(InputError, str(tmp_path), [X])


def test_odd_tensors(tmp_path: Path) -> None:
    path = tmp_path / "input_0.pb"
    tensor(path, np.array(["a"], dtype=object))
    error(Refused, str(tmp_path), [X])
    proto = onnx.TensorProto(data_type=1, dims=[1 << 40, 2])
    path.write_bytes(proto.SerializeToString())
    assert "shape" in str(error(InputError, str(tmp_path), [X]).note)
    proto = onnx.TensorProto(data_type=1, dims=[1, 2], raw_data=b"123")
    path.write_bytes(proto.SerializeToString())
    error(InputError, str(tmp_path), [X])
    proto = onnx.TensorProto(data_type=1, dims=[1, 2], data_location=onnx.TensorProto.EXTERNAL)
    path.write_bytes(proto.SerializeToString())
    error(Refused, str(tmp_path), [X])


def test_a_folder_of_two_kinds_is_refused(tmp_path: Path) -> None:
    tensor(tmp_path / "input_0.pb", np.zeros((1, 2), np.float32))
    np.save(tmp_path / "x.npy", np.zeros((1, 2), np.float32))
    assert "mixes" in error(InputError, str(tmp_path), [X]).fact


MANY = [
    spec("x", "batch", 3, "h", None),
    spec("h", 2, "batch", 4),
    spec("ids", "batch", "seq", dtype="int64"),
    spec("flag", dtype="bool"),
    spec("half", None, dtype="float16"),
    spec("brain", 2, dtype="bfloat16"),
    spec("z", 2, dtype="complex64"),
    spec("q", 4, dtype="int4"),
]


def test_random_data_is_seeded_and_shaped() -> None:
    data = random_data(MANY, n=3, seed=1, free_dims={"seq": 5})
    first = next(iter(data)).feeds
    assert {name: array.shape for name, array in first.items()} == {
        "x": (1, 3, 8, 8),
        "h": (2, 1, 4),
        "ids": (1, 5),
        "flag": (),
        "half": (1,),
        "brain": (2,),
        "z": (2,),
        "q": (4,),
    }
    assert all(array.dtype.name == one.dtype for one, array in zip(MANY, first.values(), strict=True))
    assert set(first["ids"].ravel().tolist()) <= {0, 1}
    assert overlap(data, random_data(MANY, n=3, seed=1, free_dims={"seq": 5})) == 3
    assert overlap(data, random_data(MANY, n=3, seed=2, free_dims={"seq": 5})) == 0
    assert data.digest() == random_data(MANY, n=3, seed=1, free_dims={"seq": 5}).digest()
    assert [s.name for s in data.select([2])] == ["random[2]"]
    assert [s.feeds for s in random_data([], n=2, seed=0)] == [{}, {}]
    with pytest.raises(IndexError):
        list(data.select([3]))


def test_random_through_open_data(tmp_path: Path) -> None:
    assert len(open_data("random", [X])) == 16
    sample = next(iter(open_data("random", [X], limit=2, batch=4)))
    assert sample.feeds["x"].shape == (4, 2)
    error(InputError, "random", [X], labels=tmp_path)


@pytest.mark.parametrize(
    ("inputs", "options", "kind"),
    [
        ([X], {"n": 0, "seed": 0}, InputError),
        ([X], {"n": 1, "seed": -1}, InputError),
        ([X], {"n": 1, "seed": 0, "free_dims": {"m": 2}}, InputError),
        ([X], {"n": 1, "seed": 0, "free_dims": {"n": 0}}, InputError),
        ([TensorSpec("x", "float32", None)], {"n": 1, "seed": 0}, InputError),
        ([spec("x", 1 << 40)], {"n": 1, "seed": 0}, InputError),
        ([TensorSpec("x", "seq(tensor(float))", None)], {"n": 1, "seed": 0}, Refused),
    ],
)
def test_random_data_refuses(inputs: list[TensorSpec], options: dict[str, Any], kind: type[ModeloptError]) -> None:
    error_of(kind, random_data, inputs, **options)


@settings(deadline=None)
@given(n=st.integers(2, 40), fraction=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_split_parts_the_samples(n: int, fraction: float, seed: int) -> None:
    data = random_data([X], n=n, seed=0)
    if not 0 < round(n * fraction) < n:
        error_of(InputError, split, data, fraction, seed)
        return
    rest, held = split(data, fraction, seed)
    names = sorted(s.name for part in (rest, held) for s in part)
    assert names == sorted(s.name for s in data)
    assert len(held) == round(n * fraction)
    assert overlap(rest, held) == 0
    assert [part.digest() for part in split(data, fraction, seed)] == [rest.digest(), held.digest()]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -1.0, float("nan")])
def test_splits_that_leave_nothing(fraction: float) -> None:
    error_of(InputError, split, random_data([X], n=4, seed=0), fraction, 0)
    error_of(InputError, split, random_data([X], n=4, seed=0), 0.5, -1)


def test_a_limit_draws_from_everywhere_by_seed(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.arange(200, dtype=np.float32).reshape(100, 2), labels=np.arange(100))
    source = str(tmp_path / "x.npz")
    drawn = [np.asarray(s.label).item() for s in open_data(source, [X], limit=10, seed=3)]
    assert drawn == sorted(set(drawn))
    assert len(drawn) == 10
    assert drawn[-1] > 50
    assert drawn == [np.asarray(s.label).item() for s in open_data(source, [X], limit=10, seed=3)]
    assert drawn != [np.asarray(s.label).item() for s in open_data(source, [X], limit=10, seed=4)]
    assert len(open_data(source, [X], limit=1000)) == 100
    assert open_data(source, [X], limit=10).has_labels


def test_overlap_counts_evaluation_samples_seen_in_calibration(tmp_path: Path) -> None:
    array = np.arange(20, dtype=np.float32).reshape(10, 2)
    np.savez(tmp_path / "a.npz", x=array[:6])
    np.savez(tmp_path / "b.npz", x=array[4:])
    a, b = (open_data(str(tmp_path / name), [X]) for name in ("a.npz", "b.npz"))
    assert overlap(a, b) == overlap(b, a) == 2
    assert overlap(a, b, limit=4) == 0
    text = spec("t", "n", dtype="string")
    np.savez(tmp_path / "t.npz", t=np.array(["a", "b", "a"]))
    words = open_data(str(tmp_path / "t.npz"), [text])
    assert overlap(words, words) == 3


def test_preprocessing_of_arrays_is_refused(tmp_path: Path) -> None:
    from modelopt.data import Preprocess

    np.save(tmp_path / "x.npy", np.zeros((1, 2), np.float32))
    error(InputError, str(tmp_path / "x.npy"), [X], preprocess=Preprocess())


def test_text_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files, "MAX_TEXT_BYTES", 3)
    (tmp_path / "labels.txt").write_text("1\n2\n3\n")
    np.save(tmp_path / "x.npy", np.zeros((3, 2), np.float32))
    caught = error(InputError, str(tmp_path / "x.npy"), [X], labels=tmp_path / "labels.txt")
    assert "too large" in caught.fact


def test_heavy_imports_wait_until_they_are_needed() -> None:
    import subprocess

    heavy = {"PIL", "onnx", "onnx_ir", "onnxruntime", "torch", "rich", "click"}
    code = f"import sys, modelopt.data; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
