"""What onnxruntime fuses at load it fuses still, whatever the exact passes did to the nodes around it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.engine import loop
from modelopt.patterns import runtime_kernels as protected
from modelopt.recipe import pipelines
from tests.quant_tools import kernels, model

FAMILIES = {
    "Gelu": ("Gelu", "BiasGelu", "FastGelu"),
    "LayerNormalization": (
        "LayerNormalization",
        "SimplifiedLayerNormalization",  # onnxruntime makes it of what it centred before, here and there
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    ),
    "QuickGelu": ("QuickGelu",),
    "HardSigmoid": ("HardSigmoid",),
}
"""The kernels that count as one: a bias or a residual sum may be inside, or in what comes before."""

_GELU = "d = Div (x, r) e = Erf (d) f = Add (e, one) p = Mul (x, f) q = Mul (p, half)"
_CORE = """c = ReduceMean <axes = [-1]> (x) d = Sub (x, c) s = Pow (d, two) v = ReduceMean <axes = [-1]> (s)
           u = Add (v, eps) t = Sqrt (u) n = Div (d, t)"""
_PATTERNS = {
    "gelu": _GELU,
    "gelu, half first": "d = Div (x, r) e = Erf (d) f = Add (e, one) h = Mul (x, half) q = Mul (h, f)",
    "gelu with tanh": """k = Pow (x, three) l = Mul (k, c0) m = Add (x, l) n = Mul (m, c1) t = Tanh (n)
                         f = Add (t, one) p = Mul (x, f) q = Mul (p, half)""",
    "layer norm": f"{_CORE} k = Mul (n, scale) q = Add (k, shift)",
    "rms norm": """s = Mul (x, x) v = ReduceMean <axes = [-1]> (s) u = Add (v, eps) t = Sqrt (u) n = Div (x, t)
                   q = Mul (n, scale)""",
    "skip layer norm": "x1 = Add (x, y0) " + (f"{_CORE} k = Mul (n, scale) q = Add (k, shift)").replace("(x", "(x1"),
    "silu": "g = Sigmoid (x) q = Mul (x, g)",
    "quick gelu": "a = Mul (x, alpha) g = Sigmoid (a) q = Mul (x, g)",
    "hardswish": "a = Add (x, three) k = Clip (a, zero, six) m = Mul (x, k) q = Div (m, six)",
    "hardsigmoid": "a = Add (x, three) k = Clip (a, zero, six) q = Div (k, six)",
}
_PATTERNS["two layer norms"] = f"""{_CORE} k = Mul (n, scale) a = Add (k, shift)
    c2 = ReduceMean <axes = [-1]> (x) d2 = Sub (x, c2) s2 = Pow (d2, two) v2 = ReduceMean <axes = [-1]> (s2)
    u2 = Add (v2, eps) t2 = Sqrt (u2) n2 = Div (d2, t2) k2 = Mul (n2, shift) b = Add (k2, scale)
    q = Concat <axis = 1> (a, b)"""

_BEFORE = {
    "conv": "x = Conv (y0, w)",
    "conv and factor": "x0 = Conv (y0, w) x = Mul (x0, two)",
    "matmul": "x = MatMul (y0, wide)",
    "transpose": "x = Transpose <perm = [0, 2, 1]> (y0)",
}
_BEHIND = {
    "conv": "z = Conv (q, w2)",
    "padded conv": "z0 = Mul (q, two) z1 = Add (z0, three) z = Conv <pads = [1, 1], kernel_shape = [1]> (z1, w2)",
    "matmul": "z = MatMul (q, wide)",
    "transpose": "z = Transpose <perm = [0, 2, 1]> (q)",
}


@pytest.mark.parametrize("raises", [False, True], ids=["kept opset", "raised opset"])
@pytest.mark.parametrize("name", _PATTERNS)
def test_as_many_kernels_as_before(name: str, raises: bool, context: Context, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    channels = 32 if name == "two layer norms" else 16
    weights = {
        "w": rng.normal(size=(16, 16, 1)),
        "w2": rng.normal(size=(16, channels, 1)),
        "wide": rng.normal(size=(16, 16)) / 4,
        "scale": rng.uniform(1, 2, 16),
        "shift": rng.normal(size=16),
        "r": np.sqrt(2),
        "c0": 0.044715,
        "c1": np.sqrt(2 / np.pi),
        "eps": 1e-5,
        "alpha": 1.702,
        "zero": 0,
        "half": 0.5,
        "one": 1,
        "two": 2,
        "three": 3,
        "six": 6,
    }
    stored = {key: np.asarray(number, np.float32) for key, number in weights.items()}
    for before, head in _BEFORE.items():
        for behind, tail in _BEHIND.items():
            text = f"""<ir_version: 8, opset_import: ["" : 13]>
                g (float[1, 16, 16] y0) => (float[A, B, C] z) {{ {head} {_PATTERNS[name]} {tail} }}"""
            used = {key: array for key, array in stored.items() if f"{key})" in text or f"{key}," in text}
            subject = model(text, **used)
            expected = _families(kernels(subject, tmp_path))
            loop.apply(pipelines.expand("exact", keep_opset=not raises), subject, context)
            found = _families(kernels(subject, tmp_path))
            worse = {
                family: (expected[family], found[family]) for family in FAMILIES if found[family] < expected[family]
            }
            assert not worse, (before, behind)


def _families(found: Counter[str]) -> dict[str, int]:
    return {family: sum(found[kind] for kind in kinds) for family, kinds in FAMILIES.items()}


def test_each_pattern_is_known() -> None:
    names = {
        "gelu": "Gelu",
        "gelu, half first": "Gelu",
        "gelu with tanh": "FastGelu",
        "layer norm": "LayerNormalization",
        "rms norm": "SimplifiedLayerNormalization",
        "silu": "QuickGelu",
        "quick gelu": "QuickGelu",
        "hardswish": "HardSwish",
        "hardsigmoid": "HardSigmoid",
    }
    numbers = {"r": 2**0.5, "c0": 0.044715, "c1": (2 / np.pi) ** 0.5, "eps": 1e-5, "alpha": 1.7}
    numbers |= {"zero": 0, "half": 0.5, "one": 1, "two": 2, "three": 3, "six": 6}
    stored = {key: np.asarray(number, np.float32) for key, number in numbers.items()}
    stored |= {"scale": np.ones(16, np.float32), "shift": np.ones(16, np.float32)}
    for name, kernel in names.items():
        text = f"""<ir_version: 8, opset_import: ["" : 13]>
            g (float[1, 16, 16] y0) => (float[1, 16, 16] z) <float[1, 16, 16] x>
            {{ x = Neg (y0) {_PATTERNS[name]} z = Neg (q) }}"""
        subject = model(text, **{key: array for key, array in stored.items() if f"{key})" in text or f"{key}," in text})
        for node in graph.all_nodes(subject):
            found = protected.pattern_of(node, 13)
            assert (None if found is None else found.kernel) == (None if node.op_type == "Neg" else kernel), (
                name,
                node,
            )
