"""Each output is judged by what it stands for: the kinds are found, damage is caught, harmless rounding passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.core.errors import InputError
from modelopt.measure.heads import End, Head, heads_of
from modelopt.measure.output_kinds import LOOK, OutputKind, recognize
from modelopt.measure.outputs import OutputScores
from tests.campaigns.known_output_case import Case
from tests.campaigns.known_outputs import cases
from tests.campaigns.output_kinds import judged
from tests.command_line import modelopt, save, value

F = np.float32
CASES = {case.name: case for case in cases()}
SLACK = 1e-6


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kinds_are_found_damage_is_caught_and_rounding_passes(case: Case) -> None:
    for found in judged(case):
        assert found.is_right, (found.found.kind, found.found.why)
        assert found.damage > 0.01
        assert found.rounding <= 0.01 + SLACK


def test_there_are_forty_models() -> None:
    assert len(CASES) >= 40


# How a graph ends


@pytest.mark.parametrize(
    ("tail", "end"),
    [
        ([("MatMul", ["x", "w"], "y")], End.LINEAR),
        ([("MatMul", ["x", "w"], "m"), ("Add", ["m", "b"], "y")], End.LINEAR),
        ([("MatMul", ["x", "w"], "m"), ("Softmax", ["m"], "y")], End.SOFTMAX),
        ([("MatMul", ["x", "w"], "m"), ("Sigmoid", ["m"], "s"), ("Identity", ["s"], "y")], End.SIGMOID),
        ([("MatMul", ["x", "w"], "m"), ("Tanh", ["m"], "y")], End.OTHER),
        ([("ReduceL2", ["x"], "l"), ("Div", ["x", "l"], "y")], End.NORM),
        (
            [("Mul", ["x", "x"], "q"), ("ReduceSum", ["q"], "s"), ("Sqrt", ["s"], "l"), ("Div", ["x", "l"], "y")],
            End.NORM,
        ),
        ([("MatMul", ["x", "w"], "m"), ("Div", ["m", "b"], "y")], End.OTHER),
        ([("LayerNormalization", ["x", "w"], "h"), ("ReduceMean", ["h"], "y")], End.HIDDEN),
        ([("Sqrt", ["x"], "s"), ("Div", ["x", "s"], "y")], End.OTHER),
        ([("LayerNormalization", ["x", "w"], "h"), ("Tanh", ["h"], "y")], End.OTHER),
        ([("MatMul", ["x", "x"], "y")], End.OTHER),
        ([("Identity", ["x"], "y")], End.OTHER),
    ],
)
def test_how_a_graph_ends(tail: list[tuple[str, list[str], str]], end: End) -> None:
    nodes = [helper.make_node(op, inputs, [output]) for op, inputs, output in tail]
    stored = [numpy_helper.from_array(np.ones((4, 4), F), name) for name in "wb"]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 4]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", info[:1], info[1:], stored))
    assert heads_of(ir.from_proto(model)) == {"y": Head(end, dims=(4, 4))}


def test_a_vocabulary_is_known_by_its_layer() -> None:
    nodes = [helper.make_node("Transpose", ["w"], ["t"]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    stored = [numpy_helper.from_array(np.ones((2000, 64), F), "w")]
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])]
    output = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2000])]
    model = helper.make_model(helper.make_graph(nodes, "g", info, output, stored))
    assert heads_of(ir.from_proto(model))["y"].is_vocabulary


# What an output stands for


def kind_of(values: np.ndarray, head: Head | None = None) -> OutputKind | None:
    found = recognize(head or Head(), [row[None] for row in values])
    return None if found is None else found.kind


def test_what_holds_nothing_is_of_no_kind() -> None:
    assert recognize(Head(), []) is None
    assert recognize(Head(), [np.zeros((0, 4), F), np.full((1, 4), np.nan, F)]) is None


def test_a_vector_of_free_length_holds_a_number_a_row() -> None:
    rows = [np.random.default_rng(i).normal(size=5).astype(F) for i in range(8)]
    known = recognize(Head(dims=(None,)), rows)
    assert known is not None
    assert known.kind is OutputKind.NUMBER
    fixed = recognize(Head(dims=(5,)), rows)
    assert fixed is not None
    assert fixed.kind is not OutputKind.NUMBER


def test_small_numbers_are_no_probabilities() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=(16, 4, 10, 10))).astype(F) * 0.1
    assert kind_of(values) is OutputKind.SIGNAL
    assert kind_of(values, Head(End.SIGMOID)) is OutputKind.LABELS


def test_scores_that_are_never_sure_have_a_threshold_of_their_own() -> None:
    values = [np.full((1, 30), 0.01, F) for _ in range(8)]
    values[3][0, 2] = 0.3
    known = recognize(Head(End.SIGMOID), values)
    assert known is not None
    assert known.kind is OutputKind.LABELS
    assert known.threshold == pytest.approx(0.15)


def test_rows_that_change_length_are_a_signal() -> None:
    rng = np.random.default_rng(0)
    found = recognize(Head(), [rng.normal(size=(1, n)).astype(F) for n in (40, 50, 60)])
    assert found is not None
    assert found.kind is OutputKind.SIGNAL


# All outputs of a model


def test_what_the_user_names_counts_and_what_is_ignored_does_not() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(20, 1, 1)).astype(F)
    for named, wanted in (({}, 1.0), ({"b": "ignore"}, 0.0), ({"b": "cosine"}, 1.0)):
        scores = OutputScores(["a", "b"], {}, named)
        for row in rows:
            scores.update([row, row], [row, -row])
        found = {each.output: each.drop or 0.0 for each in scores.scores()}
        assert found["a"] == 0
        assert max(found.values()) == wanted
    with pytest.raises(InputError, match="no output 'c'"):
        OutputScores(["a", "b"], {}, {"c": "cosine"})


def test_answers_where_the_original_has_none_count_however_many_come_first() -> None:
    row, none = np.array([[1.0, 2.0, 3.0]], F), np.zeros((0, 3), F)
    scores = OutputScores(["y"], {}, {})
    for _ in range(LOOK + 8):
        scores.update([none], [row])
    for _ in range(LOOK + 8):
        scores.update([row], [row])
    (found,) = scores.scores()
    assert (found.drop or 0) >= 0.5


def test_answers_that_agree_do_not_excuse_any_error() -> None:
    rng = np.random.default_rng(0)
    scores = OutputScores(["y"], {}, {})
    for row in rng.normal(size=(40, 1, 4)):
        shares = np.exp(3 * row) / np.exp(3 * row).sum()
        flat = np.where(shares == shares.max(), 0.26, (1 - 0.26) / 3)  # the same class, and no confidence left
        scores.update([shares.astype(F)], [flat.astype(F)])
    (found,) = scores.scores()
    assert (found.kind, found.scores[0].value) == ("classes", 1.0)
    assert found.is_too_far
    assert (found.drop or 0) > 0.5


# The command


def regressor(path: Path, heads: int = 1) -> Path:
    """One number a sample from a hidden layer, `heads` times; all outputs are positive and alike in direction."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(12, 64)).astype(F)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["h"])]
    for i in range(heads):
        weights[f"v{i}"] = np.abs(rng.normal(size=(64, 1))).astype(F)
        nodes.append(helper.make_node("MatMul", ["h", f"v{i}"], [f"y{i}"]))
    outputs = [value(f"y{i}", ["n", 1]) for i in range(heads)]
    return save(path, nodes, [value("x", ["n", 12])], outputs, weights)


def two_heads(path: Path) -> Path:
    """A head of two classes, which hardly anything changes, and one of forty."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(12, 64)).astype(F)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Relu", ["m"], ["h"])]
    outputs = []
    for name, classes in (("easy", 2), ("hard", 40)):
        weights[f"v{name}"] = rng.normal(size=(64, classes)).astype(F)
        if name == "easy":
            weights[f"v{name}"] += np.array([5, -5], F)
        nodes.append(helper.make_node("MatMul", ["h", f"v{name}"], [f"l{name}"]))
        nodes.append(helper.make_node("Softmax", [f"l{name}"], [name], axis=-1))
        outputs.append(value(name, ["n", classes]))
    return save(path, nodes, [value("x", ["n", 12])], outputs, weights)


def inputs(path: Path) -> Path:
    np.savez(path, x=np.random.default_rng(1).normal(size=(64, 12)).astype(F))
    return path


@pytest.mark.parametrize("build", [regressor, two_heads])
def test_pruning_that_ruins_an_output_breaks_the_contract(tmp_path: Path, build: object) -> None:
    model, data = build(tmp_path / "m.onnx"), inputs(tmp_path / "d.npz")  # type: ignore[operator]
    flags = ("--sparsity", "0.9", "--eval", data, "--max-drop", "1%", "--no-bench", "-o", "out.onnx")
    done = modelopt("prune", model, *flags, cwd=tmp_path)
    assert done.code == 1, done.err
    assert "outputs compared with the original's" in done.err
    assert not (tmp_path / "out.onnx").exists()


def test_compare_says_what_each_output_was_taken_for(tmp_path: Path) -> None:
    model, data = two_heads(tmp_path / "m.onnx"), inputs(tmp_path / "d.npz")
    done = modelopt("compare", model, model, "--eval", data, "--no-bench", cwd=tmp_path).succeeded()
    said = " ".join(done.out.decode().split())
    assert "easy classes adds up to 1 along the last axis argmax-agreement (n=64) 1" in said


def test_the_metric_of_an_output(tmp_path: Path) -> None:
    model, data = regressor(tmp_path / "m.onnx", heads=2), inputs(tmp_path / "d.npz")
    flags = ("--sparsity", "0.5", "--eval", data, "--max-drop", "100%", "--no-bench", "--json", "-o", "out.onnx")
    done = modelopt("prune", model, *flags, "--metric", "y1=ignore", "--metric", "y0=sqnr", cwd=tmp_path).succeeded()
    assert b'"output":"y0"' in done.out.replace(b" ", b"")
    assert b'"output":"y1"' not in done.out.replace(b" ", b"")
    done = modelopt("prune", model, *flags, "--metric", "y2=sqnr", cwd=tmp_path)
    assert done.code == 2
    assert "the model has no output 'y2' to measure" in done.err
    assert onnx.load(model).graph.output[1].name == "y1"
