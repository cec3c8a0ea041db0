"""Runs that are disturbed at random moments of a seed: killed, ended by a signal, beside another writer, or cut input.

`tests.campaigns.faults` runs them. A moment is a share of what an undisturbed run takes. What must hold does not depend
on it: the output is the old one or the new one, whole, with its data file, and the exit code is a documented one.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.campaigns.fault_scenarios import Bench, ended_badly

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OTHER = ("--external-data", "never", "--seed", "1")


def kills(bench: Bench, count: int, random_of: random.Random) -> Iterator[tuple[int, str]]:
    """Kill -9 at `count` moments, each over what the one before left; then one run removes what all of them left."""
    lasts = _seconds(bench)
    for number in range(count):
        bench.restore()
        process = bench.start(fresh=False)
        time.sleep(random_of.random() * lasts)
        process.kill()
        process.communicate()
        yield from ((number, wrong) for wrong in bench.torn())
    yield from ((count, wrong) for wrong in bench.after_another_run())


def signals(bench: Bench, count: int, random_of: random.Random) -> Iterator[tuple[int, str]]:
    """SIGINT, SIGTERM or SIGHUP at `count` moments, the first as soon as the command handles them."""
    lasts = _seconds(bench)
    for number in range(count):
        sent = _SIGNALS[number % len(_SIGNALS)]
        process = bench.start()
        _wait_until_handled(process)
        time.sleep(random_of.random() * lasts * min(number, 1))
        process.send_signal(sent)
        _, err = process.communicate()
        if process.returncode not in {0, 128 + sent, -sent}:  # -sent: while Python itself ends
            yield number, f"{sent.name} ended it with {process.returncode}: {err}"
        elif "Traceback" in err or "Exception ignored" in err:
            yield number, f"{sent.name}: {err}"
        if process.returncode > 0 and (more := bench.stray()):
            yield number, f"{sent.name} left {sorted(more)}"
        yield from ((number, f"{wrong} by {sent.name}") for wrong in bench.torn())


def two_writers(bench: Bench, count: int, random_of: random.Random) -> Iterator[tuple[int, str]]:
    """Two commands write the same output at once, one of them in one file: the result is one of the two, whole."""
    bench.run()
    other = bench.start(fresh=False, more=_OTHER)
    other.communicate()
    bench.accept_present()
    lasts = _seconds(bench)
    for number in range(count):
        bench.reset()
        first = bench.start(fresh=False)
        time.sleep(random_of.random() * lasts * 0.5)
        second = bench.start(fresh=False, more=_OTHER)
        for process in (first, second):
            _, err = process.communicate()
            bad = ended_badly(process.returncode, err)
            yield from [(number, bad)] if bad else []
        yield from ((number, wrong) for wrong in bench.torn())
        if more := {name for name in bench.stray() if name.startswith((".", "tmp/"))}:
            yield number, f"left {sorted(more)}"


def cut_inputs(bench: Bench, count: int, random_of: random.Random) -> Iterator[tuple[int, str]]:
    """The model, or its data file, is cut short, or replaced by another, at `count` moments."""
    lasts = _seconds(bench)
    for number in range(count):
        process = bench.start()
        path = random_of.choice(sorted(bench.work.glob("in.onnx*")))
        time.sleep(random_of.random() * lasts)
        how = _spoil(path, random_of)
        _, err = process.communicate()
        bad = ended_badly(process.returncode, err)
        if bad or err.count("modelopt: error: ") != (process.returncode != 0):
            yield number, f"{path.name} {how}: {bad or err}"
        if more := bench.stray() - {path.name}:
            yield number, f"{path.name} {how}: left {sorted(more)}"
        wrong = list(bench.torn(keeps_inputs=False))
        if wrong and bench.is_what_another_run_writes():  # all of it was replaced before it was read
            wrong = []
        yield from ((number, f"{path.name} {how}: {each}") for each in wrong)


def _spoil(path: Path, random_of: random.Random) -> str:
    if random_of.random() < 0.7:
        size = random_of.randrange(path.stat().st_size)
        os.truncate(path, size)
        return f"was cut to {size} bytes"
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(random_of.randbytes(path.stat().st_size))
    new.replace(path)
    return "was replaced"


def _seconds(bench: Bench) -> float:
    """How long an undisturbed run takes."""
    started = time.monotonic()
    bench.run()
    return time.monotonic() - started


def _wait_until_handled(process: subprocess.Popen[str]) -> None:
    """Wait until the command has a handler for SIGTERM, which Python itself has not."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        caught = next(line for line in status.read_text().splitlines() if line.startswith("SigCgt:"))
        if int(caught.split()[1], 16) & (1 << (signal.SIGTERM - 1)):
            return
        time.sleep(0.001)
