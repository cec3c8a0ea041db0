"""Verification finds the pass that lies, between passes that do not; the passes here are wrong on purpose."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.core.errors import ExitCode, VerificationFailed
from modelopt.engine.optimize import Request, run
from modelopt.passes.base import Pass
from modelopt.passes.fuse_conv_bn import FuseConvBn
from modelopt.passes.merge_reshape import MergeReshape
from modelopt.passes.prune_magnitude import PruneMagnitude
from modelopt.recipe.pipelines import FOLD, until_stable
from modelopt.recipe.recipe import Recipe, Step
from modelopt.report import Report
from tests.command_line import CNN, EARLY_EXIT, MLP, modelopt


def _replace(value: ir.Value, array: np.ndarray) -> None:
    value.const_value = ir.tensor(array, name=value.name)


def _first(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


def _weight(node: ir.Node, position: int) -> tuple[ir.Value, np.ndarray]:
    value = node.inputs[position]
    assert value is not None
    assert value.const_value is not None
    return value, value.const_value.numpy()


@dataclass(frozen=True, kw_only=True)
class WrongBias(Pass):
    """Adds a little to one bias of the last Gemm."""

    name: ClassVar[str] = "wrong-bias"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        gemms = [node for node in model.graph if node.op_type == "Gemm"]
        value, array = _weight(gemms[-1], 2)
        changed = array.copy()
        changed[3] += 0.05
        _replace(value, changed)
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class WrongAxis(Pass):
    """Turns the first weight matrix of the first Conv around."""

    name: ClassVar[str] = "wrong-axis"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        value, array = _weight(_first(model, "Conv"), 1)
        _replace(value, np.ascontiguousarray(array.swapaxes(2, 3)))
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class FixedBatch(Pass):
    """Writes the batch size 1 into a Flatten: right for one sample, wrong for two."""

    name: ClassVar[str] = "fixed-batch"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        node = model.graph[-1]
        shape = ir.Value(name="one_row", const_value=ir.tensor(np.array([1, -1]), name="one_row"))
        model.graph.register_initializer(shape)
        out = node.outputs[0]
        inner = ir.Value(name="inner", type=out.type)
        reshape = ir.Node("", "Reshape", [inner, shape], outputs=[ir.Value(name="rows", type=out.type)])
        before = ir.Node("", node.op_type, node.inputs, list(node.attributes.values()), outputs=[inner])
        model.graph.insert_before(node, [before, reshape])
        old_name = out.name
        model.graph.outputs[0] = reshape.outputs[0]
        model.graph.remove(node, safe=True)
        reshape.outputs[0].name = old_name
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class Unsorted(Pass):
    """Moves the first node to the end: the graph is no longer in order."""

    name: ClassVar[str] = "unsorted"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        first = model.graph[0]
        model.graph.remove(first)
        model.graph.append(first)
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class UnknownOperator(Pass):
    """Renames a Relu to something that onnxruntime does not know."""

    name: ClassVar[str] = "unknown-operator"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        _first(model, "Relu").op_type = "Reluu"
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class Crashes(Pass):
    """Raises."""

    name: ClassVar[str] = "crashes"
    effect: ClassVar[Effect] = Effect.EXACT

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        raise KeyError("x")


class Change(Enum):
    """What a pass may do to the inputs and outputs of a model that it must not."""

    NAME = "name"
    ORDER = "order"
    TYPE = "type"
    SHAPE = "shape"
    INPUT = "input"


@dataclass(frozen=True, kw_only=True)
class OtherSignature(Pass):
    """Changes the inputs or outputs of the model and does not say so."""

    name: ClassVar[str] = "other-signature"
    effect: ClassVar[Effect] = Effect.LOSSY

    what: Change = Change.NAME

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        out = model.graph.outputs[0]
        if self.what is Change.NAME:
            out.name = "renamed"
        elif self.what is Change.ORDER:
            model.graph.outputs[0], model.graph.outputs[1] = model.graph.outputs[1], out
        elif self.what is Change.TYPE:
            out.type = ir.TensorType(ir.DataType.FLOAT16)
        elif self.what is Change.SHAPE:
            out.shape = ir.Shape([7, *list(out.shape or ())[1:]])
        else:
            model.graph.inputs[0].name = "renamed"
        return Changes(1)


@dataclass(frozen=True, kw_only=True)
class HonestlyLossy(Pass):
    """Changes a bias and says so."""

    name: ClassVar[str] = "honestly-lossy"
    effect: ClassVar[Effect] = Effect.LOSSY

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        return WrongBias().apply(model, ctx)


def optimize(folder: Path, model: Path, *steps: Step, verify: bool = True) -> Report:
    recipe = Recipe(steps=steps, verify=verify)
    return run(Request(recipe=recipe, model=model, output=folder / "x.onnx"))


def blamed(folder: Path, model: Path, *steps: Step) -> VerificationFailed:
    with pytest.raises(VerificationFailed) as caught:
        optimize(folder, model, *steps)
    assert list(folder.iterdir()) == []
    assert caught.value.exit_code is ExitCode.BUG
    return caught.value


@pytest.mark.parametrize("wrong", [WrongBias(), WrongAxis(), FixedBatch(), UnknownOperator()], ids=str)
def test_the_pass_that_lies_is_named(tmp_path: Path, wrong: Pass) -> None:
    error = blamed(tmp_path, CNN, until_stable(FOLD), FuseConvBn(), wrong, MergeReshape(), until_stable(FOLD))
    assert error.fact == f"the pass {wrong} changed what the model computes"
    assert error.note


def test_of_two_that_lie_the_first_is_named(tmp_path: Path) -> None:
    error = blamed(tmp_path, CNN, WrongAxis(), FuseConvBn(), WrongBias())
    assert "wrong-axis" in error.fact


def test_a_lie_behind_a_lossy_pass_is_found(tmp_path: Path) -> None:
    """After a pass that may change outputs, what follows is held against the model that it left."""
    error = blamed(tmp_path, MLP, PruneMagnitude(sparsity=0.5), WrongBias())
    assert "wrong-bias" in error.fact
    error = blamed(tmp_path, MLP, WrongBias(), PruneMagnitude(sparsity=0.5), until_stable(FOLD))
    assert "wrong-bias" in error.fact


def test_an_invalid_graph_is_named(tmp_path: Path) -> None:
    error = blamed(tmp_path, CNN, FuseConvBn(), Unsorted(), MergeReshape())
    assert error.fact == "the pass unsorted left an invalid model"


def test_an_invalid_graph_is_found_without_verification_too(tmp_path: Path) -> None:
    with pytest.raises(VerificationFailed, match="unsorted"):
        optimize(tmp_path, CNN, Unsorted(), verify=False)
    assert list(tmp_path.iterdir()) == []


def test_a_pass_that_crashes_is_named(tmp_path: Path) -> None:
    with pytest.raises(KeyError) as caught:
        optimize(tmp_path, EARLY_EXIT, until_stable(FOLD), Crashes())
    assert caught.value.__notes__ == ["while running the pass crashes"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", list(Change))
@pytest.mark.parametrize("verify", [True, False])
def test_inputs_and_outputs_are_the_models(tmp_path: Path, what: Change, *, verify: bool) -> None:
    """Whatever a pass claims about the outputs' values, and whether or not they are compared."""
    text = """<ir_version: 8, opset_import: ["" : 17]> net (float[n,4] x) => (float[n,4] y, float[n,4] z)
    { y = Relu (x) z = Tanh (x) }"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    with pytest.raises(VerificationFailed) as caught:
        optimize(tmp_path, tmp_path / "m.onnx", FuseConvBn(), OtherSignature(what=what), verify=verify)
    assert caught.value.fact == f"the pass {OtherSignature(what=what)} changed the model's inputs or outputs"
    assert caught.value.note
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_an_honest_lossy_pass_is_not_flagged(tmp_path: Path) -> None:
    report = optimize(tmp_path, CNN, FuseConvBn(), HonestlyLossy(), until_stable(FOLD))
    assert report.written
    assert report.verification is not None
    assert report.verification.exact_segments == 1
    assert (tmp_path / "x.onnx").exists()


LIAR = """
import numpy as np
import onnx_ir as ir
from modelopt.passes.base import Changes
from modelopt.passes.merge_cast import MergeCast

def apply(self, model, ctx):
    value = [node for node in model.graph if node.op_type == "Gemm"][0].inputs[2]
    {action}
    return Changes(1)

MergeCast.apply = apply
"""


@pytest.mark.parametrize(
    ("action", "words", "tracebacks"),
    [
        ("value.const_value = ir.tensor(value.const_value.numpy() + 1)", "the pass merge-cast changed what the", 0),
        ("model.graph.append(model.graph[0])", "the pass merge-cast left an invalid model", 0),
        ("value.no_such_attribute", "this is a bug in modelopt", 1),
    ],
    ids=["lies", "breaks", "crashes"],
)
def test_a_bug_of_ours_at_the_command_line(tmp_path: Path, action: str, words: str, tracebacks: int) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(LIAR.format(action=action))
    ran = modelopt("fuse", CNN, "-o", "x.onnx", "--no-bench", cwd=tmp_path, env={"PYTHONPATH": str(site)})
    assert ran.code == 70
    assert ran.err.count("modelopt: error: ") == 1
    assert words in ran.err
    assert "please report it" in ran.err
    assert ran.err.count("Traceback") == tracebacks
    assert ("while running the pass merge-cast" in ran.err) == bool(tracebacks)
    assert (ran.out, {name for name in ran.created if "pycache" not in name}) == (b"", set())


def test_without_verification_the_lie_passes_and_the_report_says_so(tmp_path: Path) -> None:
    report = optimize(tmp_path, MLP, WrongBias(), verify=False)
    assert report.verification is None
    assert report.written
