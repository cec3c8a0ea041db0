"""A limit on the size steers the search: it goes on to smaller formats, and fails before anything is timed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.search import fallbacks
from tests.command_line import FAST, calibration, modelopt, sample

VIT = sample("digits_vit")


def test_what_is_tried_for_size() -> None:
    assert [str(one) for one in fallbacks.smaller(QuantizeStatic())] == [
        "quantize-static(everywhere=True)",
        "store-weights",
        "quantize-weights",
    ]
    assert [str(one) for one in fallbacks.smaller(QuantizeDynamic())] == ["store-weights", "quantize-weights"]
    assert list(fallbacks.smaller(QuantizeStatic(include=("x",)))) == []


@pytest.mark.parametrize(("limit", "code"), [("25%", 0), ("5%", 1)])
def test_a_limit_on_the_size(limit: str, code: int, tmp_path: Path) -> None:
    words = ("quantize", VIT, "--calib", calibration("digits_vit"), "--calib-limit", "16", "--max-size", limit)
    run = modelopt(*words, "-o", "x.onnx", "--json", *FAST, cwd=tmp_path)
    assert run.code == code, run.err
    report: dict[str, Any] = json.loads(run.out)
    assert [trial["group"] for trial in report["trials"] if trial["kept"]] == ["quantize-weights"]
    assert all(trial["ratio"] is None for trial in report["trials"])
    gates = {gate["gate"]: gate["outcome"] for gate in report["gates"]}
    if code:
        assert gates == {"max-size": "failed", "max-drop": "not judged"}
        assert report["latency"] is None
        assert report["next"].endswith("admits the smallest model that was made")
        assert run.created == set()
    else:
        assert gates["max-size"] == "passed"
        assert (tmp_path / "x.onnx").stat().st_size <= 0.25 * VIT.stat().st_size
