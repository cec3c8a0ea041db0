"""In what precision outputs are computed, read from the graph: half precision counts where something computes in it."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from modelopt.measure.precision import Precision, precisions

HEADER = '<ir_version: 9, opset_import: ["" : 17]>'


@pytest.mark.parametrize(
    ("body", "precision"),
    [
        ("y = Neg (x)", Precision.FULL),
        ("h = Cast <to = 10> (x) y = Cast <to = 1> (h)", Precision.ROUNDED),
        ("h = Cast <to = 16> (x) y = Cast <to = 1> (h)", Precision.ROUNDED_BFLOAT16),
        ("h = Cast <to = 10> (x) t = Transpose (h) y = Cast <to = 1> (t)", Precision.ROUNDED),
        ("h = Cast <to = 10> (x) a = Add (h, h) y = Cast <to = 1> (a)", Precision.HALF),
        ("h = Cast <to = 16> (x) a = Exp (h) y = Cast <to = 1> (a)", Precision.BFLOAT16),
        ("q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)", Precision.STEPPED),
        ("d = Cast <to = 11> (x) y = Cast <to = 1> (d)", Precision.FULL),
        ("h = Cast <to = 10> (w) f = Cast <to = 1> (h) y = Mul (x, f)", Precision.ROUNDED),
    ],
)
def test_of_one_output(body: str, precision: Precision) -> None:
    model = ir.from_onnx_text(
        f"{HEADER} g (float[4,4] x) => (float[4,4] y) <float s = {{1}}, int8 z = {{0}}, float w = {{2}}> {{ {body} }}"
    )
    assert precisions(model) == (precision,)


def test_each_output_has_its_own() -> None:
    model = ir.from_onnx_text(
        f"""{HEADER} g (float[4] x, float16[4] h) => (float[4] a, float16[4] b, float16[4] c) {{
            a = Neg (x) b = Mul (h, h) c = Cast <to = 10> (x) }}"""
    )
    assert precisions(model) == (Precision.FULL, Precision.HALF, Precision.ROUNDED)


def test_bodies_and_functions_count() -> None:
    model = ir.from_onnx_text(
        f"""{HEADER.replace("17]", '17, "own" : 1]')}
        g (float[4] x, bool c) => (float[4] y, float[4] z) {{
            y = If (c) <then_branch = a () => (float[4] o) {{
                    h = Cast <to = 10> (x) d = Add (h, h) o = Cast <to = 1> (d) }},
                else_branch = e () => (float[4] p) {{ p = Neg (x) }}>
            z = own.rounded (x) }}
        <domain: "own", opset_import: ["" : 17]> rounded (v) => (w) {{
            h = Cast <to = 10> (v) w = Cast <to = 1> (h) }}"""
    )
    assert precisions(model) == (Precision.HALF, Precision.ROUNDED)
