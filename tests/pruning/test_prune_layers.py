"""The pass prune-layers: which blocks go, that the rest is what zeros leave, and that the repair finds what is lost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.errors import InputError, Refused
from modelopt.graph import invariants, macs
from modelopt.io import serialize
from modelopt.passes.prune_layers import PruneLayers
from modelopt.pruning import block_importance, block_shapes
from modelopt.pruning.block_work import BlockWork
from modelopt.pruning.residual_blocks import gone_with, zero_block
from tests.quant_tools import Listed
from tests.runtime_tools import session

WIDTH = 6
BRANCHES = {
    "relu": "a{i} = MatMul (s{i}, w{i})  b{i} = Relu (a{i})  f{i} = MatMul (b{i}, v{i})",
    "bias": "a{i} = MatMul (s{i}, w{i})  b{i} = Gelu (a{i})  c{i} = MatMul (b{i}, v{i})  f{i} = Add (c{i}, k{i})",
    "norm": "a{i} = LayerNormalization (s{i}, k{i})  b{i} = MatMul (a{i}, w{i})  f{i} = Tanh (b{i})",
    "gate": "a{i} = MatMul (s{i}, w{i})  b{i} = Sigmoid (a{i})  f{i} = Mul (a{i}, b{i})",
    "scale": "a{i} = MatMul (s{i}, w{i})  b{i} = Sigmoid (a{i})  f{i} = Mul (b{i}, k{i})",
    "nested": "a{i} = MatMul (s{i}, w{i})  b{i} = MatMul (a{i}, v{i})  c{i} = Add (b{i}, a{i})  "
    "f{i} = MatMul (c{i}, v{i})",
    "reshaped": "a{i} = Gemm (s{i}, w{i}, k{i})  b{i} = Unsqueeze (a{i}, zero)  f{i} = Squeeze (b{i}, zero)",
}


def stack(*kinds: str, strength: float = 0.5, batch: str = "N") -> ir.Model:
    """Residual blocks one behind another, and a layer behind them; s{i} is what block i reads."""
    rng = np.random.default_rng(len(kinds))
    head = f'<ir_version: 10, opset_import: ["" : 20]>\ng (float[{batch}, {WIDTH}] s0) => (float[{batch}, 3] y) {{'
    blocks = [
        BRANCHES[kind].format(i=i) + f"  s{i + 1} = Add (f{i}, s{i})"
        if i % 2
        else BRANCHES[kind].format(i=i) + f"  s{i + 1} = Add (s{i}, f{i})"
        for i, kind in enumerate(kinds)
    ]
    model = ir.from_onnx_text("\n".join([head, *blocks, f"y = MatMul (s{len(kinds)}, last) }}"]))
    arrays = {"last": rng.normal(size=(WIDTH, 3)), "zero": np.array([0])}
    for i in range(len(kinds)):
        arrays |= {f"{name}{i}": rng.normal(size=(WIDTH, WIDTH)) * strength for name in "wv"}
        arrays[f"k{i}"] = rng.normal(size=WIDTH) * strength
    values = {value.name: value for node in model.graph for value in node.inputs if value is not None}
    for name, array in arrays.items():
        if name in values:
            tensor = ir.tensor(array.astype(np.int64 if name == "zero" else np.float32), name=name)
            values[name].const_value = tensor
            values[name].shape, values[name].type = ir.Shape(array.shape), ir.TensorType(tensor.dtype)
            model.graph.register_initializer(values[name])
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


def copied(model: ir.Model) -> ir.Model:
    return serialize.from_bytes(serialize.to_bytes(model))


def feeds(count: int = 8, rows: int = 4) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(5)
    return [{"s0": rng.normal(size=(rows, WIDTH)).astype(np.float32)} for _ in range(count)]


def outputs(model: ir.Model, rows: int = 4) -> np.ndarray:
    opened = session(model)
    return np.concatenate([opened.run(None, feed)[0] for feed in feeds(8, rows)])


def with_data(context: Context) -> Context:
    return replace(context, calibration=Listed(feeds=feeds(16)))


@settings(max_examples=12, deadline=None)
@given(kinds=st.lists(st.sampled_from(sorted(BRANCHES)), min_size=1, max_size=5), data=st.data())
def test_a_model_without_blocks_is_the_model_in_which_they_make_zeros(
    context: Context, kinds: list[str], data: st.DataObject
) -> None:
    model = stack(*kinds)
    zeroed = copied(model)
    blocks = block_shapes.find(zeroed, context.runner).blocks
    assert len(blocks) == len(kinds) + kinds.count("nested")
    chosen = data.draw(st.lists(st.sampled_from(blocks), min_size=1, unique_by=lambda block: block.name))
    changes = PruneLayers(blocks=tuple(block.name for block in chosen)).apply(model, context)
    gone = gone_with(chosen, blocks)
    assert changes.rewrites == changes.facts["blocks_removed"] == len(gone)
    assert invariants.check(model) == []
    work = BlockWork(zeroed, blocks)
    assert len(work.left([block.name for block in gone])) == len(list(model.graph))
    names = graph.NameSource(zeroed)
    for block in gone:
        zero_block(block, names)
    for rows in (1, 4):
        np.testing.assert_allclose(outputs(model, rows), outputs(zeroed, rows), rtol=1e-4, atol=1e-5)


def test_work_that_is_left_is_that_of_the_model_without_the_block(context: Context) -> None:
    model = stack("relu", "bias", "relu", batch="4")
    context.runner.infer_shapes(model)
    work = BlockWork(model, block_shapes.find(model, context.runner).blocks)
    whole, saved = work.macs(), work.bytes_saved(["s2"])
    costs = {node.name or "": 10.0 for node in model.graph} | {"a kernel": 5.0}
    left = work.ns(costs, ["s2"])
    before = graph.weight_bytes(model)
    PruneLayers(blocks=("s2",)).apply(model, context)
    context.runner.infer_shapes(model)
    assert whole == 4 * (6 * WIDTH * WIDTH + 3 * WIDTH)
    assert work.macs(["s2"]) == sum(macs.macs(node) or 0 for node in model.graph)
    assert saved == before - graph.weight_bytes(model)
    assert left == 10 * len(list(model.graph)) + 5


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"sparsity": 0.5}, 2),
        ({"sparsity": 0.6}, 2),  # to the nearest whole block
        ({"sparsity": 0.63}, 1),
        ({"sparsity": 0.0}, 4),
        ({"count": 3}, 1),
        ({"count": 9}, 0),
        ({"sparsity": 0.9, "exclude": ("a0", "s3")}, 2),
        ({"sparsity": 0.9, "include": ("a0", "s3")}, 2),
    ],
)
def test_how_many_blocks_go(context: Context, options: dict[str, object], left: int) -> None:
    model = stack("relu", "relu", "bias", "relu")
    PruneLayers(**options).apply(model, context)  # type: ignore[arg-type]
    assert sum(node.name in {"s1", "s2", "s3", "s4"} for node in model.graph) == left


def test_without_data_a_branch_counts_by_what_it_adds_to_its_stream(context: Context) -> None:
    model = stack("relu", "relu", "relu")
    blocks = block_shapes.find(model, context.runner).blocks
    energies = []
    for index, size in enumerate((2.0, 1.0, 1.0)):
        value = model.graph.initializers[f"v{index}"]
        graph.set_constant(value, np.full((WIDTH, WIDTH), size, np.float32))
        energies.append(size**2 * WIDTH)
    scores = block_importance.scores("l2", model, blocks, context)
    behind = 1 + np.cumsum(energies)
    np.testing.assert_allclose([scores[f"s{i}"] for i in (1, 2, 3)], np.array(energies) / behind, rtol=1e-6)
    assert scores["s3"] < scores["s2"] < scores["s1"]  # of two like branches the later one adds the smaller share


def test_with_data_a_block_counts_by_how_far_it_turns_its_stream(context: Context) -> None:
    model = stack("relu", "bias")
    blocks = block_shapes.find(model, context.runner).blocks
    scores = block_importance.scores("influence", model, blocks, with_data(context))
    shown = copied(model)
    made = {value.name: value for node in shown.graph for value in node.outputs}
    shown.graph.outputs.extend([made["s1"], made["s2"]])
    opened = session(shown)
    streams = [[feed["s0"], *opened.run(["s1", "s2"], feed)] for feed in feeds(16)]
    for index in (0, 1):
        pairs = [(run[index], run[index + 1]) for run in streams]
        cosines = [(a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1) for a, b in pairs]
        assert scores[f"s{index + 1}"] == pytest.approx(1 - np.mean(cosines), rel=1e-4)


def test_random_importance_follows_the_seed(context: Context) -> None:
    model = stack(*["relu"] * 5)
    blocks = block_shapes.find(model, context.runner).blocks
    one, again, other = (
        block_importance.scores("random", model, blocks, replace(context, seed=seed)) for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other


def test_repair_lets_the_layers_behind_add_what_the_stream_lacks(context: Context) -> None:
    model = stack("relu", "bias", "relu", strength=0.3)
    wanted = outputs(model)
    errors = {}
    for repair in (False, True):
        pruned = copied(model)
        changes = PruneLayers(blocks=("s1",), repair=repair).apply(pruned, with_data(context))
        errors[repair] = float(np.square(outputs(pruned) - wanted).sum() / np.square(wanted).sum())
        assert invariants.check(pruned) == []
        assert ("layers_repaired" in changes.facts) is repair
    assert errors[True] < errors[False] / 4


def test_what_a_linear_block_did_the_next_layer_takes_over_exactly(context: Context) -> None:
    model = stack("reshaped")
    graph.set_constant(model.graph.initializers["k0"], np.zeros(WIDTH, np.float32))
    wanted = outputs(model)
    PruneLayers(blocks=("s1",), repair=True).apply(model, with_data(context))
    assert [node.op_type for node in model.graph] == ["MatMul"]
    np.testing.assert_allclose(outputs(model), wanted, rtol=1e-3, atol=1e-4)


def test_an_output_that_becomes_an_input_only_when_both_blocks_go_stays(context: Context) -> None:
    model = stack("relu", "relu")
    s2 = next(node for node in model.graph if node.name == "s2").outputs[0]
    model.graph.outputs[0] = s2
    s2.shape = model.graph.inputs[0].shape
    model.graph.remove(next(node for node in model.graph if node.name == "y"), safe=True)
    found = block_shapes.find(model, context.runner)
    assert [block.name for block in found.blocks] == ["s1"]
    assert found.refused == {"the sum is an output of the model": 1}
    PruneLayers(count=2).apply(model, context)
    assert invariants.check(model) == []
    assert outputs(model).shape == (32, WIDTH)


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"sparsity": 25}, "sparsity 25 is not in"),
        ({"count": -1}, "count -1 is below 0"),
        ({"importance": "wanda"}, "importance 'wanda' is not known"),
        ({"blocks": ("s11",)}, "blocks 's11' names no residual block"),
        ({"blocks": ("s1",), "exclude": ("s1",)}, "blocks 's1' names no residual block"),
        ({"exclude": ("op:Tanh",)}, "'op:Tanh' names no node"),
        ({"repair": True}, "repair needs calibration data"),
        ({"importance": "influence"}, "needs calibration data"),
    ],
)
def test_options_that_cannot_be(context: Context, options: dict[str, object], fact: str) -> None:
    model = stack("relu", "relu")
    before = serialize.to_bytes(model)
    with pytest.raises(InputError) as caught:
        PruneLayers(**options).apply(model, context)  # type: ignore[arg-type]
    assert fact in caught.value.fact
    assert serialize.to_bytes(model) == before


def test_a_model_without_any_block_says_what_a_block_is(context: Context) -> None:
    with pytest.raises(InputError) as caught:
        PruneLayers().apply(stack(), context)
    assert caught.value.fact == "the model has no residual block to remove"
    assert "x + f(x)" in (caught.value.note or "")


def test_a_quantized_model_is_refused(context: Context) -> None:
    model = ir.from_onnx_text("""<ir_version: 10, opset_import: ["" : 20]>
    g (float[N, 2] x) => (float[N, 2] y) <float s = {0.1}, int8 z = {0}>
    { q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Add (x, d) }""")
    with pytest.raises(Refused, match="quantized"):
        PruneLayers().apply(model, context)
