"""What the graph does with its inputs bounds and names the values that verification feeds."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from modelopt.verification.input_uses import MAX_PLAIN, MAX_TRIPS, InputUse, uses_of

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


def uses(text: str) -> dict[str, InputUse]:
    return uses_of(ir.from_onnx_text(f"{HEADER} {text}"))


def test_indices_stay_within_the_table_that_they_index() -> None:
    found = uses(
        """g (int64[b,s] ids, int64[b,s] types, int32[b] pick) => (float[b,s,4] y, float[b,4] z)
        <float[50,4] rows = {0}, float[2,4] kinds = {0}, float[9,4] other = {0}> {
            a = Gather (rows, ids) b = Gather (kinds, types) y = Add (a, b)
            c = Cast <to = 7> (pick) z = Gather (other, c) }"""
    )
    assert [found[name].integers() for name in ("ids", "types", "pick")] == [(0, 49), (0, 1), (0, 8)]


def test_what_shifts_an_index_shifts_its_range() -> None:
    found = uses(
        """g (int64[b] i) => (float[b,4] y) <float[50,4] rows = {0}, int64 two = {2}, int64 four = {4}> {
            a = Mul (i, two) b = Sub (a, four) y = Gather (rows, b) }"""
    )
    assert found["i"].integers() == (2, 26)


def test_trips_are_counted_to_five() -> None:
    found = uses(
        """g (float[4] x, int64 n) => (float[4] y) <bool go = {1}> {
            y = Loop (n, go, x) <body = b (int64 i, bool c, float[4] a) => (bool d, float[4] o) {
                d = Identity (c) o = Neg (a) }> }"""
    )
    assert found["n"].integers() == (0, MAX_TRIPS)


def test_numbers_that_the_graph_asks_for_are_found_in_the_inputs_own_units() -> None:
    found = uses(
        """g (float[b,4] x, int64 rate) => (float[b,4] y, bool z)
        <float mean = {0.5}, float std = {0.25}, float low = {-2}, float high = {2}, int64 wanted = {16000}> {
            a = Sub (x, mean) s = Div (a, std) y = Clip (s, low, high) z = Equal (rate, wanted) }"""
    )
    assert found["x"].constants == (0.0, 1.0)
    assert found["rate"].constants == (16000.0,)
    assert found["rate"].integers() == (0, 16001)


def test_uses_in_bodies_and_functions_count() -> None:
    model = ir.from_onnx_text(
        f"""{HEADER.replace("17]", '17, "own" : 1]')}
        g (float[b,4] x, bool c, int64[b] i) => (float[b,4] y) {{
            t = own.twice (x)
            y = If (c) <then_branch = a () => (float[b,4] o) {{
                    r = Constant <value = float[7,4] {{0}}> () o = Gather (r, i) }},
                else_branch = e () => (float[b,4] p) {{ p = Identity (t) }}> }}
        <domain: "own", opset_import: ["" : 17]> twice (v) => (w) {{
            h = Constant <value_float = 3.0> () w = Max (v, h) }}
        """
    )
    found = uses_of(model)
    assert found["i"].integers() == (0, 6)
    assert found["c"].is_flag
    assert found["x"].constants == (3.0,)


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("g (int64[b,s] m) => (float[b,s] y) <float one = {1}> { f = Cast <to = 1> (m) y = Sub (one, f) }", (0, 1)),
        ("g (int64[b,s] m) => (bool[b,s] y) { y = Cast <to = 9> (m) }", (0, 1)),
        ("g (int64[b,s] m) => (float[b,s] y) { y = Cast <to = 1> (m) }", (-1, MAX_PLAIN)),
    ],
)
def test_masks_are_flags_and_other_integers_are_not(text: str, ends: tuple[int, int]) -> None:
    assert uses(text)["m"].integers() == ends


def test_only_bounded_inputs_have_ranges() -> None:
    model = ir.from_onnx_text(
        f"""{HEADER} g (int64[b] i, float[b,4] x) => (float[b,4] y) <float[9,4] r = {{0}}> {{
            a = Gather (r, i) y = Add (a, x) }}"""
    )
    assert {name: use.integers() for name, use in uses_of(model).items() if use.is_bounded} == {"i": (0, 8)}
