"""Converts a model to half precision and compares it with the original."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from modelopt import graph
from modelopt.core.changes import Changes
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.passes.convert_half import ConvertHalf
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model, run

_GENERATOR = np.random.default_rng(0)
WEIGHT = _GENERATOR.standard_normal((8, 8)).astype(np.float32)
FEEDS = {"x": _GENERATOR.standard_normal((3, 8)).astype(np.float32)}


def half_of(
    text: str,
    runner: WorkerRunner,
    feeds: dict[str, np.ndarray] | None = None,
    *,
    calibrated: bool = False,
    target: str = "x86-vnni",
    weights: dict[str, np.ndarray] | None = None,
    **options: Any,
) -> tuple[ir.Model, Changes]:
    """The converted model, checked, after its outputs were compared with those of the float32 model."""
    feeds = FEEDS if feeds is None else feeds
    stored = {"w": WEIGHT} if weights is None else weights
    original, result = model(text, **stored), model(text, **stored)
    changes = ConvertHalf(**options).apply(result, context(runner, [feeds] if calibrated else None, target))
    assert invariants.check(result) == []
    assert graph.signature(result) == graph.signature(original)
    onnx.checker.check_model(serialize.to_bytes(result), full_check=True)
    if target == "x86-vnni":
        for expected, found in zip(run(original, feeds), run(result, feeds), strict=True):
            assert expected.dtype == found.dtype
            np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01 * np.abs(expected).max())
    again = ConvertHalf(**options).apply(
        serialize.from_bytes(serialize.to_bytes(result)), context(runner, None, target)
    )
    assert changes.rewrites == 0 or again.rewrites == 0
    return result, changes


def reasons(changes: Changes) -> dict[str, str]:
    """Why nodes stay, by their label."""
    return {skip.node: skip.reason for skip in changes.skipped}
