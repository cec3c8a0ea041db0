"""Models of strings: their data, random words that the graph knows, and outputs compared by equality."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from modelopt.core.errors import InputError, Refused
from modelopt.core.signature import TensorSpec
from modelopt.data import open_data, random_data
from modelopt.data.synthetic import NUMERALS
from modelopt.measure.evaluate import evaluate
from modelopt.verification.words import words_of
from tests.command_line import modelopt, value

WEIGHT = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
STRING = TensorProto.STRING
ML = "ai.onnx.ml"


def built(nodes: list[Any], inputs: list[Any], outputs: list[Any], *stored: Any) -> ModelProto:
    weights = [numpy_helper.from_array(WEIGHT, "w"), *stored]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(ML, 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


def tokens(*names: str, default: str = "?") -> ModelProto:
    """Words to embeddings to words."""
    count = list(range(len(names)))
    nodes = [
        helper.make_node("Identity", ["s"], ["same"]),
        helper.make_node(
            "LabelEncoder", ["same"], ["ids"], domain=ML, keys_strings=names, values_int64s=count, default_int64=7
        ),
        helper.make_node("Gather", ["w", "ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["y"]),
        helper.make_node("ArgMax", ["y"], ["best"], axis=-1, keepdims=0),
        helper.make_node(
            "LabelEncoder",
            ["best"],
            ["label"],
            domain=ML,
            keys_int64s=count,
            values_strings=names,
            default_string=default,
        ),
    ]
    outputs = [value("y", ["n", "t", 8]), value("label", ["n", "t"], STRING)]
    return built(nodes, [value("s", ["n", "t"], STRING)], outputs)


def table() -> ModelProto:
    """Two columns of categories beside each other, each encoded by itself; a word that is no category is an error."""
    nodes = [
        helper.make_node("Concat", ["color", "size"], ["both"], axis=1),
        helper.make_node("ArrayFeatureExtractor", ["both", "first"], ["colors"], domain=ML),
        helper.make_node("ArrayFeatureExtractor", ["both", "second"], ["sizes"], domain=ML),
        helper.make_node("OneHotEncoder", ["colors"], ["c"], domain=ML, cats_strings=["red", "green"], zeros=0),
        helper.make_node("OneHotEncoder", ["sizes"], ["s"], domain=ML, cats_strings=["small", "large"], zeros=0),
        helper.make_node("Concat", ["c", "s"], ["hot"], axis=2),
        helper.make_node("Identity", ["hot"], ["y"]),
    ]
    stored = [numpy_helper.from_array(np.array([at], np.int64), name) for at, name in enumerate(("first", "second"))]
    inputs = [value(name, ["n", 1], STRING) for name in ("color", "size")]
    return built(nodes, inputs, [value("y", ["n", 1, 4])], *stored)


def numbers() -> ModelProto:
    """Strings that are read as numbers."""
    nodes = [helper.make_node("Cast", ["s"], ["x"], to=1), helper.make_node("Relu", ["x"], ["r"])]
    nodes += [helper.make_node("Identity", ["r"], ["y"])]
    return built(nodes, [value("s", ["n"], STRING)], [value("y", ["n"])])


def echo() -> ModelProto:
    """Strings that nothing asks for."""
    nodes = [helper.make_node("Identity", ["s"], ["t"]), helper.make_node("Identity", ["t"], ["y"])]
    return built(nodes, [value("s", ["n", 2], STRING)], [value("y", ["n", 2], STRING)])


MODELS = {"tokens": tokens("a", "b", "zz"), "table": table(), "numbers": numbers(), "echo": echo()}


def write(path: Path, proto: ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


# Words


def test_the_graph_says_which_words_it_knows() -> None:
    assert words_of(ir.from_proto(MODELS["tokens"])) == {"s": (("a", "b", "zz"),)}
    assert words_of(ir.from_proto(MODELS["table"])) == {"color": (("red", "green"),), "size": (("small", "large"),)}
    assert words_of(ir.from_proto(MODELS["numbers"])) == {"s": NUMERALS}
    assert words_of(ir.from_proto(MODELS["echo"])) == {"s": ()}


def test_columns_of_one_input_have_their_own_words() -> None:
    proto = table()
    del proto.graph.node[0]
    del proto.graph.input[:]
    proto.graph.input.append(value("both", ["n", 2], STRING))
    assert words_of(ir.from_proto(proto)) == {"both": (("red", "green"), ("small", "large"))}


def test_words_that_an_input_is_compared_with_count() -> None:
    nodes = [helper.make_node("Equal", ["s", "k"], ["y"])]
    stored = numpy_helper.from_array(np.array("yes", object), "k")
    proto = built(nodes, [value("s", [3], STRING)], [value("y", [3], TensorProto.BOOL)], stored)
    proto.opset_import[0].version = 19
    assert words_of(ir.from_proto(proto)) == {"s": (("yes",),)}


def test_random_strings_are_drawn_from_the_words_column_by_column() -> None:
    spec = TensorSpec("s", "string", ("n", 2))
    found = random_data([spec], n=20, seed=1, batch=3, words={"s": (("a",), ("b", "c"))})
    drawn = np.concatenate([sample.feeds["s"] for sample in found])
    assert drawn.shape == (60, 2)
    assert set(drawn[:, 0]) == {"a"}
    assert set(drawn[:, 1]) == {"b", "c"}
    numerals = next(iter(random_data([spec], n=1, seed=1, words={"s": NUMERALS}))).feeds["s"]
    assert all(item.isdigit() for item in numerals.ravel())
    plain = next(iter(random_data([spec], n=1, seed=1))).feeds["s"]
    assert all(isinstance(item, str) for item in plain.ravel())


# Commands


@pytest.mark.parametrize("name", list(MODELS))
def test_models_of_strings_run_without_data(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", MODELS[name])
    ran = modelopt("fold", path, "-o", "out.onnx", "--no-bench", cwd=tmp_path).succeeded()
    assert name == "table" or "Verified the exact passes on" in ran.err
    modelopt("compare", path, "out.onnx", "--no-bench", cwd=tmp_path).succeeded()
    quick = ("--budget", "0.2", "--processes", "1", "--rounds", "2", "--warmup", "0")
    modelopt("bench", path, *quick, cwd=tmp_path).succeeded()
    random = ("--eval", "random", "--no-bench")
    modelopt("quantize", path, "--mode", "weights", *random, "-o", "q.onnx", cwd=tmp_path).succeeded()


def test_calibration_reads_object_arrays_of_a_script(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", MODELS["tokens"])
    (tmp_path / "calib.py").write_text(
        "import numpy as np\n"
        "def feeds():\n"
        "    for _ in range(8):\n"
        "        yield {'s': np.array([['a', 'b', '?', ''], ['zz', 'zz', 'a', 'b']], dtype=object)}\n"
    )
    ran = modelopt("quantize", path, "--calib", "calib.py:feeds", "--no-bench", "-o", "q.onnx", cwd=tmp_path)
    ran.succeeded()


def test_outputs_of_strings_are_compared_by_equality(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.onnx", tokens("a", "b", "zz", default=name)) for name in ("first", "second")]
    spec = TensorSpec("s", "string", ("n", "t"))
    data = random_data([spec], n=12, seed=0, words={"s": (("a", "b", "zz"),)})
    found = evaluate(paths[0], paths[1], data)
    scores = {output.output: output for output in found.outputs}
    assert scores["label"].kind == "exact values"
    assert scores["label"].why == "its values are strings"
    assert scores["label"].drop
    assert scores["y"].drop == 0


# Data


SPEC = TensorSpec("s", "string", (None, 2))


def test_unicode_arrays_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", s=np.array([["a", "é漢"], ["", "c"]]))
    feeds = [sample.feeds["s"] for sample in open_data(str(tmp_path / "d.npz"), (SPEC,))]
    assert [each.tolist() for each in feeds] == [[["a", "é漢"]], [["", "c"]]]
    assert all(each.dtype == object for each in feeds)


def test_a_stored_object_array_is_one_clear_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", s=np.array([["a", "b"]], object))
    with pytest.raises(InputError, match=r"'s\.npy' is an object array") as caught:
        open_data(str(tmp_path / "d.npz"), (SPEC,))
    assert 'array.astype("U")' in (caught.value.hint or "")


def test_bytes_are_refused_with_the_way_to_save_them(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", s=np.array([[b"a", b"b"]]))
    with pytest.raises(Refused, match="'s' holds strings as bytes") as caught:
        open_data(str(tmp_path / "d.npz"), (SPEC,))
    assert 'array.astype("U")' in (caught.value.hint or "")


@pytest.mark.parametrize(("item", "name"), [("None", "NoneType"), ("b'x'", "bytes"), ("1.5", "float")])
def test_an_object_among_strings_that_is_none_is_named(item: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "d.py").write_text(
        f"import numpy as np\ndef feeds():\n    yield {{'s': np.array([['a', {item}]], dtype=object)}}\n"
    )
    with pytest.raises(InputError, match=f"'s' holds a {name} among its strings"):
        open_data(f"{tmp_path / 'd.py'}:feeds", (SPEC,))
