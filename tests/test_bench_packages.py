"""The script that benchmarks models out of packages: what it feeds them, and what it counts. Nothing is downloaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

BENCH = Path(__file__).parent / "bench"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("package_models")


def row(script: Any, tool: str, *, code: int = 0, nodes: int | None = None, error: float | None = 0.0) -> Any:
    judged = (
        None if nodes is None else {"nodes": nodes, "loads": True, "error": error, "tolerance": 1e-4, "problem": ""}
    )
    return script.Row("m", tool, code, "said", 1.0, judged)


def test_every_package_has_a_version_and_every_model_a_name_of_its_own(script: Any) -> None:
    assert len(script.SOURCES) >= 20
    assert len({source.name for source in script.SOURCES}) == len(script.SOURCES)
    assert all("==" in source.package and source.member for source in script.SOURCES if source.package)


def test_feeds_follow_the_signature_and_what_is_known_of_the_model(script: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        onnx.parser.parse_model(
            """<ir_version: 8, opset_import: ["" : 17]>
            g (float[n, 3] x, int64 rate, int64[1, t] ids, string[n, 1] words) => (float[n, 3] y) { y = Identity(x) }"""
        ),
        path,
    )
    source = script.Source("m", "", shapes={"ids": (1, 5)}, values={"rate": 16000}, below=100)
    feed = script.made_up(source, path, 0)
    assert {name: array.shape for name, array in feed.items()} == {
        "x": (1, 3),
        "rate": (),
        "ids": (1, 5),
        "words": (1, 1),
    }
    assert feed["rate"] == 16000
    assert feed["ids"].dtype == np.int64
    assert feed["ids"].max() < 100
    assert feed["words"].dtype.kind == "U"
    assert not source.any_feed
    assert script.Source("m", "").any_feed


def test_a_refusal_counts_where_a_peer_has_a_result(script: Any) -> None:
    refused = [row(script, "fold", code=3), row(script, "static", code=3), row(script, "prune", code=3)]
    lines = script.summary([*refused, row(script, "onnxsim", nodes=3), row(script, "ort-static-u8s8", nodes=3)])
    assert "Refused here, handled by a peer: 2 (m fold, m static)" in lines
    assert lines[2].endswith(": 1 (m prune)")
    lines = script.summary([*refused, row(script, "onnxsim", nodes=3, error=0.5)])
    assert "Refused here, handled by a peer: 0" in lines


def test_a_result_that_differs_counts_as_broken_after_an_exact_command_only(script: Any) -> None:
    lines = script.summary([row(script, "fold", nodes=3, error=0.1), row(script, "static", nodes=3, error=0.1)])
    assert "Written here, and broken: 1 (m fold)" in lines
    lines = script.summary([row(script, "static", nodes=3, error=None)])
    assert "Written here, and broken: 1 (m static)" in lines


def test_nodes_left_are_held_against_the_better_equal_simplifier(script: Any) -> None:
    found = [row(script, "fold", nodes=9), row(script, "fuse", nodes=7), row(script, "onnxsim", nodes=8)]
    assert script.summary(found)[-1].endswith("leaves: 100% of 1")
    assert script.summary([*found, row(script, "onnxslim", nodes=6)])[-1].endswith("leaves: 0% of 1 (m 7 against 6)")
    assert script.summary([*found, row(script, "onnxslim", nodes=6, error=0.5)])[-1].endswith("leaves: 100% of 1")
