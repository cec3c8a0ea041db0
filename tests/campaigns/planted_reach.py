"""Bugs that show only where feeds reach: a third sample, a row of a table, a rare branch, NaN, a small column.

Each has a small model of its own, which verification gets without any data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from tests.campaigns.edits import Edit, bypass, weight
from tests.campaigns.reach_models import (
    HEADER,
    ages,
    branch_below,
    by_rate,
    clipped,
    copied,
    fixed,
    imputed,
    linear,
    loop,
    pixels,
    rare_branch,
    scaled_before_clip,
    scan,
    sequence,
    small_channel,
    table,
    threshold,
    through,
    two_scales,
    two_sequences,
    value_of,
)


def graft(name: str, text: str, *captured: str) -> Edit:
    """Put nodes behind the value `name`: `text` makes ``w`` of ``v``, and may read the values in `captured`."""

    def edit(model: ir.Model) -> None:
        old = value_of(model, name)
        inputs = ", ".join(f"float {each}" for each in ("v", *captured))
        made = ir.from_onnx_text(f"{HEADER} g ({inputs}) => (float w) {{ {text} }}")
        nodes = list(made.graph)
        out = made.graph.outputs[0]
        made.graph.outputs.clear()
        for value in (value for node in nodes for value in node.outputs):
            value.name = f"planted_{value.name}"
        given = [old, *(value_of(model, each) for each in captured)]
        made.graph.remove(nodes)
        where = old.graph or old.producer().graph  # type: ignore[union-attr]
        assert where is not None
        graph.replace_value(old, out)
        for inner, value in zip(list(made.graph.inputs), given, strict=True):
            inner.replace_all_uses_with(value)
        producer = old.producer()
        if producer is None:
            where.insert_before(where[0], nodes)
        else:
            where.insert_after(producer, nodes)

    return edit


def doubled_where(condition: str) -> str:
    """Text that doubles ``v`` where ``c`` holds."""
    return f"{condition} d = Add (v, v) w = Where (c, d, v)"


def doubled_from(first: int, axis: int, rank: int, *, below: bool = False) -> str:
    """Text that doubles ``v`` from an index of an axis on, or the whole of it where the axis is shorter than that."""
    if below:
        return doubled_where(
            f"n = Shape <start = {axis}, end = {axis + 1}> (v) f = Constant <value_int = {first}> () c = Less (n, f)"
        )
    shape = ", ".join("-1" if i == axis else "1" for i in range(rank))
    return doubled_where(
        f"n = Shape <start = {axis}, end = {axis + 1}> (v) z = Constant <value_int = 0> () n0 = Squeeze (n) "
        f"o = Constant <value_int = 1> () r = Range (z, n0, o) f = Constant <value_int = {first - 1}> () "
        f"k = Greater (r, f) s = Constant <value_ints = [{shape}]> () c = Reshape (k, s)"
    )


@dataclass(frozen=True)
class Reach:
    """A bug and the model that it is planted in.

    Attributes:
        model: Makes the model.
        edit: What goes wrong.
    """

    model: Callable[[], onnx.ModelProto]
    edit: Edit


def _row(index: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[index] *= 2
        return array

    return change


def _rows_from(first: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[first:] *= 2
        return array

    return change


def _operator(name: str, op_type: str) -> Edit:
    def edit(model: ir.Model) -> None:
        producer = value_of(model, name).producer()
        assert producer is not None
        producer.op_type = op_type

    return edit


def _both(*edits: Edit) -> Edit:
    def edit(model: ir.Model) -> None:
        for each in edits:
            each(model)

    return edit


def _absolute(comparison: str, number: float) -> str:
    return doubled_where(f"a = Abs (v) t = Constant <value_float = {number}> () c = {comparison} (a, t)")


_ALL_SMALL = doubled_where(
    "a = Abs (v) m = ReduceMax <keepdims = 0> (a) t = Constant <value_float = 0.9> () c = Less (m, t)"
)


_ALL_ZERO = (
    "a = Abs (v) m = ReduceMax <keepdims = 0> (a) t = Constant <value_float = 0.0> () c = Equal (m, t) "
    "o = Constant <value_float = 1.0> () d = Add (v, o) w = Where (c, d, v)"
)


_LATE_TRIP = doubled_where("z = Constant <value_int = 0> () c = Greater (trip, z)")
_NO_TRIP = doubled_where("z = Constant <value_int = 0> () c = Equal (n, z)")


_UNLIKE = doubled_where(
    "l = Shape <start = 1, end = 2> (v) r = Shape <start = 2, end = 3> (v) e = Equal (l, r) c = Not (e)"
)


_SIGNED = "b = Cast <to = 3> (v) w = Cast <to = 1> (b)"
_ZERO_FOR = "c = {} (v) z = Constant <value_float = 0.0> () w = Where (c, z, v)"


REACH: dict[str, Reach] = {
    "batch-above-2": Reach(linear, graft("i", doubled_from(2, 0, 2))),
    "length-above-8": Reach(sequence, graft("i", doubled_from(8, 1, 3))),
    "length-below-6": Reach(sequence, graft("i", doubled_from(6, 1, 3, below=True))),
    "lengths-that-differ": Reach(two_sequences, graft("z", _UNLIKE)),
    "table-rows-from-2": Reach(table, weight("z", 0, _rows_from(2))),
    "table-last-row": Reach(table, weight("z", 0, _row(-1))),
    "loop-from-the-second-trip": Reach(loop, graft("o", _LATE_TRIP, "trip")),
    "loop-without-a-trip": Reach(loop, graft("z", _NO_TRIP, "n")),
    "scan-from-the-ninth-step": Reach(scan, graft("all", doubled_from(8, 0, 2))),
    "rare-branch": Reach(rare_branch, weight("tb", 1, _row(3))),
    "branch-in-a-branch": Reach(branch_below, weight("ttb", 1, _row(3))),
    "branch-of-a-flag": Reach(branch_below, _operator("eb", "Identity")),
    "branch-of-one-number": Reach(by_rate, weight("tb", 1, _row(3))),
    "branch-of-all-other-numbers": Reach(by_rate, weight("eb", 1, _row(3))),
    "beyond-3": Reach(linear, graft("i", _absolute("Greater", 3.0))),
    "beyond-3-in-one-sample": Reach(fixed, graft("i", _absolute("Greater", 3.0))),
    "beyond-100": Reach(copied, graft("i", _absolute("Greater", 100.0))),
    "all-below-1": Reach(linear, graft("i", _ALL_SMALL)),
    "all-zero": Reach(linear, graft("i", _ALL_ZERO)),
    "clip-upper-bound-lost": Reach(clipped, weight("y", 2, lambda array: array * np.float32(1e30))),
    "clip-lower-bound-moved": Reach(clipped, weight("y", 1, lambda array: array - np.float32(0.01))),
    "clip-bound-lost-behind-a-scale": Reach(scaled_before_clip, weight("z", 2, lambda array: array * np.float32(1e30))),
    "equality-lost": Reach(threshold, _operator("c", "GreaterOrEqual")),
    "nan": Reach(copied, graft("i", _ZERO_FOR.format("IsNaN"))),
    "nan-no-longer-replaced": Reach(imputed, bypass("y", 2)),
    "infinity": Reach(copied, graft("i", _ZERO_FOR.format("IsInf"))),
    "small-half-beside-large-half": Reach(two_scales, weight("q", 1, lambda array: array * 2)),
    "small-column-beside-large-ones": Reach(two_scales, weight("q", 1, _row(5))),
    "small-channel-beside-large-ones": Reach(small_channel, weight("z", 1, _row(3))),
    "float16-round-trip-lost": Reach(lambda: through(10), _both(bypass("r"), bypass("y"))),
    "bfloat16-round-trip-lost": Reach(lambda: through(16), _both(bypass("r"), bypass("y"))),
    "bytes-above-127": Reach(pixels, graft("y", _SIGNED)),
    "integers-above-5": Reach(ages, graft("y", _absolute("Greater", 5.0))),
}
