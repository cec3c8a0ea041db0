"""Outputs that are no tensors: sequences, optionals and maps are run, verified, compared and benchmarked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from onnx import ModelProto, TensorProto, TypeProto, helper, numpy_helper

from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.core.errors import InputError, VerificationFailed
from modelopt.core.signature import TensorSpec
from modelopt.data import open_data, random_data
from modelopt.engine.optimize import Request, run
from modelopt.measure.evaluate import Accuracy, evaluate
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import Recipe
from modelopt.runtime import parts
from modelopt.runtime.session import IoSpec, SessionSpec
from modelopt.runtime.worker import Worker
from tests.command_line import modelopt, value

TENSOR = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
RNG = np.random.default_rng(0)
WEIGHTS = {name: RNG.normal(size=(16, 16)).astype(np.float32) for name in ("w", "w2")}


def typed(name: str, type_: TypeProto) -> Any:
    return helper.make_value_info(name, type_)


def maps(keys: int = TensorProto.INT64) -> TypeProto:
    return helper.make_sequence_type_proto(helper.make_map_type_proto(keys, helper.make_tensor_type_proto(1, [])))


def built(nodes: list[Any], outputs: list[Any], **weights: np.ndarray) -> ModelProto:
    """A model of ``x: float[n, 16]``."""
    stored = [numpy_helper.from_array(array, name) for name, array in {**WEIGHTS, **weights}.items()]
    graph = helper.make_graph(nodes, "g", [value("x", ["n", 16])], outputs, stored)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=imports, ir_version=9)


LINEAR = [
    helper.make_node("Identity", ["x"], ["same"]),
    helper.make_node("MatMul", ["same", "w"], ["h"]),
    helper.make_node("Relu", ["h"], ["r"]),
    helper.make_node("MatMul", ["r", "w2"], ["z"]),
]


def sequence(*sizes: int) -> ModelProto:
    """Its columns in parts of these sizes, as a sequence."""
    split = helper.make_node("SplitToSequence", ["z", "sizes"], ["parts"], axis=1)
    output = typed("parts", helper.make_sequence_type_proto(TENSOR))
    return built([*LINEAR, split], [output], sizes=np.array(sizes, np.int64))


def classifier(**labels: Any) -> ModelProto:
    """Probabilities as ZipMap gives them, beside the class itself."""
    keys = TensorProto.STRING if "classlabels_strings" in labels else TensorProto.INT64
    nodes = [
        *LINEAR,
        helper.make_node("Softmax", ["z"], ["p"]),
        helper.make_node("ArgMax", ["p"], ["label"], axis=1, keepdims=0),
        helper.make_node("ZipMap", ["p"], ["probabilities"], domain="ai.onnx.ml", **labels),
    ]
    return built(nodes, [value("label", ["n"], TensorProto.INT64), typed("probabilities", maps(keys))])


INTEGERS = {"classlabels_int64s": list(range(16))}
STRINGS = {"classlabels_strings": [chr(97 + i) for i in range(16)]}


def optional() -> ModelProto:
    node = helper.make_node("Optional", ["z"], ["maybe"])
    return built([*LINEAR, node], [typed("maybe", helper.make_optional_type_proto(TENSOR))])


MODELS = {
    "equal-parts": sequence(8, 8),
    "unequal-parts": sequence(4, 12),
    "classes": classifier(**INTEGERS),
    "named-classes": classifier(**STRINGS),
    "optional": optional(),
}


@pytest.fixture(params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / "m.onnx", MODELS[request.param])


def write(path: Path, proto: ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


# As arrays


FLOATS = "tensor(float)"


@pytest.mark.parametrize(
    ("type_", "given", "values", "held"),
    [
        (f"seq({FLOATS})", [np.ones(2, np.float32)] * 3, np.ones((3, 2)), ["[2]"] * 3),
        (f"seq({FLOATS})", [np.ones((1, 2), np.float32), np.zeros(1, np.float32)], [1, 1, 0], ["[1, 2]", "[1]"]),
        (f"seq({FLOATS})", [], np.zeros(0), []),
        (f"optional({FLOATS})", None, np.zeros(0), []),
        (f"optional({FLOATS})", np.ones((2, 1), np.float32), np.ones((2, 1)), ["[2, 1]"]),
        (f"optional(seq({FLOATS}))", [np.ones(2, np.float32)], np.ones((1, 2)), ["[2]"]),
        (f"map(int64,{FLOATS})", {3: 0.5, 1: 0.25}, [0.25, 0.5], [1, 3]),
        (f"seq(map(int64,{FLOATS}))", [{0: 0.5, 1: 1.0}, {1: 2.0, 0: 3.0}], [[0.5, 1], [3, 2]], [0, 1]),
        (f"seq(map(string,{FLOATS}))", [{"a": 0.5}, {"b": 1.0, "a": 2.0}], [0.5, 2, 1], ["0: a", "1: a", "1: b"]),
        (f"seq(map(string,{FLOATS}))", [], np.zeros(0), []),
        ("seq(tensor(string))", [np.array(["a", "b"], object)], [["a", "b"]], ["[2]"]),
        ("map(string,tensor(string))", {"k": "v"}, ["v"], ["k"]),
    ],
)
def test_what_is_no_tensor_becomes_its_values_and_what_holds_them_together(
    type_: str, given: Any, values: Any, held: list[Any]
) -> None:
    found = parts.arrays_of(given, type_)
    assert [array.tolist() for array in found] == [np.asarray(values).tolist(), held]
    assert found[0].dtype == (object if type_.endswith("(string))") else np.float32)
    listed, whole = parts.outputs_of([IoSpec("t", FLOATS, (2,)), IoSpec("o", type_, ())])
    assert [part.name for part in listed] == ["t", "o", "o (keys)" if "map" in type_ else "o (shapes)"]
    assert whole == (0, 1, 1)
    assert len(parts.arrays_of(np.zeros(2), FLOATS)) == 1


def test_what_no_array_holds_is_said_to_be_so() -> None:
    with pytest.raises(parts.NoArray):
        parts.arrays_of(object(), "sparse_tensor(float)")
    with pytest.raises(parts.NoArray):
        parts.arrays_of([{1: 2}, 3], "seq(map(int64,tensor(float)))")


def test_a_session_gives_the_parts_by_name_and_by_position(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", MODELS["named-classes"])
    feeds = {"x": RNG.normal(size=(3, 16)).astype(np.float32)}
    with Worker() as worker:
        session = worker.open(path, SessionSpec(threads=1, spin=False))
        assert [output.name for output in session.info.outputs] == ["label", "probabilities", "probabilities (keys)"]
        label, table, keys = session.run(feeds)
        assert table.shape == (3, 16)
        assert keys.tolist() == STRINGS["classlabels_strings"]
        assert np.allclose(table.sum(1), 1)
        assert table.argmax(1).tolist() == label.tolist()
        swapped = session.run(feeds, ["probabilities (keys)", "label"])
        assert [array.tolist() for array in swapped] == [keys.tolist(), label.tolist()]
        assert session.run(feeds, []) == []


# Commands


def test_models_with_such_outputs_are_optimized_and_verified(model: Path) -> None:
    folder = model.parent
    modelopt("inspect", model, cwd=folder).succeeded()
    for command in (
        ("fold",),
        ("fuse",),
        ("prune", "--sparsity", "0.5", "--no-verify"),
        ("quantize", "--mode", "weights"),
    ):
        ran = modelopt(*command, model, "-o", f"{command[0]}.onnx", "--no-bench", cwd=folder).succeeded()
        assert "eliminate-identity" not in ran.err or "Verified" in ran.err
        assert command != ("fold",) or "Verified the exact passes" in ran.err
    again = modelopt("fold", "fold.onnx", "-o", "3.onnx", "--no-bench", cwd=folder).succeeded()
    assert "Nothing changed" in again.err
    ran = modelopt("compare", model, "quantize.onnx", "--no-bench", cwd=folder).succeeded()
    assert "relative-error" in ran.out.decode() + ran.err


def test_bench_asks_no_output(model: Path) -> None:
    quick = ("--budget", "0.2", "--processes", "1", "--rounds", "2", "--warmup", "0")
    modelopt("bench", model, *quick, cwd=model.parent).succeeded()


# What differs is found


@dataclass(frozen=True, kw_only=True)
class OtherLabels(Pass):
    """Renames the classes of ZipMap, or splits elsewhere."""

    name: ClassVar[str] = "other-labels"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        last = model.graph[-1]
        for key, attribute in list(last.attributes.items()):
            if key.startswith("classlabels"):
                labels = [f"{each}!" if isinstance(each, str) else each + 1 for each in attribute.value]
                last.attributes[key] = ir.Attr(key, attribute.type, labels)
        if last.op_type == "SplitToSequence" and last.inputs[1] is not None:
            last.inputs[1].const_value = ir.tensor(np.array([12, 4]), name="sizes")
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class OtherWeights(Pass):
    """Changes a weight."""

    name: ClassVar[str] = "other-weights"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        model.graph.initializers["w2"].const_value = ir.tensor(WEIGHTS["w2"] * 1.1, name="w2")
        return Changes(1)


def test_a_pass_that_changes_the_values_is_caught(model: Path) -> None:
    with pytest.raises(VerificationFailed, match="other-weights changed what the model computes"):
        run(Request(recipe=Recipe(steps=(OtherWeights(),)), model=model, output=model.with_name("out.onnx")))
    assert not model.with_name("out.onnx").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("classes", "'probabilities (keys)': 16 of 16 values are unequal: 1 instead of 0"),
        ("named-classes", "'probabilities (keys)': 16 of 16 values are unequal: a! instead of a"),
        ("unequal-parts", "instead of"),
    ],
)
def test_a_pass_that_changes_keys_or_shapes_is_caught(name: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", MODELS[name])
    with pytest.raises(VerificationFailed, match="other-labels changed") as caught:
        run(Request(recipe=Recipe(steps=(OtherLabels(),)), model=path, output=tmp_path / "out.onnx"))
    assert said in (caught.value.note or "")


def compared(tmp_path: Path, one: ModelProto, two: ModelProto, **options: Any) -> Accuracy:
    before, after = write(tmp_path / "a.onnx", one), write(tmp_path / "b.onnx", two)
    return evaluate(before, after, random_data([TensorSpec("x", "float32", ("n", 16))], n=12, seed=0), **options)


def test_keys_are_no_part_of_a_figure(tmp_path: Path) -> None:
    found = compared(tmp_path, MODELS["classes"], MODELS["classes"], metrics=("agreement",))
    assert [score.n for score in found.fidelity] == [12]  # the labels
    found = compared(tmp_path, MODELS["classes"], MODELS["classes"])
    assert [output.output for output in found.outputs] == ["label", "probabilities"]
    assert found.outputs[1].kind == "classes"
    assert not found.notes


@pytest.mark.parametrize(
    "labels", [INTEGERS, {"classlabels_int64s": list(range(10, 26))}, {"classlabels_int64s": [99, *range(15)]}, STRINGS]
)
def test_labels_are_the_keys_of_a_table(labels: dict[str, Any], tmp_path: Path) -> None:
    (names,) = labels.values()
    path = write(tmp_path / "m.onnx", classifier(**labels))
    x = RNG.normal(size=(24, 16)).astype(np.float32)
    with Worker() as worker:
        chosen = worker.open(path, SessionSpec(threads=1, spin=False)).run({"x": x}, ["label"])[0]
    np.savez(tmp_path / "d.npz", x=x, labels=np.array([names[each] for each in chosen]))
    data = open_data(str(tmp_path / "d.npz"), (TensorSpec("x", "float32", ("n", 16)),))
    (task,) = evaluate(path, path, data).tasks
    assert (task.reference.value, task.reference.n) == (1, 24)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (classifier(**INTEGERS), classifier(classlabels_int64s=list(range(1, 17)))),
        (classifier(**STRINGS), classifier(classlabels_strings=list("qrstuvwxyzabcdef"))),
        (sequence(4, 12), sequence(12, 4)),
    ],
)
def test_values_under_other_keys_or_shapes_are_lost(tmp_path: Path, one: ModelProto, two: ModelProto) -> None:
    found = compared(tmp_path, one, two)
    assert found.outputs[-1].drop == 1
    name = found.outputs[-1].output
    assert f"the keys or shapes within output '{name}' differ on 12 of 12 samples" in found.notes


def test_a_map_beside_a_tensor_is_refused_by_name(tmp_path: Path) -> None:
    plain = built(
        [*LINEAR, helper.make_node("Softmax", ["z"], ["p"]), helper.make_node("ArgMax", ["p"], ["label"], axis=1)],
        [value("label", ["n", 1], TensorProto.INT64), value("p", ["n", 16])],
    )
    with pytest.raises(InputError, match="outputs of different kinds") as caught:
        compared(tmp_path, MODELS["classes"], plain)
    assert "probabilities (keys)" in (caught.value.note or "")
