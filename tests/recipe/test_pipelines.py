"""The folding and fusing pipelines as a whole: what they never do, that they end, and that they repeat themselves."""

from __future__ import annotations

import hashlib
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from modelopt import graph, passes
from modelopt.calibration.context import Context
from modelopt.consteval.folding import GREW_KEY, MIN_GROWTH_BYTES
from modelopt.core.changes import Effect
from modelopt.engine import loop
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.recipe import pipelines
from tests.paths import LIGHT_MODELS, SAMPLE_MODELS
from tests.pipeline_digests import STEPS, as_bytes
from tests.runtime_tools import printed_under_hash_seeds

SAMPLES = sorted(SAMPLE_MODELS.glob("*/model.onnx"))


def test_every_pass_is_in_a_pipeline_or_left_out_with_a_reason() -> None:
    """A new pass that nobody runs is a mistake: it needs a place in a pipeline, or a reason in `LEFT_OUT`."""
    listed = {name for groups in pipelines.PIPELINES.values() for group in groups for name in group}
    assert listed.isdisjoint(pipelines.LEFT_OUT)
    assert listed | {*pipelines.LEFT_OUT} == {*passes.NAMES}
    assert all(reason.strip() for reason in pipelines.LEFT_OUT.values())


def test_pipelines_differ() -> None:
    """Steps are written as the pipeline that they are: two of the same passes would be mixed up."""
    variants = [pipelines.expand(name) for name in pipelines.PIPELINES]
    variants += [pipelines.expand(name, keep_opset=True) for name in pipelines.PIPELINES if pipelines.raises(name)]
    assert len({*variants}) == len(variants)


def test_pipelines_are_exact() -> None:
    assert {one.effect for name in pipelines.PIPELINES for group in pipelines.expand(name) for one in group.passes} == {
        Effect.EXACT
    }


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_a_second_run_changes_nothing(path: Path, context: Context) -> None:
    model = ir.from_proto(onnx.load(path))
    loop.apply(STEPS, model, context)
    assert invariants.check(model) == []
    once = as_bytes(model)
    again = ir.from_proto(onnx.load_from_string(once))
    results = loop.apply(STEPS, again, context)
    assert {result.step: result.rewrites for result in results if result.rewrites} == {}
    assert as_bytes(again) == once


def test_the_same_bytes_under_two_hash_seeds() -> None:
    printed = printed_under_hash_seeds(["-m", "tests.pipeline_digests", *SAMPLES], ("1", "2"))
    digests = [text.split() for text in printed]
    assert len(digests[0]) == len(SAMPLES)
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == len({hashlib.sha256(path.read_bytes()).hexdigest() for path in SAMPLES})


@pytest.mark.parametrize("path", LIGHT_MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("modern", [False, True])
def test_light_models_stay_light(path: Path, modern: bool, context: Context) -> None:
    model = ir.from_proto(onnx.load(path))
    if modern:  # initializers that are no inputs, so that they are constant
        model.ir_version = 8
        for value in list(model.graph.inputs):
            if value.name in model.graph.initializers:
                model.graph.inputs.remove(value)
    declared = graph.declared_values(model)
    size = len(serialize.to_bytes(model))
    loop.apply(STEPS[:1], model, context)
    graph.forget_shapes(model, keep=declared)
    assert len(serialize.to_bytes(model)) <= size


def test_many_small_results_grow_no_more_than_large_ones(context: Context) -> None:
    """Each alone takes about as many bytes as its node; all together would triple the file."""
    count = 500
    constants = ", ".join(f"float[1, 2] k{i} = {{{i}, {i + 1}}}" for i in range(count))
    nodes = " ".join(f"e{i} = Expand (k{i}, s) y{i + 1} = Add (y{i}, e{i})" for i in range(count))
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[16, 2] y0) => (float[16, 2] y{count})
        <int64[2] s = {{16, 2}}, {constants}> {{ {nodes} }}"""
    )
    before = graph.weight_bytes(model)
    loop.apply(STEPS[:1], model, context)
    assert before < graph.weight_bytes(model) <= before + MIN_GROWTH_BYTES


@pytest.mark.parametrize("entry", ["9" * 5000, "-5", "1e3", "٣", ""])
def test_the_entry_about_growth_may_hold_anything(entry: str, context: Context) -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] k = {1, 2}> { n = Neg (k) y = Add (x, n) }"""
    )
    model.metadata_props[GREW_KEY] = entry
    loop.apply(STEPS[:1], model, context)
    assert [node.op_type for node in model.graph] == ["Add"]


def test_what_the_runtime_refuses_does_not_keep_the_rest_from_folding(context: Context) -> None:
    """onnxruntime has no Mish of doubles; Erf of floats is asked for in the same breath."""
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x, double[2] z) => (float[2] y, double[2] w)
        <float[2] k = {1, 2}, double[2] d = {1, 2}, float[2] j = {3, 4}> {
          e = Erf (k) m = Mish (d) f = Erf (j) a = Add (x, e) y = Add (a, f) w = Add (z, m) }"""
    )
    (result, *_) = loop.apply(STEPS[:1], model, context)
    assert sorted(node.op_type for node in model.graph) == ["Add", "Add", "Add", "Mish"]
    assert [skip.node for skip in result.skipped] == ["m (Mish)"]


@pytest.mark.parametrize("outer", ["float[2] k = {1, 2}", "float[2] k = {1, 2}, float[2] z = {1, 2}"])
def test_a_body_may_hold_a_weight_of_an_outer_name(outer: str, context: Context) -> None:
    """There, an equal tensor cannot be the outer one: its name means the inner one."""
    z = "" if "z" in outer else ", float[2] z = {1, 2}"
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2] x, bool c) => (float[2] y) <{outer}> {{
          w = If (c) <then_branch = t () => (float[2] a) <float[2] k = {{5, 6}}{z}> {{ p = Mul (x, k) a = Add (p, z) }},
                      else_branch = e () => (float[2] b) {{ b = Neg (x) }}>
          y = Add (w, k) }}"""
    )
    loop.apply(STEPS[:1], model, context)
    assert invariants.check(model) == []
    (branch, _) = [body for node in model.graph for body in graph.bodies(node)]
    add = next(node for node in branch if node.op_type == "Add")
    assert add.inputs[1] is not None
    assert add.inputs[1].name == "z"


HUGE = 4611686018427387904

BOMBS = {
    "ConstantOfShape": (f"int64[1] n = {{{HUGE}}}", "b = ConstantOfShape (n)"),
    "Expand": (f"int64[1] n = {{{HUGE}}}, float one = {{1}}", "b = Expand (one, n)"),
    "Tile": (f"int64[1] n = {{{HUGE}}}, float[1] one = {{1}}", "b = Tile (one, n)"),
    "Range": (f"int64 z = {{0}}, int64 n = {{{HUGE}}}, int64 o = {{1}}", "r = Range (z, n, o) b = Cast <to = 1> (r)"),
    "Pad": (f"float[1] one = {{1}}, int64[2] p = {{0, {HUGE}}}", "b = Pad (one, p)"),
    "Concat": (
        "float[4] c0 = {1, 2, 3, 4}",
        " ".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(34)) + " b = Neg (c34)",
    ),
}
_REDUCED = "e = ReduceMax <keepdims = 0> (b) y = Add (x, e)"


@pytest.mark.parametrize("op", BOMBS)
@pytest.mark.parametrize("in_body", [False, True])
def test_bombs_are_left_to_the_runtime(op: str, in_body: bool, context: Context) -> None:
    """Nothing large is computed or stored, in the main graph or in a body."""
    constants, nodes = BOMBS[op]
    text = f"g (float[2] x) => (float[2] y) <{constants}> {{ {nodes} {_REDUCED} }}"
    if in_body:
        text = f"""g (float[2] x, bool c) => (float[2] r) <{constants}> {{ r = If (c) <
            then_branch = t () => (float[2] y) {{ {nodes} {_REDUCED} }},
            else_branch = f () => (float[2] q) {{ q = Neg (x) }} > }}"""
    model = ir.from_onnx_text(f'<ir_version: 10, opset_import: ["" : 20]> {text}')
    loop.apply(STEPS[:1], model, context)
    assert op in {node.op_type for node in graph.all_nodes(model)}
    assert graph.weight_bytes(model) <= 16 * 2**20


RANDOM = {
    "RandomNormal": "r = RandomNormal <shape = [2]> ()",
    "RandomUniform": "r = RandomUniform <shape = [2]> ()",
    "RandomNormalLike": "r = RandomNormalLike (k)",
    "RandomUniformLike": "r = RandomUniformLike (k)",
    "Bernoulli": "r = Bernoulli (half)",
    "Multinomial": "m = Multinomial <sample_size = 2> (logits) n = Cast <to = 1> (m) r = Squeeze (n, first)",
    "Dropout": "r, mask = Dropout (k, ratio, training)",
}


@pytest.mark.parametrize("op", RANDOM)
def test_random_operators_are_never_folded_nor_merged(op: str, context: Context) -> None:
    once, twice = RANDOM[op], RANDOM[op]
    for name in ("r", "mask", "m", "n"):
        twice = (
            twice.replace(f"{name} =", f"{name}2 =").replace(f"{name},", f"{name}2,").replace(f"({name})", f"({name}2)")
        )
        twice = twice.replace(f"({name},", f"({name}2,")
    model = ir.from_onnx_text(
        f"""<ir_version: 10, opset_import: ["" : 20]> g (float[2] x) => (float[2] y)
        <float[2] k = {{1, 2}}, float[2] half = {{0.5, 0.5}}, float[1, 2] logits = {{1, 2}}, int64[1] first = {{0}},
         float ratio = {{0.5}}, bool training = {{1}}>
        {{ {once} {twice} s = Sub (r, r2) y = Add (x, s) }}"""
    )
    loop.apply(STEPS, model, context)
    assert sum(node.op_type == op for node in model.graph) == 2
