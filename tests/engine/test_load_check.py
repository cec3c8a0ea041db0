"""onnxruntime fails on a result: what is known to make it crash is avoided, else found, and nothing is written."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine import load_check
from modelopt.engine.optimize import Request, run
from modelopt.passes.base import Pass
from modelopt.passes.convert_half import ConvertHalf
from modelopt.quant.float16 import sensitive_operators
from modelopt.recipe.recipe import Recipe
from modelopt.report import Outcome
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.search import crash_search
from modelopt.search.candidates import Candidate, Candidates
from modelopt.search.search_result import SearchResult
from tests.command_line import modelopt
from tests.quant_tools import model

RNG = np.random.default_rng(0)
W = RNG.standard_normal((8, 8)).astype(np.float32)
HEAD = '<ir_version: 8, opset_import: ["" : 17]>'
TURNED = f"""{HEAD} net (float[n,4,8] x) => (float[4,n,8] y)
    {{ a = Relu (x) t = Transpose <perm = [1, 0, 2]> (a) b = MatMul (t, w) y = Relu (b) }}"""
CHAIN = f"""{HEAD} net (float[n,8] x) => (float[n,8] y)
    {{ a = MatMul (x, w) b = Relu (a) c = MatMul (b, w) d = Tanh (c) e = MatMul (d, w) y = Sigmoid (e) }}"""


def saved(path: Path, text: str) -> Path:
    onnx.save(ir.to_proto(model(text, w=W)), path)
    return path


@pytest.mark.parametrize(
    ("perm", "shape", "weight", "crashes"),
    [
        ("1, 0, 2", "n,4,8", "8,8", True),
        ("1, 2, 0", "8,4,n", "8,8", True),
        ("1, 2, 0, 3", "n,4,2,8", "8,8", True),
        ("1, 0, 2", "n,4,8", "4,8,8", False),
        ("0, 2, 1", "n,8,4", "8,8", False),
        ("0, 2, 1, 3", "n,4,2,8", "8,8", False),
        ("2, 0, 1", "4,8,n", "8,8", False),
        ("1, 0", "8,n", "8,8", False),
    ],
)
def test_what_crashes_by_its_structure(perm: str, shape: str, weight: str, *, crashes: bool) -> None:
    """The first axis goes behind the batch axes, and the factors of the product differ in rank."""
    subject = model(f"""{HEAD} net (float[{shape}] x, float[{weight}] k) => (float y)
        {{ t = Transpose <perm = [{perm}]> (x) y = MatMul (t, k) }}""")
    assert [graph.name_of(node) for node in sensitive_operators.crashing(subject)] == (["t"] if crashes else [])


def test_a_model_of_that_structure_loads(tmp_path: Path) -> None:
    """A Transpose in front of a product stays in float32, and the weight becomes half all the same."""
    saved(tmp_path / "m.onnx", TURNED)
    ran = modelopt("quantize", "m.onnx", "--mode", "fp16", "--only", "--no-bench", "--keep", "--explain", cwd=tmp_path)
    assert "onnxruntime may crash when it loads a Transpose" in ran.succeeded().err
    made = onnx.load(tmp_path / "m.fp16.onnx")
    assert [tensor.data_type for tensor in made.graph.initializer] == [onnx.TensorProto.FLOAT16]
    with Worker() as worker:
        worker.open(tmp_path / "m.fp16.onnx", SessionSpec(spin=False))


# The search, with a runtime that fails on some nodes in half precision


def _is_half(node: ir.Node) -> bool:
    """Whether a node reads half precision, in a file that says no types."""
    for value in node.inputs:
        tensor = graph.constant_tensor(value)
        if tensor is not None and tensor.dtype == ir.DataType.FLOAT16:
            return True
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    if maker is not None and maker.op_type == "Cast":
        return graph.attribute_int(maker, "to", 1) == ir.DataType.FLOAT16.value
    return maker is not None and _is_half(maker)


def searched(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, *bad: str) -> SearchResult:
    """The search, where onnxruntime crashes on groups of nodes, such as ``b,c``, that are half at the same time."""

    def loads(_self: Candidates, built: Candidate) -> bool:
        made = {graph.name_of(node): node for node in graph.all_nodes(ir.load(built.path))}
        return not any(all(_is_half(made[name]) for name in group.split(",")) for group in bad)

    monkeypatch.setattr(Candidates, "loads", loads)
    request = Request(
        recipe=Recipe(steps=(ConvertHalf(),), verify=False),
        model=saved(folder / "m.onnx", text),
        output=folder / "x.onnx",
    )
    return crash_search.without_crash(request, WorkerDied("loading crashed", reason="signal", note="SIGSEGV"))


def excluded(chosen: SearchResult) -> tuple[str, ...]:
    (step,) = chosen.recipes[0].passes()
    assert isinstance(step, ConvertHalf)
    return step.exclude


@pytest.mark.parametrize(
    ("bad", "left"),
    [
        (["d"], ["d"]),
        (["b,c"], ["b"]),  # what a product reads, rather than the product with its weights
        (["b", "d"], ["b", "d"]),
    ],
)
def test_the_nodes_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: list[str], left: list[str]) -> None:
    chosen = searched(tmp_path, monkeypatch, CHAIN, *bad)
    assert [trial.outcome for trial in chosen.trials] == [Outcome.FAILED, Outcome.KEPT]
    assert "SIGSEGV" in chosen.trials[0].reason
    assert excluded(chosen) == tuple(f"re:{name}" for name in left)


def test_where_no_nodes_are_found_the_error_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Candidates, "loads", lambda _self, _built: False)
    with pytest.raises(WorkerDied, match="loading crashed"):
        searched(tmp_path, monkeypatch, CHAIN)


@dataclass(frozen=True, kw_only=True)
class Foreign(Pass):
    """Makes a Relu an operator that nobody knows."""

    name: ClassVar[str] = "foreign"
    effect: ClassVar[Effect] = Effect.APPROXIMATE

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        node = next(node for node in model.graph if node.op_type == "Relu")
        node.domain = "acme"
        graph.import_domain(model, "acme", 1)
        return Changes(1)


def test_a_result_that_is_refused_is_not_written(tmp_path: Path) -> None:
    """Not without verification either: it is loaded once."""
    path = saved(tmp_path / "m.onnx", CHAIN)
    recipe = Recipe(steps=(Foreign(),), verify=False)
    with pytest.raises(Refused, match="loading the model that modelopt made failed") as caught:
        run(Request(recipe=recipe, model=path, output=tmp_path / "x.onnx"))
    assert caught.value.is_of_result
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]


def test_a_result_of_a_model_that_does_not_load_either_is_written(tmp_path: Path) -> None:
    text = CHAIN.replace('"" : 17', '"" : 17, "acme" : 1').replace("Tanh", "acme.Own")
    path = saved(tmp_path / "m.onnx", text)
    report = run(Request(recipe=Recipe(steps=(Foreign(),), verify=False), model=path, output=tmp_path / "x.onnx"))
    assert report.written
    assert "onnxruntime loads neither the input nor the result: nothing is known of the result" in report.notes


def test_a_refusal_here_says_nothing_of_another_machine(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", CHAIN)
    recipe = Recipe(steps=(Foreign(),), verify=False, target="cuda")
    report = run(Request(recipe=recipe, model=path, output=tmp_path / "x.onnx"))
    assert report.written
    assert any(note.startswith("onnxruntime does not load the result here: ") for note in report.notes)


def test_a_result_that_crashes_onnxruntime_is_an_error(tmp_path: Path) -> None:
    path = saved(tmp_path / "m.onnx", CHAIN)
    recipe = Recipe(steps=(), verify=False)
    with Worker() as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied, match="crashed onnxruntime"):
            load_check.require(recipe, path, tmp_path / "x.onnx", worker, None)
