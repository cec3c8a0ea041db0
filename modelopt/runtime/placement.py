"""What the runtime executed: which provider ran which nodes, and which of them computed in integers.

onnxruntime says nothing when it runs a node on the CPU provider instead, or when it runs a float kernel between
DequantizeLinear and QuantizeLinear instead of an integer kernel.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir

from modelopt.core.errors import EnvironmentLacks
from modelopt.runtime.coverage import Coverage, NodeTimes, coverage_of
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import NodeRun, SessionSpec, full_provider_name
from modelopt.runtime.worker import Worker


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """What ran where in one profiled run.

    Attributes:
        requested: The full name of the provider that was asked for.
        providers: The providers that the session has, in order of preference.
        nodes: Kernels run, by provider; nodes of branches that were not taken are not there.
        share_of_time: Each provider's share of the time spent in kernels, 0 to 1.
    """

    requested: str
    providers: tuple[str, ...]
    nodes: dict[str, int]
    share_of_time: dict[str, float]

    def warning(self) -> str | None:
        """One line when some nodes ran elsewhere, else None."""
        elsewhere = {name: count for name, count in self.nodes.items() if name != self.requested}
        if not elsewhere:
            return None
        total = sum(self.nodes.values())
        parts = [f"{count} of {total} nodes ran on {name}" for name, count in sorted(elsewhere.items())]
        share = sum(self.share_of_time[name] for name in elsewhere)
        return f"{', '.join(parts)} ({share:.0%} of the time in kernels)"


def find_placement(
    path: Path, spec: SessionSpec, feeds: Mapping[str, np.ndarray], limits: Limits | None = None
) -> Placement:
    """Run the model once under the profiler, in a child of its own, and say what ran where.

    Args:
        path: The model file, already through io's gate.
        spec: How to open the session; `profile` is set here.
        feeds: One set of inputs.
        limits: What the child may use.

    Raises:
        EnvironmentLacks: The provider is not there, or it ran no node: a latency would be reported for
            the wrong provider.
        InputError: No provider has that name.
        Refused: onnxruntime does not load or run the model.
        WorkerDied: The child crashed or exceeded its limits.
    """
    with Worker(limits) as worker:
        session = worker.open(path, msgspec.structs.replace(spec, profile=True))
        session.execute(dict(feeds))
        placement = placement_of(full_provider_name(spec.provider), session.info.providers, session.profile())
    if placement.nodes and placement.requested not in placement.nodes:
        raise EnvironmentLacks(
            f"{placement.requested} ran no node of {path.name}",
            note=placement.warning(),
            hint="choose the provider that did with --provider",
        )
    return placement


def placement_of(requested: str, providers: tuple[str, ...], runs: list[NodeRun]) -> Placement:
    """Count a profile's kernels by provider."""
    nodes = Counter(run.provider for run in runs)
    total_ns = sum(run.duration_ns for run in runs) or 1
    spent_ns: Counter[str] = Counter()
    for run in runs:
        spent_ns[run.provider] += run.duration_ns
    return Placement(
        requested=requested,
        providers=providers,
        nodes=dict(sorted(nodes.items())),
        share_of_time={name: spent_ns[name] / total_ns for name in sorted(nodes)},
    )


def layer_times(
    worker: Worker,
    path: Path,
    model: ir.Model,
    feeds: Mapping[str, np.ndarray],
    *,
    spec: SessionSpec | None = None,
    runs: int = 20,
) -> NodeTimes:
    """Profile the model: how long each of its nodes takes, beside the whole run.

    Args:
        worker: Runs it.
        path: The model file, already through io's gate.
        model: What `path` holds.
        feeds: One set of inputs.
        spec: As for `coverage`.
        runs: Profiled runs; two more come first and are not counted.

    Raises:
        As `coverage`.
    """
    session = worker.open(path, msgspec.structs.replace(spec or SessionSpec(), profile=True, trace=True))
    worker.hold(0, dict(session.fitting(feeds)))
    whole = session.time(runs + 2, slot=0)
    found = session.profile()
    session.close()
    costs = coverage_of(model, [msgspec.structs.replace(each, runs_ns=each.runs_ns[2:]) for each in found]).nodes
    return NodeTimes(layers=tuple(cost for cost in costs if cost.runs_ns), run_ns=tuple(whole[2:]))


def coverage(
    worker: Worker,
    path: Path,
    model: ir.Model,
    feeds: Mapping[str, np.ndarray],
    *,
    spec: SessionSpec | None = None,
    runs: int = 5,
) -> Coverage:
    """Profile the model and say for each of its nodes whether it computes in integers, and how long it takes.

    Args:
        worker: Runs it.
        path: The model file, already through io's gate.
        model: What `path` holds.
        feeds: One set of inputs.
        spec: How to open the session; `profile` and `trace` are set here. None for the CPU provider.
        runs: Profiled runs; one more comes first, in which onnxruntime packs weights, and is not counted.

    Raises:
        EnvironmentLacks: The provider is not there.
        InputError: No provider has that name.
        Refused: onnxruntime does not load or run the model.
        WorkerDied: The child crashed or exceeded its limits.
    """
    traced = msgspec.structs.replace(spec or SessionSpec(), profile=True, trace=True)
    session = worker.open(path, traced)
    for _ in range(runs + 1):
        session.execute(dict(feeds))
    found = session.profile()
    session.close()
    return coverage_of(model, [msgspec.structs.replace(each, runs_ns=each.runs_ns[1:]) for each in found])
