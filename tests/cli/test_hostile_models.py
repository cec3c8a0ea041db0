"""Models that are made to drive the terminal, to eat memory or never to end are refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.command_line import CALIB, MLP, QUICK, installed, modelopt, save, save_endless, value

ESCAPES = "\x1b[31mred\x1b[0m\n[bold]two[/bold]\r\x07"


@pytest.fixture
def hostile_names(tmp_path: Path) -> Path:
    nodes = [
        helper.make_node("Identity", ["x" + ESCAPES], ["h" + ESCAPES], name="n" + ESCAPES),
        helper.make_node("Gemm", ["h" + ESCAPES, "w" + ESCAPES], ["y" + ESCAPES], name="g" + ESCAPES),
    ]
    weights = {"w" + ESCAPES: np.eye(20, dtype=np.float32)}
    return save(
        tmp_path / "names.onnx",
        nodes,
        [value("x" + ESCAPES, ["b" + ESCAPES, 20])],
        [value("y" + ESCAPES, ["b" + ESCAPES, 20])],
        weights,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "-v"],
        ["prune", "--explain", "-v", "-o", "x.onnx", *QUICK],
        ["quantize", "--calib", "random", "--explain", "-o", "x.onnx", "--no-bench"],
        ["quantize", "--calib", CALIB, "-o", "x.onnx", *QUICK],
        ["bench", "--rounds", "2", "--budget", "0.1", "--warmup", "0"],
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:2])),
)
def test_hostile_names_never_drive_the_terminal(
    tmp_path: Path, hostile_names: Path, arguments: list[str | Path]
) -> None:
    run = modelopt(*arguments, hostile_names, cwd=tmp_path)
    shown = run.out.decode() + run.err
    assert run.code in {0, 2}, run.err
    assert "Traceback" not in shown
    assert not set("\x1b\r\x07") & set(shown)
    if run.code == 2:
        run.refused(2)


def test_what_libraries_say_of_a_model_does_not_reach_the_terminal(tmp_path: Path) -> None:
    """onnx_ir warns of a value that nothing makes, with its name as it is."""
    nodes = [helper.make_node("Add", ["x", ESCAPES + "modelopt: error: forged"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", [4])], [value("y", [4])])
    modelopt("inspect", model, cwd=tmp_path).refused(2, "before it exists")


def test_hostile_names_in_a_markdown_report(tmp_path: Path, hostile_names: Path) -> None:
    modelopt("prune", hostile_names, "-o", "x.onnx", "--report", "x.md", *QUICK, cwd=tmp_path).succeeded()
    text = (tmp_path / "x.md").read_text()
    assert not set("\x1b\r\x07") & set(text)


def test_an_operator_that_onnxruntime_does_not_know(tmp_path: Path) -> None:
    nodes = [helper.make_node("Frobnicate", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", ["n", 4])], [value("y", ["n", 4])])
    installed("fold", model, "-o", "x.onnx", cwd=tmp_path).refused(3, "Frobnicate")


def test_an_opset_that_is_not_known(tmp_path: Path) -> None:
    """Its operators may have other inputs than those that passes read."""
    model = save(
        tmp_path / "m.onnx",
        [helper.make_node("Pad", ["x"], ["h"]), helper.make_node("Conv", ["h", "w"], ["y"])],
        [value("x", [1, 1, 4, 4])],
        [value("y", [1, 1, 3, 3])],
        {"w": np.ones((1, 1, 2, 2), np.float32)},
    )
    content = onnx.load(model)
    content.opset_import[0].version = 100
    model.write_bytes(content.SerializeToString())
    modelopt("fuse", model, "-o", "x.onnx", *QUICK, cwd=tmp_path).refused(3, "opset 100")
    modelopt("inspect", model, cwd=tmp_path).succeeded()


LIMITED = ("--timeout", "3", "--memory-limit", "300MB", "--no-bench", "-o", "x.onnx")


def test_a_model_that_needs_terabytes(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    weights = {"shape": np.array([2**40], np.int64)}
    model = save(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", [1])], weights)
    modelopt("fold", model, *LIMITED, cwd=tmp_path).refused(3)


def test_a_model_that_eats_memory_while_it_is_loaded(tmp_path: Path) -> None:
    """Each Concat doubles; onnxruntime folds them all at load."""
    nodes = [helper.make_node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(30)]
    nodes.append(helper.make_node("ReduceSum", ["v30"], ["sum"], keepdims=0))
    nodes.append(helper.make_node("Add", ["x", "sum"], ["y"]))
    model = save(tmp_path / "m.onnx", nodes, [value("x", [1])], [value("y", [1])], {"v0": np.ones(1, np.float32)})
    installed("fold", model, *LIMITED, cwd=tmp_path).refused(3)


def test_a_model_that_never_ends(tmp_path: Path) -> None:
    model = save_endless(tmp_path / "m.onnx")
    told = modelopt("fold", model, *LIMITED, cwd=tmp_path).succeeded()
    assert "Nothing changed: the output is a copy of the input" in told.err
    bounded = [*LIMITED[:4], "--budget", "1"]
    installed("bench", model, *bounded, cwd=tmp_path).failed(2, "(Loop) executes", "a run would not end")


def test_an_input_of_absurd_size(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    model = save(tmp_path / "m.onnx", nodes, [value("x", [2**62])], [value("y", [2**62])])
    told = modelopt("fold", model, *LIMITED, cwd=tmp_path).succeeded()
    assert "Nothing changed: the output is a copy of the input" in told.err  # what runs on nothing needs no proof then
    bounded = [*LIMITED[:4], "--budget", "1"]
    modelopt("bench", model, *bounded, cwd=tmp_path).refused(2, "x", "larger than memory")


def test_an_output_that_is_listed_twice_is_compared(tmp_path: Path) -> None:
    model = save(
        tmp_path / "m.onnx", [helper.make_node("Relu", ["x"], ["y"])], [value("x", [4])], [value("y", [4])] * 2
    )
    modelopt("compare", "--no-bench", model, model, cwd=tmp_path).succeeded()


def test_names_of_files_are_escaped_in_the_heads_of_tables(tmp_path: Path) -> None:
    for name in ("a\x1b[2J.onnx", "b\u200b\n::error::x.onnx"):
        (tmp_path / name).write_bytes(MLP.read_bytes())
    done = modelopt("compare", "a\x1b[2J.onnx", "b\u200b\n::error::x.onnx", "--no-bench", cwd=tmp_path).succeeded()
    out = done.out.decode()
    assert "a\\x1b[2J.onnx" in out
    assert not {"\x1b", "\u200b"} & set(out)
    assert not any(line.startswith("::") for line in out.splitlines())


@pytest.mark.parametrize(
    "words",
    [
        ("inspect", "m.onnx"),
        ("fold", "m.onnx", "-o", "x.onnx"),
        ("fuse", "m.onnx", "-o", "x.onnx"),
        ("prune", "m.onnx", "-o", "x.onnx"),
        ("quantize", "m.onnx", "--calib", "random", "-o", "x.onnx"),
        ("quantize", "m.onnx", "--mode", "fp16", "-o", "x.onnx"),
        ("run", "int8-dynamic", "m.onnx", "-o", "x.onnx"),
        ("bench", "m.onnx"),
        ("compare", "m.onnx", "m.onnx"),
        ("log", "m.onnx"),
    ],
    ids=" ".join,
)
def test_every_command_refuses_a_model_whose_input_has_no_type(tmp_path: Path, words: tuple[str, ...]) -> None:
    model = onnx.load(MLP)
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UNDEFINED
    onnx.save(model, tmp_path / "m.onnx")
    modelopt(*words, cwd=tmp_path).refused(2, "m.onnx is not a valid model", "has the element type UNDEFINED")


def test_more_nodes_are_accepted_where_a_flag_says_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", [a], [b]) for a, b in [("x", "h"), ("h", "i"), ("i", "y")]]
    save(tmp_path / "m.onnx", nodes, [value("x", [4])], [value("y", [4])])
    few = modelopt("fold", "m.onnx", "--max-nodes", "2", "-o", "x.onnx", *QUICK, cwd=tmp_path)
    few.refused(3, "m.onnx: it has more than 2 nodes and initializers", "--max-nodes N")
    modelopt("fold", "m.onnx", "--max-nodes", "3", "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
