"""Tables that are looked up, in few bits: alone, and tied to an output head that reads the same numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import invariants
from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.quant.weight_only import weight_writer
from modelopt.quant.weight_only.rounding import BlockRounding
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, op_types, relative_error, run

RNG = np.random.default_rng(0)
TABLE = RNG.standard_normal((120, 64)).astype(np.float32)
INDICES = np.array([[0, 5, 119], [7, 7, -1]])
LOOKUP = """
<ir_version: 8, opset_import: ["" : 17]>
net (int64[n,m] i) => (float[n,m,k] y)
{ y = Gather (table, i) }
"""
HEADS = {
    "transposed by a node": "t = Transpose <perm = [1, 0]> (table)  y = MatMul (e, t)",
    "transposed by a Gemm": "flat = Flatten <axis = 2> (e)  y = Gemm <transB = 1> (flat, table, b)",
    "a transposed copy": "y = MatMul (e, copy)",
}
LEAST_ERRORS = {2: 0.8, 4: 0.2, 8: 0.02}
IN_FLOAT = QuantizeWeights(int8_compute=False)


def stored_bytes(result: ir.Model) -> int:
    return sum(value.const_value.nbytes for value in result.graph.initializers.values() if value.const_value)


def tied(head: str, opset: int = 17) -> ir.Model:
    text = f"""
    <ir_version: 8, opset_import: ["" : {opset}]>
    net (int64[n,m] i) => (float y)
    {{ e = Gather (table, i)  {HEADS[head]} }}
    """
    more = {"a transposed copy": {"copy": np.ascontiguousarray(TABLE.T)}}
    more["transposed by a Gemm"] = {"b": np.arange(len(TABLE), dtype=np.float32)}
    return model(text, table=TABLE, **more.get(head, {}))


@pytest.mark.parametrize("indices", [INDICES, INDICES[0], np.array(5)], ids=["matrix", "vector", "scalar"])
@pytest.mark.parametrize(
    ("bits", "form"), [(2, "matmulnbits"), (4, "matmulnbits"), (8, "matmulnbits"), (8, "blocked"), (4, "blocked")]
)
def test_rows_are_looked_up_in_few_bits(runner: WorkerRunner, bits: int, form: str, indices: np.ndarray) -> None:
    text = LOOKUP.replace("[n,m]", str(list(indices.shape)) if indices.ndim else "").replace("[n,m,k]", "")
    result = model(text, table=TABLE)
    kind = QuantizeWeights(bits=bits, form=WeightFormat(form))
    assert kind.apply(result, context(runner)).rewrites == 1
    assert invariants.check(result) == []
    assert stored_bytes(result) < TABLE.nbytes * (0.36 if bits == 8 or form == "blocked" else 0.25)
    kinds = {"matmulnbits": {"GatherBlockQuantized": 1}, "blocked": {"Gather": 2, "DequantizeLinear": 1}}
    assert {op_type: op_types(result)[op_type] for op_type in kinds[form]} == kinds[form]
    (found,) = run(result, {"i": indices})
    assert found.shape == (*indices.shape, 64)
    assert relative_error(TABLE[indices], found) < LEAST_ERRORS[8 if form == "blocked" else bits]
    assert kind.apply(result, context(runner)).rewrites == 0


@pytest.mark.parametrize("form", ["matmulnbits", "blocked"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("head", HEADS)
def test_a_tied_head_and_its_embedding_share_one_table(runner: WorkerRunner, head: str, bits: int, form: str) -> None:
    reference, result = tied(head), tied(head)
    changes = QuantizeWeights(
        bits=bits, form=WeightFormat(form), int8_compute=None if form == "blocked" else False
    ).apply(result, context(runner))
    assert (changes.rewrites, changes.facts["tables_quantized"], changes.skipped) == (2, 1, ())
    assert invariants.check(result) == []
    assert stored_bytes(result) < TABLE.nbytes * (0.36 if bits == 8 or form == "blocked" else 0.25)
    assert not {"table", "copy"} & set(result.graph.initializers)
    feeds = {"i": INDICES}
    error = relative_error(run(reference, feeds)[0], run(result, feeds)[0])
    assert error < LEAST_ERRORS[8 if form == "blocked" else bits]
    again = QuantizeWeights(bits=bits, form=WeightFormat(form)).apply(result, context(runner))
    assert again.rewrites == 0


@pytest.mark.parametrize("width", [51, 50, 40])
@pytest.mark.parametrize("with_head", [False, True])
def test_rows_that_end_inside_a_block_or_a_byte(runner: WorkerRunner, width: int, with_head: bool) -> None:
    table = TABLE[:, :width]
    head = "t = Transpose (table)  z = MatMul (y, t)" if with_head else "z = Neg (y)"
    text = LOOKUP.replace("y) \n", "y)").replace("(float[n,m,k] y)", "(float y, float z)").replace("}", f"{head} }}")
    result = model(text, table=table)
    assert IN_FLOAT.apply(result, context(runner)).rewrites == 1 + with_head
    rows, behind = run(result, {"i": INDICES})
    assert rows.shape == (2, 3, width)
    assert relative_error(table[INDICES], rows) < LEAST_ERRORS[4]
    assert relative_error(table[INDICES] @ table.T if with_head else -table[INDICES], behind) < LEAST_ERRORS[4]


def test_tables_may_have_bits_of_their_own(runner: WorkerRunner) -> None:
    text = LOOKUP.replace("y = Gather (table, i)", "e = Gather (table, i)  y = MatMul (e, w)")
    weights = {"table": TABLE, "w": RNG.standard_normal((64, 48)).astype(np.float32)}
    result = model(text, **weights)
    QuantizeWeights(table_bits=8).apply(result, context(runner))
    bits = {node.op_type: graph.attribute_int(node, "bits", 0) for node in result.graph}
    assert bits == {"GatherBlockQuantized": 8, "MatMulNBits": 4}


def test_what_is_no_table_of_rows_stays(runner: WorkerRunner) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n] i, float[3,64] x) => (float a, float b, float c, float d)
    {
      a = Gather <axis = 1> (columns, i)  b = Gather (boxes, i)  c = Gather (small, i)
      rows = Gather (both, i)  d = Add (rows, both)
    }
    """
    boxes = TABLE.reshape(60, 2, 64)
    result = model(text, columns=TABLE + 1, boxes=boxes, small=TABLE[:2], both=TABLE[:1].repeat(20, 0))
    changes = QuantizeWeights().apply(result, context(runner))
    assert changes.rewrites == 0
    assert [skip.reason for skip in changes.skipped] == [
        "it looks up columns of its table, not rows",
        "its table has 3 axes, not 2",
        "its weight has 128 elements, fewer than min-elements",
        "d (Add) reads its weight in float, and the file would hold both",
    ]


def test_a_head_that_stays_in_float_keeps_the_table_in_float(runner: WorkerRunner) -> None:
    result = tied("transposed by a node")
    assert QuantizeWeights(exclude=("op:MatMul",)).apply(result, context(runner)).rewrites == 0


def test_an_old_opset_is_raised_for_a_table(runner: WorkerRunner) -> None:
    result = tied("transposed by a node", opset=9)
    assert IN_FLOAT.apply(result, context(runner)).rewrites == 2
    assert graph.opset(result) >= 11
    assert relative_error(run(tied("transposed by a node"), {"i": INDICES})[0], run(result, {"i": INDICES})[0]) < 0.2


@pytest.mark.parametrize("head", HEADS)
def test_without_such_an_operator_rows_are_dequantized(
    runner: WorkerRunner, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    monkeypatch.setattr(weight_writer, "why_not_look_up", lambda *_: "no such operator")
    reference, result = tied(head), tied(head)
    changes = QuantizeWeights().apply(result, context(runner))
    assert changes.rewrites == 2
    assert "GatherBlockQuantized" not in op_types(result)
    assert relative_error(run(reference, {"i": INDICES})[0], run(result, {"i": INDICES})[0]) < LEAST_ERRORS[8]


@pytest.mark.parametrize("form", list(WeightFormat))
def test_bodies_look_up_a_table_of_the_model(runner: WorkerRunner, form: WeightFormat) -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n] i, bool c, float[4,64] x) => (float y, float z)
    {
      y = If (c) <
        then_branch = yes () => (float a) { a = Gather (table, i) },
        else_branch = no () => (float b) { rows = Gather (table, i)  b = Neg (rows) }
      >
      t = Transpose (table)  z = MatMul (x, t)
    }
    """
    result = model(text, table=TABLE)
    assert QuantizeWeights(bits=8, form=form).apply(result, context(runner)).rewrites == 3
    assert invariants.check(result) == []
    x = RNG.standard_normal((4, 64)).astype(np.float32)
    for c, expected in ((True, TABLE[:9]), (False, -TABLE[:9])):
        y, z = run(result, {"i": np.arange(9), "c": np.array(c), "x": x})
        assert relative_error(expected, y) < LEAST_ERRORS[8]
        assert relative_error(x @ TABLE.T, z) < LEAST_ERRORS[8]


def test_gptq_rounds_a_tied_table_by_what_its_head_reads(runner: WorkerRunner) -> None:
    feeds = [{"i": RNG.integers(0, 120, (4, 16))} for _ in range(4)]
    text = LOOKUP.replace("y = Gather (table, i)", "y = Gather (table, i)  t = Transpose (table)  z = MatMul (y, t)")
    text = text.replace("(float[n,m,k] y)", "(float y, float z)")
    for kind in (text, LOOKUP):
        result = model(kind, table=TABLE)
        dataclasses.replace(IN_FLOAT, method=BlockRounding.GPTQ).apply(result, context(runner, feeds))
        assert relative_error(TABLE[INDICES], run(result, {"i": INDICES})[0]) < 0.3
