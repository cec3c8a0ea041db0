"""onnxruntime's profile and optimized graph as data. Used in the child: a hostile model may have made them."""

from __future__ import annotations

import bisect
import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from modelopt.runtime.session import NodeRun

_OPTIMIZED = "optimized.onnx"


def keep_optimized(options: Any, directory: Path) -> None:
    """Have the session write its graph; the weights apart, so that reading it stays cheap."""
    options.optimized_model_filepath = str(directory / _OPTIMIZED)
    options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.bin")
    options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "64")


def optimized_outputs(directory: Path) -> dict[tuple[str, str], list[tuple[str, ...]]]:
    """What the nodes of the optimized graph write, by name and operator: fused nodes may share a name."""
    found: dict[tuple[str, str], list[tuple[str, ...]]] = {}
    if not (directory / _OPTIMIZED).exists():
        return found
    import onnx

    for node in onnx.load(directory / _OPTIMIZED, load_external_data=False).graph.node:
        found.setdefault((node.name, node.op_type), []).append(tuple(node.output))
    return found


def read_events(text: str, only: str | None = None) -> list[dict[str, Any]]:
    """The events of a profile.

    Args:
        text: What onnxruntime wrote: a JSON list with an event on each line.
        only: Leave out the nodes in whose line this does not occur. A loop makes a million events, and reading them
            all takes half a minute.
    """
    if only is not None:
        lines = [line.strip().rstrip(",") for line in text.split("\n") if only in line or '"model_run"' in line]
        with contextlib.suppress(ValueError):  # a name that holds a line break
            found: list[dict[str, Any]] = json.loads(f"[{','.join(lines)}]", strict=False)
            return found
    events: list[dict[str, Any]] = json.loads(text, strict=False)  # names may hold control characters
    return events


def node_runs(
    events: list[dict[str, Any]], outputs: dict[tuple[str, str], list[tuple[str, ...]]] | None = None
) -> list[NodeRun]:
    """The kernels of a profile, in order of first execution, each with its time in every run.

    Args:
        events: The profile.
        outputs: What the nodes of the optimized graph write; nodes that share a name run in its order.
    """
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    kernels = [event for event in events if event.get("cat") == "Node" and "provider" in event.get("args", {})]
    kernels = [event for event in kernels if event["name"].endswith("_kernel_time")]
    spent: dict[tuple[str, str, str, int], list[int]] = {}
    counts: dict[tuple[str, str, str, int], list[int]] = {}
    reads: dict[tuple[str, str, str, int], tuple[str, ...]] = {}
    seen: Counter[tuple[str, str, int]] = Counter()
    for event in sorted(kernels, key=lambda event: event["ts"]):
        args, run = event["args"], max(bisect.bisect_right(starts, event["ts"]) - 1, 0)
        name, op = event["name"].removesuffix("_kernel_time"), args["op_name"]
        namesakes = max(len((outputs or {}).get((name, op), ())), 1)
        key = (name, op, args["provider"], seen[name, op, run] % namesakes)
        seen[name, op, run] += 1
        spent.setdefault(key, [0] * max(len(starts), 1))[run] += int(event["dur"]) * 1000
        counts.setdefault(key, [0] * max(len(starts), 1))[run] += 1
        reads[key] = tuple(next(iter(each), "") for each in args.get("input_type_shape", ()))
    return [
        NodeRun(name, op, provider, sum(ns), tuple(ns), reads[key], writes, tuple(counts[key]))
        for key, ns in spent.items()
        for name, op, provider, number in [key]
        for writes in ((outputs or {}).get((name, op)) or [()] * (number + 1))[number : number + 1]
    ]
