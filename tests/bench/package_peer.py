"""Simplify a model with another tool, or run results beside the original; package_models.py runs this for its peers.

    python package_peer.py onnxsim|onnxslim MODEL OUT
    python package_peer.py judge MODEL RESULT FEEDS

FEEDS is a folder of ``.npz`` files, one for each feed. ``judge`` prints one JSON document: ``nodes`` of the result,
those of subgraphs and functions included and Constant left out; whether it ``loads``; the largest ``error`` beside the
original, as a part of the largest number of an output; the ``tolerance`` within which it is equal, which is wider where
the original computes in half precision or quantizes; what went wrong, in ``problem``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

_TOLERANCE = {False: 1e-4, True: 1e-2}
_LEAST_SCALE = 0.01
"""Where all numbers of an output are smaller, errors are a part of it: a Sigmoid is no finer than parts of one."""


def simplify(tool: str, model: str, out: str) -> None:
    """Simplify with the tool's defaults."""
    if tool == "onnxsim":
        import onnxsim

        simplified, same = onnxsim.simplify(onnx.load(model))
        if not same:
            sys.exit("onnxsim's own check failed")
    else:
        import onnxslim  # type: ignore[import-not-found]

        simplified = onnxslim.slim(onnx.load(model))
    onnx.save(simplified, out)


def _rounds_coarsely(graph: onnx.GraphProto) -> bool:
    """Whether a model computes in half precision or quantizes: a difference in rounding becomes one of a step."""
    halves = any(each.data_type == onnx.TensorProto.FLOAT16 for each in graph.initializer)
    return halves or any("QuantizeLinear" in node.op_type for node in graph.node)


def judge(model: str, result: str, folder: str) -> dict[str, Any]:
    """Load both and run both on the same feeds."""
    told: dict[str, Any] = {"nodes": None, "loads": False, "error": None, "tolerance": 0.0, "problem": ""}
    try:
        told["tolerance"] = _TOLERANCE[_rounds_coarsely(onnx.load(model).graph)]
        told["nodes"] = nodes_of(onnx.load(result))
        original, candidate = _session(model), _session(result)
        told["loads"] = True
        names = [each.name for each in original.get_outputs()]
        if names != [each.name for each in candidate.get_outputs()]:
            told["problem"] = "other outputs"
            return told
        worst = 0.0
        for path in sorted(Path(folder).glob("*.npz")):
            with np.load(path) as arrays:
                feed = dict(arrays)
            expected = original.run(names, feed)
            found = candidate.run(names, {each.name: feed[each.name] for each in candidate.get_inputs()})
            worst = max([worst, *(_error(a, b) for a, b in zip(expected, found, strict=True))])
        told["error"] = worst
    except Exception as error:  # noqa: BLE001 - what onnx and onnxruntime raise is of all kinds
        told["problem"] = " ".join(str(error).split())[:200]
    return told


def nodes_of(model: onnx.ModelProto) -> int:
    """All nodes but Constant."""
    return sum(node.op_type != "Constant" for body in (model.graph, *model.functions) for node in _nodes(body))


def _nodes(body: Any) -> Iterator[onnx.NodeProto]:
    for node in body.node:
        yield node
        for attribute in node.attribute:
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _nodes(graph)


def _session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _error(expected: Any, found: Any) -> float:
    if isinstance(expected, list):
        if len(expected) != len(found):
            return float("inf")
        return max((_error(a, b) for a, b in zip(expected, found, strict=True)), default=0.0)
    if isinstance(expected, dict):
        same = isinstance(found, dict) and list(expected) == list(found)
        return _error(np.array(list(expected.values())), np.array(list(found.values()))) if same else float("inf")
    expected, found = np.asarray(expected), np.asarray(found)
    if expected.shape != found.shape or expected.dtype != found.dtype:
        return float("inf")
    if expected.dtype.kind not in "fiu" or not expected.size:
        return 0.0 if np.array_equal(expected, found) else float("inf")
    a, b = expected.astype(np.float64), found.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=True) or not np.isfinite(b[finite]).all():
        return float("inf")
    scale = max(float(np.abs(a[finite]).max(initial=0.0)), _LEAST_SCALE)
    return float(np.abs(a[finite] - b[finite]).max(initial=0.0)) / scale


if __name__ == "__main__":
    if sys.argv[1] == "judge":
        print(json.dumps(judge(*sys.argv[2:])))
    else:
        simplify(*sys.argv[1:])
