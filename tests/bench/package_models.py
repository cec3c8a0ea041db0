#!/usr/bin/env python3
"""Every command on models out of packages of the Python index, beside onnxsim, OnnxSlim and onnxruntime's quantizers.

    python tests/bench/package_models.py [--only NAME …] [--runs RUN …] [--seconds S] [--cache FOLDER] [--list]

A row of the table is one tool on one model: what it said of itself, whether onnxruntime loads its result, how far the
result is from the model on the same made-up feeds, its size beside the model's, the nodes left, how many times as fast
it is, and how long the tool took. All results of a model are timed together, as `modelopt bench` does it. Without data
of their own the models are calibrated on made-up feeds, so accuracy is no subject here. The last lines count what must
not be: a model that is refused here and not by a peer, a result that is broken or slower, and more nodes than a peer
leaves.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import onnx
import package_sources  # type: ignore[import-not-found]
import peers  # type: ignore[import-not-found]
from package_sources import SOURCES, Source
from quantizers import MODELOPT, PEER  # type: ignore[import-not-found]

from modelopt.measure import speed

JUDGE = str(Path(__file__).with_name("package_peer.py"))
OURS = {
    "inspect": ["inspect"],
    "fold": ["fold"],
    "fuse": ["fuse"],
    "fold, fuse": ["fuse"],
    "fold --eval": ["fold", "--eval", "FEEDS"],
    "fuse --eval": ["fuse", "--eval", "FEEDS"],
    "quantize": ["quantize"],
    "static": ["quantize", "--calib", "FEEDS"],
    "dynamic": ["quantize", "--mode", "dynamic"],
    "weights 8": ["quantize", "--mode", "weights", "--bits", "8"],
    "weights 4": ["quantize", "--mode", "weights", "--bits", "4"],
    "fp16": ["quantize", "--mode", "fp16"],
    "bf16": ["quantize", "--mode", "bf16"],
    "prune": ["prune", "--sparsity", "0.5"],
    "bench": ["bench"],
}
EXACT = ("fold", "fuse", "fold, fuse", "fold --eval", "fuse --eval")
SIMPLIFIERS = ("onnxsim", "onnxslim")
QUANTIZERS = {"static": "ort-static-u8s8", "dynamic": "ort-dynamic"}
FEEDS = 4
HEADER = ("model", "tool", "exit", "its verdict", "loads", "error", "size", "nodes", "times as fast", "seconds", "")
_WITH_DATA = " --eval"
_NAMED_SIZE = 8
_WORDS = ("red", "green", "blue", "a good red car")


@dataclass(frozen=True)
class Row:
    """What one tool made of one model.

    Attributes:
        model: The model's name.
        tool: The key in `OURS`, or the peer's name.
        code: The exit status; None where it was ended.
        said: What the tool says of its result.
        seconds: How long it took.
        judged: What package_peer.py says of the result; None where there is none.
        size: Of the result, as a part of the model's.
        ratio: How many times as fast it is.
        same: Whether the result is the model, byte by byte.
    """

    model: str
    tool: str
    code: int | None
    said: str
    seconds: float
    judged: dict[str, Any] | None = None
    size: float | None = None
    ratio: speed.Ratio | None = None
    same: bool = False

    @property
    def ours(self) -> bool:
        """Whether it is no peer's."""
        return self.tool in OURS

    @property
    def loads(self) -> bool:
        """Whether there is a result that onnxruntime loads, or nothing was to be written."""
        return self.code == 0 and (self.judged is None or bool(self.judged["loads"]))

    @property
    def equal(self) -> bool:
        """Whether the result computes what the model computes."""
        judged = self.judged
        return judged is not None and judged["error"] is not None and judged["error"] <= judged["tolerance"]

    def cells(self) -> list[str]:
        """For the table."""
        judged = self.judged or {"loads": None, "error": None, "nodes": None, "problem": ""}
        error, ratio = judged["error"], self.ratio
        loads = "" if judged["loads"] is None else "yes" if judged["loads"] else "**no**"
        fast = "" if ratio is None else f"{ratio.point:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"
        said, failed = (self.said, "") if self.code == 0 else ("", self.said)
        cells = [self.model, self.tool, "ended" if self.code is None else str(self.code), said, loads]
        cells += ["" if error is None else f"{error:.1e}", "" if self.size is None else f"{self.size:.0%}"]
        cells += [str(judged["nodes"] or ""), fast, f"{self.seconds:.0f}"]
        remark = "; ".join(each for each in (failed, judged["problem"]) if each)
        return [cell.replace("|", "/") for cell in (*cells, remark or ("the input itself" if self.same else ""))]


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="these models")
    parser.add_argument("--runs", nargs="*", default=[], metavar="RUN", help=f"of {', '.join(OURS)} and the peers")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each comparison of speed; 0 leaves it out")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which a tool is ended")
    parser.add_argument("--cache", type=Path, default=peers.ROOT / "build" / "package-models", help="where models go")
    parser.add_argument("--keep", type=Path, help="keep results here, in a folder for each model")
    parser.add_argument("--list", action="store_true", help="say which models there are, and stop")
    given = parser.parse_args()
    chosen = [source for source in SOURCES if not given.only or source.name in given.only]
    if given.list:
        for source in chosen:
            print(f"{source.name}: {source.kind}; {source.package or 'made here'}")
        return 0
    package_sources.fetch(chosen, given.cache)
    print("|", " | ".join(HEADER), "|")
    print("|", " | ".join("---" for _ in HEADER), "|")
    rows: list[Row] = []
    for source in chosen:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) if given.keep is None else given.keep / source.name
            folder.mkdir(parents=True, exist_ok=True)
            job = Job(source, given.cache / source.name / "model.onnx", folder, given.seconds, given.limit)
            found = job.rows(given.runs or [*OURS, *SIMPLIFIERS, *QUANTIZERS.values()])
        for row in found:
            print("|", " | ".join(row.cells()), "|", flush=True)
        rows += found
    print("\n" + "\n".join(summary(rows)))
    return 0


@dataclass(frozen=True)
class Job:
    """All tools on one model.

    Attributes:
        source: The model.
        model: Its file.
        folder: For results and feeds.
        budget: Seconds for each comparison of speed; none is made where it is 0.
        limit: Seconds after which a tool is ended.
    """

    source: Source
    model: Path
    folder: Path
    budget: float
    limit: float

    def rows(self, runs: Sequence[str]) -> list[Row]:
        """Run the tools, judge what they made, and time it."""
        feeds = self.folder / "feeds"
        feeds.mkdir(exist_ok=True)
        for number in range(FEEDS):
            np.savez(feeds / f"{number:04d}.npz", **made_up(self.source, self.model, number))  # type: ignore[arg-type]
        rows: list[Row] = []
        for tool in runs:
            plain = tool.removesuffix(_WITH_DATA)
            if plain != tool and all(row.code == 0 for row in rows if row.tool == plain):
                continue  # data are for where the tool's own feeds do not do
            if tool == "fold, fuse" and not self.result("fold").exists():
                continue
            rows.append(self._judged(self._run(tool, feeds), feeds))
        return self._timed(rows) if self.budget else rows

    def result(self, tool: str) -> Path:
        """The file that a tool writes."""
        return self.folder / f"{tool.replace(', ', '-').replace(' ', '-')}.onnx"

    def _run(self, tool: str, feeds: Path) -> Row:
        out = self.result(tool)
        if tool in OURS:
            command = self._ours(tool, out, feeds)
        elif tool in SIMPLIFIERS:
            command = [str(peers.install("simplifiers") / "python"), JUDGE, tool, str(self.model), str(out)]
        else:
            command = [str(peers.install("quantizers") / "python"), PEER, tool, str(self.model), str(out), str(feeds)]
        out.unlink(missing_ok=True)
        started = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=self.limit)
        except subprocess.TimeoutExpired:
            return Row(self.source.name, tool, None, "", time.monotonic() - started)
        seconds = time.monotonic() - started
        said = verdict_of(done.stderr) if done.returncode == 0 else problem_of(done.stderr, ours=tool in OURS)
        return Row(self.source.name, tool, done.returncode, said if tool in OURS or done.returncode else "", seconds)

    def _ours(self, tool: str, out: Path, feeds: Path) -> list[str]:
        data = "random" if self.source.any_feed else str(feeds)
        words = [MODELOPT, *(data if word == "FEEDS" else word for word in OURS[tool])]
        words.append(str(self.result("fold") if tool == "fold, fuse" else self.model))
        if tool == "inspect":
            return words
        if tool == "bench":
            return [*words, "--budget", f"{self.budget or 1:g}"]
        timing = ["--budget", f"{self.budget:g}"] if self.budget else ["--no-bench"]
        return [*words, "-o", str(out), *timing]

    def _judged(self, row: Row, feeds: Path) -> Row:
        out = self.result(row.tool)
        if row.code != 0 or not out.exists():
            return row
        python = str(peers.install("simplifiers") / "python")
        command = [python, JUDGE, "judge", str(self.model), str(out), str(feeds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        problem = f"exit {done.returncode} when it is run"
        crashed: dict[str, Any] = {
            "nodes": None,
            "loads": False,
            "error": None,
            "tolerance": 0.0,
            "problem": problem,
        }
        judged = json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else crashed
        size = out.stat().st_size / self.model.stat().st_size
        return replace(row, judged=judged, size=size, same=out.read_bytes() == self.model.read_bytes())

    def _timed(self, rows: Sequence[Row]) -> list[Row]:
        """The rows with the ratios of those results that run and are not the model."""
        runs = [row for row in rows if row.judged and row.judged["error"] is not None and not row.same]
        if not runs:
            return list(rows)
        words = [MODELOPT, "bench", str(self.model), *(str(self.result(row.tool)) for row in runs), "--json"]
        words += ["--budget", f"{self.budget * len(runs):g}"]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{self.source.name} is not timed: {problem_of(done.stderr, ours=True)}", file=sys.stderr)
            return list(rows)
        first, *others = json.loads(done.stdout)["results"]
        ratios = {
            row.tool: speed.paired_ratio(first["samples_ns"], other["samples_ns"])
            for row, other in zip(runs, others, strict=True)
        }
        return [replace(row, ratio=ratios.get(row.tool)) for row in rows]


def made_up(source: Source, model: Path, seed: int) -> dict[str, np.ndarray]:
    """A feed for a model, by its signature and what its source says."""
    rng = np.random.default_rng(seed)
    graph = onnx.load(model, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    feed = {}
    for value in graph.input:
        if value.name in stored:
            continue
        tensor = value.type.tensor_type
        sizes = [size.dim_value if size.dim_value > 0 else _free(axis) for axis, size in enumerate(tensor.shape.dim)]
        shape = source.shapes.get(value.name, tuple(sizes))
        if tensor.elem_type == onnx.TensorProto.STRING:
            feed[value.name] = rng.choice(np.array(_WORDS), shape)
            continue
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if value.name in source.values:
            feed[value.name] = np.full(shape, source.values[value.name], dtype)
        elif dtype.kind in "iub":
            feed[value.name] = rng.integers(0, source.below, shape).astype(dtype)
        else:
            feed[value.name] = rng.standard_normal(shape).astype(dtype)
    return feed


def _free(axis: int) -> int:
    return 1 if axis == 0 else _NAMED_SIZE


def verdict_of(text: str) -> str:
    """What the tool says of its result, and whether it says that it was not verified."""
    lines = text.strip().splitlines() or [""]
    results = [line for line in lines if not line.startswith("Verified")]
    return " ".join([*results[:1], *(line for line in lines if line.startswith("NOT VERIFIED"))])


def problem_of(text: str, *, ours: bool) -> str:
    """The error and its note; of a peer's traceback the last line."""
    lines = text.strip().splitlines() or [""]
    told = [line for line in lines if line.startswith(("modelopt: error", "note:"))] if ours else lines[-1:]
    return " ".join("; ".join(told[:2] or lines[-1:]).split())[:300]


def summary(rows: Sequence[Row]) -> list[str]:
    """What the table must show, counted; each line names the models that count against us."""
    by_model: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_model.setdefault(row.model, {})[row.tool] = row
    refused = [f"{name} {tool}" for name, found in by_model.items() for tool in found if _only_we_refuse(found, tool)]
    alone = [
        f"{row.model} {row.tool}"
        for row in rows
        if row.ours and row.code != 0 and row.tool != "quantize" and f"{row.model} {row.tool}" not in refused
    ]
    broken = [
        f"{row.model} {row.tool}"
        for row in rows
        if row.ours and row.judged and (row.judged["error"] is None or (row.tool in EXACT and not row.equal))
    ]
    slower = [f"{row.model} {row.tool}" for row in rows if row.ours and row.ratio and row.ratio.high < 1]
    left = {name: pair for name, found in by_model.items() if (pair := _left(found)) is not None}
    more = [f"{name} {ours} against {theirs}" for name, (ours, theirs) in left.items() if ours > theirs]
    share = f"{1 - len(more) / len(left):.0%} of {len(left)}" if left else "none"
    return [
        f"Models: {len(by_model)}; runs of ours: {sum(row.ours for row in rows)}",
        _line("Refused here, handled by a peer", refused),
        _line("Refused here, where no peer has such a command or handles the model", alone),
        _line("Written here, and broken", broken),
        _line("Slower than the input", slower),
        f"Nodes left are no more than the better simplifier leaves: {share}{_list(more)}",
    ]


def _only_we_refuse(found: dict[str, Row], tool: str) -> bool:
    """Whether we refuse what a peer does: a peer's result must load, and a simplifier's be equal."""
    row = found[tool]
    if not row.ours or row.code == 0 or tool == "quantize":
        return False
    if tool in QUANTIZERS:
        peer = found.get(QUANTIZERS[tool])
        return peer is not None and peer.loads
    same = any(found[name].loads and found[name].equal for name in SIMPLIFIERS if name in found)
    return same and tool in (*EXACT, "inspect", "bench")


def _left(found: dict[str, Row]) -> tuple[int, int] | None:
    """The fewest nodes that our exact commands and an equal result of a simplifier leave; None where one is missing."""
    ours, theirs = (
        [
            int(row.judged["nodes"])
            for name in names
            if (row := found.get(name)) and row.judged and row.judged["nodes"] is not None and row.equal
        ]
        for names in (EXACT, SIMPLIFIERS)
    )
    return (min(ours), min(theirs)) if ours and theirs else None


def _line(told: str, names: Sequence[str]) -> str:
    return f"{told}: {len(names)}{_list(names)}"


def _list(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


if __name__ == "__main__":
    sys.exit(main())
