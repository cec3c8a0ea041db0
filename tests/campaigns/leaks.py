"""What a long-lived process keeps of each call of the Python API: memory, files, threads, child processes.

    python -m tests.campaigns.leaks [--benches 50] [--quantizes 20]

One process calls `modelopt.bench` and `modelopt.quantize` again and again. After the first calls, which import modules
and fill caches of bounded size, nothing may grow: not the number of open files, of threads, of child processes, of
mapped files, of entries in the folder for temporary files, nor the memory by more than some megabytes.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

import modelopt
from tests.command_line import calibration, evaluation, sample

SETTLED = 5
"""So many calls come first: what they keep, later ones use again."""
MOST_GROWTH_BYTES = 8 * 2**20


@dataclass(frozen=True)
class State:
    """What this process holds.

    Attributes:
        memory_bytes: Private resident memory.
        files: Open file descriptors.
        maps: Files that are mapped into memory.
        threads: Threads.
        children: Child processes, those that ended and were not waited for included.
        temporary: Files and folders in the folder for temporary files.
    """

    memory_bytes: int
    files: int
    maps: int
    threads: int
    children: int
    temporary: int


def state() -> State:
    """What this process holds now, after garbage was collected."""
    gc.collect()
    process = psutil.Process()
    memory = process.memory_info()
    return State(
        memory_bytes=memory.rss - memory.shared,
        files=process.num_fds(),
        maps=len({mapped.path for mapped in process.memory_maps() if mapped.path.startswith(("/", "[anon"))}),
        threads=process.num_threads(),
        children=len(process.children(recursive=True)),
        temporary=sum(1 for _ in Path(tempfile.gettempdir()).rglob("*")),
    )


def grown(states: Sequence[State], settled: int, most_bytes: int) -> list[str]:
    """What grew from the call `settled` to the last one, each as a clause."""
    first, last = states[settled - 1], states[-1]
    found = []
    for field in fields(State):
        before, after = getattr(first, field.name), getattr(last, field.name)
        if after - before > (most_bytes if field.name == "memory_bytes" else 0):
            found.append(f"{field.name}: {before} after {settled} calls, {after} after {len(states)}")
    return found


def repeated(call: Callable[[], object], times: int) -> Iterator[State]:
    """Call `times` times, and say after each what this process holds."""
    for _ in range(times):
        call()
        yield state()


def bench() -> None:
    """Time two models for as short as can be."""
    model = sample("digits_mlp")
    modelopt.bench([model, model], budget=0.2, warmup=0.0, rounds=2, processes=1)


def refused_bench() -> None:
    """A bench that ends in an error: what was opened is closed as well."""
    try:
        modelopt.bench([sample("digits_mlp"), sample("digits_rnn")], budget=0.2, warmup=0.0)
    except modelopt.InputError:
        return
    raise AssertionError("two models with different inputs were measured")


def quantize() -> None:
    """Quantize with data, without timing."""
    modelopt.quantize(
        sample("digits_cnn"),
        calib=calibration("digits_cnn"),
        eval=evaluation("digits_cnn"),
        eval_limit=50,
        search=False,
        bench=False,
    )


CALLS: dict[str, Callable[[], None]] = {"bench": bench, "bench, refused": refused_bench, "quantize": quantize}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benches", type=int, default=50)
    parser.add_argument("--quantizes", type=int, default=20)
    given = parser.parse_args()
    times = {"bench": given.benches, "bench, refused": given.benches, "quantize": given.quantizes}
    if min(times.values()) <= SETTLED:
        parser.error(f"more than {SETTLED} calls of each are needed")
    failed = False
    print(
        "| call | times | memory | files | maps | threads | children | temporary |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        for name, call in CALLS.items():
            states = list(repeated(call, times[name]))
            first, last = states[SETTLED - 1], states[-1]
            memory = f"{first.memory_bytes / 2**20:.1f} → {last.memory_bytes / 2**20:.1f} MiB"
            counts = [f"{getattr(first, f.name)} → {getattr(last, f.name)}" for f in fields(State)[1:]]
            print(f"| {name} | {times[name]} | {memory} | {' | '.join(counts)} |", flush=True)
            for wrong in grown(states, SETTLED, MOST_GROWTH_BYTES):
                failed = True
                print(f"{name}: {wrong}", file=sys.stderr)
        tempfile.tempdir = None
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
