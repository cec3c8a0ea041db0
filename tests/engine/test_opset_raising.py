"""The opset is raised where a fusion needs it: only then, only as far as it works, and never in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import Refused, WorkerDied
from modelopt.engine import loop, optimize
from modelopt.io import serialize
from modelopt.passes.raise_opset import RaiseOpset
from modelopt.recipe import pipelines
from modelopt.recipe.recipe import Recipe
from modelopt.runtime.worker_runner import WorkerRunner
from tests.command_line import modelopt
from tests.quant_tools import op_types

GELU = """d = Div (%s, r) e = Erf (d) f = Add (e, one) p = Mul (%s, f) q = Mul (p, half)"""
NORM = """c = ReduceMean <axes = [-1]> (x) n0 = Sub (x, c) n1 = Pow (n0, two) n2 = ReduceMean <axes = [-1]> (n1)
          n3 = Add (n2, eps) n4 = Sqrt (n3) n5 = Div (n0, n4) n6 = Mul (n5, s) n = Add (n6, s)"""
STORED = "float r = {1.41421356}, float one = {1}, float half = {0.5}, float two = {2}, float eps = {0.00001}"


def both(opset: int = 13) -> ir.Model:
    """A layer normalization, which needs opset 17, and a Gelu, which needs 20."""
    return ir.from_onnx_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        g (float[N, 4] x) => (float[N, 4] y) <{STORED}, float[4] s = {{1, 2, 3, 4}}>
        {{ {NORM} {GELU % ("n", "n")} y = Relu (q) }}"""
    )


def test_as_far_as_the_fusions_need(context: Context) -> None:
    subject = both()
    changes = RaiseOpset().apply(subject, context)
    assert (graph.opset(subject), changes.facts) == (20, {"opset_before": 13, "opset_after": 20, "fusions": 2})
    loop.apply(pipelines.expand("exact", keep_opset=True), subject, context)
    assert op_types(subject) == {"LayerNormalization": 1, "Gelu": 1, "Relu": 1}


@pytest.mark.parametrize("error", [Refused("no", note="it does not know Erf"), WorkerDied("it died", reason="signal")])
def test_where_the_converter_fails_a_lower_opset_is_tried(
    error: Exception, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = context.runner.convert_opset

    def failing(model: ir.Model, version: int) -> ir.Model:
        if version == 20:
            raise error
        return convert(model, version)

    monkeypatch.setattr(context.runner, "convert_opset", failing)
    subject = both()
    changes = RaiseOpset().apply(subject, context)
    assert graph.opset(subject) == 17
    (skip,) = changes.skipped
    why = "it does not know Erf" if isinstance(error, Refused) else "it died"
    assert skip.reason == f"opset 20 for 2 fusions: {why}"


def test_what_onnxruntime_does_not_load_is_not_kept(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: ir.Model, version: int) -> ir.Model:
        copy = serialize.from_bytes(serialize.to_bytes(model))
        copy.graph.opset_imports[""] = version
        copy.graph[-1].op_type = "NoSuchOperator"
        return copy

    monkeypatch.setattr(context.runner, "convert_opset", broken)
    subject = both()
    changes = RaiseOpset().apply(subject, context)
    assert (changes.rewrites, graph.opset(subject)) == (0, 13)
    assert ["onnxruntime does not load" in skip.reason for skip in changes.skipped] == [True, True]


def test_what_does_not_fuse_after_the_conversion_is_not_kept(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def useless(model: ir.Model, version: int) -> ir.Model:
        text = """<ir_version: 8, opset_import: ["" : %d]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"""
        return ir.from_onnx_text(text % version)

    monkeypatch.setattr(context.runner, "convert_opset", useless)
    subject = both(17)
    changes = RaiseOpset().apply(subject, context)
    assert (changes.rewrites, graph.opset(subject)) == (0, 17)
    assert [skip.reason for skip in changes.skipped] == ["opset 20 for 1 fusion: nothing fuses after the conversion"]


def test_where_the_result_is_wrong_all_is_done_without_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert = WorkerRunner.convert_opset

    def wrong(self: WorkerRunner, model: ir.Model, version: int) -> ir.Model:
        found = convert(self, model, version)
        next(node for node in found.graph if node.op_type == "Relu").op_type = "Neg"
        return found

    monkeypatch.setattr(WorkerRunner, "convert_opset", wrong)
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(both()))
    recipe = Recipe(steps=pipelines.expand("exact"))
    found = optimize.run(optimize.Request(recipe=recipe, model=tmp_path / "m.onnx", output=tmp_path / "out.onnx"))
    assert any(note.startswith("the opset stays: the model converted to a later one computes") for note in found.notes)
    assert found.verification is not None
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 13
    assert pipelines.RAISE not in found.recipe


def test_the_command_says_what_it_raised(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(both()))
    done = modelopt("fuse", "m.onnx", "-o", "out.onnx", "--no-bench", cwd=tmp_path).succeeded()
    assert "note: raised from opset 13 to 20: 2 fusions need it (not so with --keep-opset)" in done.err
    made = onnx.load(tmp_path / "out.onnx")
    assert [node.op_type for node in made.graph.node] == ["LayerNormalization", "Gelu", "Relu"]
    assert made.opset_import[0].version == 20


@pytest.mark.parametrize("flag", ["--keep-opset", "--no-verify"])
def test_the_opset_stays(flag: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(both()))
    modelopt("fuse", "m.onnx", "-o", "out.onnx", "--no-bench", flag, cwd=tmp_path).succeeded()
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 13


def test_quantize_raises_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    subject = both()
    value = graph.add_initializer(subject.graph, "w", rng.normal(size=(4, 4)).astype(np.float32))
    product = ir.node("MatMul", [subject.graph[-1].inputs[0], value])
    product.outputs[0].name = "product"
    subject.graph.insert_before(subject.graph[-1], product)
    subject.graph[-1].replace_input_with(0, product.outputs[0])
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(subject))
    flags = ("--mode", "dynamic", "--no-bench", "--json", "--everywhere")
    for more, opset in (((), 20), (("--keep-opset",), 13)):
        done = modelopt("quantize", "m.onnx", "-o", f"out{opset}.onnx", *flags, *more, cwd=tmp_path).succeeded()
        assert any("raised from opset 13 to 20" in note for note in json.loads(done.out)["notes"]) == (not more)
        assert onnx.load(tmp_path / f"out{opset}.onnx").opset_import[0].version >= opset
        assert (pipelines.RAISE in json.loads(done.out)["recipe"]) == (not more)


def test_flags_that_exclude_each_other(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(both()))
    done = modelopt("fuse", "m.onnx", "--opset", "17", "--keep-opset", cwd=tmp_path)
    done.refused(2, "--opset and --keep-opset exclude each other")


def test_an_opset_that_is_asked_for_is_the_opset(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(serialize.to_bytes(both()))
    modelopt("fuse", "m.onnx", "-o", "out.onnx", "--no-bench", "--opset", "17", cwd=tmp_path).succeeded()
    made = onnx.load(tmp_path / "out.onnx")
    assert made.opset_import[0].version == 17
    assert "LayerNormalization" in [node.op_type for node in made.graph.node]
