#!/usr/bin/env python3
"""How long folding takes and how much memory, beside onnxsim and OnnxSlim, as whole processes in one run.

    python tests/bench/tool_speed.py [ROUNDS]

The peers are installed into an environment of their own. Tools take turns on each model, round by round,
so that a drift of the machine hits all of them; wall time and peak resident memory (of the largest single process) are
the operating system's own accounting.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import peers  # type: ignore[import-not-found]

_ONNXSIM = "import sys, onnx, onnxsim; m, ok = onnxsim.simplify(onnx.load(sys.argv[1])); onnx.save(m, sys.argv[2])"


def main(rounds: int) -> None:
    """Print one table per model."""
    theirs = peers.install("simplifiers")
    ours = str(Path(sys.executable).with_name("modelopt"))
    tools = {
        "modelopt fold --no-verify": [ours, "fold", "IN", "-o", "OUT", "-q", "--no-bench", "--no-verify"],
        "modelopt fold": [ours, "fold", "IN", "-o", "OUT", "-q", "--no-bench"],
        "onnxsim": [str(theirs / "python"), "-c", _ONNXSIM, "IN", "OUT"],
        "OnnxSlim": [str(theirs / "onnxslim"), "IN", "OUT"],
    }
    with tempfile.TemporaryDirectory() as scratch:
        for name in ("bert-base", "resnet50", "mobilenetv2"):
            model = Path(scratch) / f"{name}.onnx"
            subprocess.run([sys.executable, str(Path(__file__).with_name("shapes.py")), name, str(model)], check=True)
            print(f"\n{name}, {model.stat().st_size / 1e6:.0f} MB, {rounds} rounds\n")
            table(tools, model, Path(scratch) / "out.onnx", rounds)
            model.unlink()


def table(tools: dict[str, list[str]], model: Path, output: Path, rounds: int) -> None:
    """Run the tools in turn and print medians and ratios."""
    seconds: dict[str, list[float]] = {name: [] for name in tools}
    memory: dict[str, float] = {}
    for _ in range(rounds):
        for name, words in tools.items():
            command = [str(model) if word == "IN" else str(output) if word == "OUT" else word for word in words]
            os.sync()  # nobody waits for what the one before left to the disk
            took, peak = measured(command)
            output.unlink()
            seconds[name].append(took)
            memory[name] = max(peak, memory.get(name, 0))
    first = next(iter(tools))
    print("| tool | median, s | times the first | peak memory / model |")
    print("|---|---|---|---|")
    size = model.stat().st_size
    for name in tools:
        ratio = statistics.median(a / b for a, b in zip(seconds[name], seconds[first], strict=True))
        print(f"| {name} | {statistics.median(seconds[name]):.2f} | {ratio:.2f} | {memory[name] / size:.2f} |")


def measured(command: list[str]) -> tuple[float, float]:
    """Wall seconds, and peak resident bytes of the largest process, its own children included."""
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = child.stderr.read() if child.stderr else b""
    _, status, usage = os.wait4(child.pid, 0)
    took = time.monotonic() - started
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{command[0]} failed: {error.decode(errors='replace')[-500:]}")
    return took, usage.ru_maxrss * 1024


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
