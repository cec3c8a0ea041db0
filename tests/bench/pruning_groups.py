#!/usr/bin/env python3
"""The groups of channels that we find in six torch models, beside those of Torch-Pruning and of onnxsim.

    python -m tests.bench.pruning_groups [FOLDER]

The peers are installed into an environment of their own, which exports the models to FOLDER (default
build/pruning-groups); models that lie there are not made again. A group is named by the layers that make its channels.
Printed for each model: how many groups and channels each tool finds, the groups that only one has, and why. The layer
that makes the model's output is left out: Torch-Pruning must be told of it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import onnx_ir as ir

import modelopt
from modelopt import graph
from modelopt.io import serialize
from modelopt.pruning.atoms import FIXED
from modelopt.pruning.channel_groups import Channels
from modelopt.pruning.dependencies import Dependencies
from modelopt.runtime.worker_runner import WorkerRunner
from tests.bench import peers
from tests.campaigns.pruned import found_in

Layers = frozenset[str]


def layer_of(node: ir.Node) -> str:
    """The torch module of a node: ``/layer1/layer1.0/conv1/Conv`` is of ``layer1.0.conv1``."""
    parts: list[str] = []
    for part in graph.name_of(node).strip("/").split("/")[:-1]:
        if parts and part.startswith(f"{parts[-1]}."):
            parts.pop()
        parts.append(part)
    return ".".join(parts)


def ours(channels: Channels) -> dict[Layers, int]:
    """By the layers that make them, how many channels may go."""
    found: Counter[Layers] = Counter()
    for group in channels.groups:
        found[frozenset(layer_of(each.node) for each in group.producers)] += group.width
    return dict(found)


def reasons(found: Dependencies, layers: Layers) -> str:
    """Why channels that these layers make stay."""
    why: Counter[str] = Counter()
    for each in found.producers:
        if layer_of(each.node) in layers:
            labels = found.labels.get(each.weight, {}).get(each.weight_axis)
            for atom in () if labels is None else found.atoms.roots(labels).tolist():
                why[("it is fixed" if atom == FIXED else found.atoms.why_kept(atom)) or "it may go"] += 1
    return "; ".join(reason for reason, _ in why.most_common()) or "no weights of them are read"


def compare(name: str, model: ir.Model, told: Mapping[str, Any], runner: WorkerRunner) -> None:
    """Print what was found in one model."""
    found, channels = found_in(model, runner)
    mine = ours(channels)
    heads = {frozenset(layer_of(each.node) for each in group.producers) for group in channels.groups if group.is_heads}
    theirs = {frozenset(each["layers"]): each for each in told["torch_pruning"] if each["layers"]}
    broken = [each for each in theirs.values() if each["problem"]]
    widths = sum(each["width"] for each in theirs.values())
    narrowed = told["onnxsim"].values()
    print(f"\n{name}")
    print(f"  modelopt       {len(mine):3} groups, {sum(mine.values()):6,} channels")
    print(f"  Torch-Pruning  {len(theirs):3} groups, {widths:6,} channels; {len(broken)} break the model")
    channels_of_layers = sum(before for before, _ in narrowed)
    problem = told["onnxsim_problem"] or "each layer by itself"
    print(f"  onnxsim        {len(narrowed):3} layers, {channels_of_layers:6,} channels; {problem}")
    other = 0
    for layers in sorted({*mine} | {*theirs}, key=sorted):
        shown = ", ".join(sorted(layers)[:4]) + (f" and {len(layers) - 4} more" if len(layers) > 4 else "")
        if layers not in mine:
            print(f"  only Torch-Pruning: {shown} ({theirs[layers]['width']}): {reasons(found, layers)}")
        elif layers not in theirs:
            print(f"  only modelopt: {shown} ({mine[layers]}): {overlap(layers, theirs)}")
        elif mine[layers] != theirs[layers]["width"] or theirs[layers]["problem"]:
            problem = theirs[layers]["problem"] or ("it cuts heads" if layers in heads else "it has others")
            print(f"  other channels: {shown}: {mine[layers]}; Torch-Pruning {theirs[layers]['width']}: {problem}")
        else:
            other += 1
    print(f"  {other} groups are the same")


def overlap(layers: Layers, theirs: Mapping[Layers, Mapping[str, Any]]) -> str:
    """What the other tool has of these layers."""
    parts = [each for each in theirs if each & layers]
    return f"it has {len(parts)} groups of parts of these layers" if parts else "it has no group of these layers"


def main() -> int:
    """Run from the command line."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else peers.ROOT / "build" / "pruning-groups"
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("*.json")):
        script = Path(__file__).with_name("pruning_groups_peer.py")
        subprocess.run([peers.install("pruners") / "python", "-W", "ignore", script, folder], check=True)
    with closing(WorkerRunner()) as runner:
        for path in sorted(folder.glob("*.json")):
            folded = path.with_suffix(".folded.onnx")
            modelopt.fold(path.with_suffix(".onnx"), output=folded, bench=False, verify=False, force=True)
            model = serialize.from_bytes(folded.read_bytes())
            compare(path.stem, model, json.loads(path.read_text(encoding="utf-8")), runner)
    return 0


if __name__ == "__main__":
    sys.exit(main())
