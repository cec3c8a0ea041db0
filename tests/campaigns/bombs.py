"""Small models that ask for much memory or time, through every command: what each costs beyond an ordinary tiny model.

    python -m tests.campaigns.bombs [--only WORD] [--commands inspect,fold] [--peers] [--out build/bombs.md]

Each is handled, or refused in one line: less than `MAX_SECONDS` and `MAX_BYTES` more than the tiny model takes with the
same command, the command's child processes included. The table says which were not. With --peers it shows what
onnx.load/save, onnxsim and OnnxSlim take on the same models too, and the last lines name the worst case of each.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.campaigns import bomb_models
from tests.command_line import COMMAND, environment

MAX_SECONDS = 3.0
MAX_BYTES = 400 * 10**6

COMMANDS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "{model}"),
    "fold": ("fold", "{model}", "-o", "{out}"),
    "fuse": ("fuse", "{model}", "-o", "{out}"),
    "prune": ("prune", "{model}", "--sparsity", "0.5", "-o", "{out}"),
    "dynamic": ("quantize", "{model}", "--mode", "dynamic", "-o", "{out}"),
    "weights": ("quantize", "{model}", "--mode", "weights", "-o", "{out}"),
    "bench": ("bench", "{model}"),
}
"""By name the command lines."""

_TIMED = ("--budget", "0.2", "--warmup", "0", "--rounds", "2")
_KNOWN_CODES = frozenset({0, 1, 2, 3, 4})
_POLL_SECONDS = 0.01
_LIMIT_SECONDS = 60.0
_OWN_BYTES = 10  # times a model's own bytes are added to the limit of memory: they are data, not what it asks for


@dataclass(frozen=True)
class Cost:
    """What a command took.

    Attributes:
        code: The exit code; None where it did not end in time.
        seconds: Of processor time, its children included: other work on the machine does not count.
        peak_bytes: Private memory of all its processes together, at its highest.
        err: Standard error.
    """

    code: int | None
    seconds: float
    peak_bytes: int
    err: str


def cost(
    command: Sequence[str], folder: Path, limit_seconds: float = _LIMIT_SECONDS, limit_bytes: float = math.inf
) -> Cost:
    """Run a command in `folder` and measure it with its children; above a limit it is ended."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(folder, TMPDIR=str(folder)),
            start_new_session=True,
        )
        peak, ended, usage = 0, 0, None
        while not ended and time.monotonic() - started < limit_seconds and peak <= limit_bytes:
            peak = max(peak, _private_bytes(process.pid))
            time.sleep(_POLL_SECONDS)
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not ended:
            os.kill(process.pid, signal.SIGKILL)  # its children end with it
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        text = err.read().decode(errors="replace")
        seconds = 0.0 if usage is None else usage.ru_utime + usage.ru_stime
        return Cost(process.returncode if ended else None, seconds, peak, text)


def _private_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                memory = each.memory_info()
                total += memory.rss - memory.shared
    return total


def problem(found: Cost, ordinary: Cost, size_bytes: int = 0) -> str:
    """What is wrong with the cost of a bomb; empty where nothing is.

    Args:
        found: Of the bomb.
        ordinary: Of the tiny model with the same command.
        size_bytes: Of the bomb's file.
    """
    wrong = []
    if found.code is None:
        wrong.append("does not end")
    elif found.code not in _KNOWN_CODES:
        wrong.append(f"exit code {found.code}")
    if "Traceback" in found.err:
        wrong.append("traceback")
    if found.code and sum(line.startswith("modelopt: error: ") for line in found.err.splitlines()) != 1:
        wrong.append("no error line")
    if found.seconds - ordinary.seconds > MAX_SECONDS:
        wrong.append("time")
    if found.peak_bytes - ordinary.peak_bytes > MAX_BYTES + _OWN_BYTES * size_bytes:
        wrong.append("memory")
    return ", ".join(wrong)


def command_line(name: str, folder: Path) -> list[str]:
    """The command called `name` for the model in `folder`."""
    parts = COMMANDS[name] + (() if name == "inspect" else _TIMED)
    places = {"{model}": "model.onnx", "{out}": "out.onnx"}
    return [str(COMMAND), *(places.get(part, part) for part in parts)]


def measure(build: bomb_models.Build, names: Sequence[str], folder: Path) -> Iterator[tuple[str, Cost, int]]:
    """Put one model through commands: (command, cost, bytes of the model)."""
    content = build()
    for name in names:
        place = folder / name
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(content)
        yield name, cost(command_line(name, place), place), len(content)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; 1 where a bomb went off."""
    from tests.campaigns import bomb_peers  # it imports this module

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models whose names hold this word")
    parser.add_argument("--commands", default=",".join(COMMANDS), help="of these: %(default)s")
    parser.add_argument("--peers", action="store_true", help="other tools on the same models, too")
    parser.add_argument("--out", type=Path, help="where the table goes; standard output without")
    asked = parser.parse_args(arguments)
    names = [name for name in asked.commands.split(",") if name]
    lines = [
        "| bomb | bytes | command | exit | seconds | peak MB | wrong | error |",
        "|---|--:|---|--:|--:|--:|---|---|",
    ]
    wrong = calls = 0
    worst: dict[str, dict[str, tuple[float, str]]] = {"seconds": {}, "MB": {}}

    def add(bomb: str, size: int, name: str, found: Cost, fault: str) -> None:
        """One line of the table."""
        usual = ordinary[name]
        extra = {"seconds": found.seconds - usual.seconds, "MB": (found.peak_bytes - usual.peak_bytes) / 1e6}
        for what, figure in extra.items():
            worst[what][name] = max(worst[what].get(name, (0.0, "none")), (figure, bomb))
        error = next((line for line in found.err.splitlines() if line.startswith("modelopt: error")), "")
        cells = bomb, size, name, found.code, f"{extra['seconds']:.1f}", f"{extra['MB']:.0f}", fault, error[16:90]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
        if asked.out is None:
            print(lines[-1], flush=True)

    with tempfile.TemporaryDirectory(prefix="bombs-") as scratch:
        ordinary = {name: found for name, found, _ in measure(bomb_models.tiny, names, Path(scratch) / "tiny")}
        others = bomb_peers.command_lines() if asked.peers else {}
        usual_of_others = bomb_peers.measure(bomb_models.tiny, others, Path(scratch) / "tiny")
        ordinary |= {name: found for name, found, _ in usual_of_others}
        for bomb, build in bomb_models.MODELS.items():
            if asked.only not in bomb:
                continue
            for name, found, size in measure(build, names, Path(scratch) / bomb):
                fault = problem(found, ordinary[name], size)
                wrong += bool(fault)
                calls += 1
                add(bomb, size, name, found, fault)
            for name, found, size in bomb_peers.measure(build, others, Path(scratch) / bomb):
                add(bomb, size, name, found, bomb_peers.ended(found))
    for name in ordinary:
        (seconds, slow), (peak, large) = (worst[what].get(name, (0.0, "none")) for what in ("seconds", "MB"))
        lines.append(f"{name}: at worst {seconds:.1f} s ({slow}) and {peak:.0f} MB ({large})")
        print(lines[-1])
    lines.append(f"\n{wrong} of {calls} went off; seconds and MB are beyond those of an ordinary tiny model.")
    print(lines[-1])
    if asked.out is not None:
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
