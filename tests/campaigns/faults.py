"""System calls that fail, and processes that end, at every point where the commands write.

    python -m tests.campaigns.faults [--only NAME …] [--step N] [--kills N] [--signals N] [--writers N] [--cuts N]

Each scenario overwrites an output that is there. Its system calls that write are counted once. Then it runs again for
each of them: the call answers ENOSPC (and so do all later ones, as on a full disk), EIO, EMFILE or EACCES, or the
process is killed or interrupted there. Afterwards the inputs must be as before, and each output must be the old one or
the new one, whole, with its data file. The exit code must be one that the README documents, with no traceback, and no
file of any other name may be left. After a kill, a second run must leave what an undisturbed run leaves.
With --kills and the options after it, runs are disturbed at random moments too: see `tests.campaigns.interruptions`.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.campaigns.fault_scenarios import SCENARIOS, Bench, Scenario, ended_badly
from tests.campaigns.interruptions import cut_inputs, kills, signals, two_writers

_SOURCE = Path(__file__).with_name("faults.c")
_COUNT_ONLY = -1

DISTURBANCES = {"kills": kills, "signals": signals, "writers": two_writers, "cuts": cut_inputs}
"""What happens at a random moment, by the option that asks for it."""


@dataclass(frozen=True)
class Fault:
    """What happens at one system call.

    Attributes:
        name: For the table.
        code: What the call answers; 0: the process is sent `number`.
        number: The signal.
        stays: Later calls that need space fail as well.
    """

    name: str
    code: int = 0
    number: int = 0
    stays: bool = False

    @property
    def kills(self) -> bool:
        """Whether the process has no chance to clean up."""
        return self.number == signal.SIGKILL


FAULTS = (
    Fault("ENOSPC", errno.ENOSPC, stays=True),
    Fault("EIO", errno.EIO),
    Fault("EMFILE", errno.EMFILE),
    Fault("EACCES", errno.EACCES, stays=True),
    Fault("SIGKILL", number=signal.SIGKILL),
    Fault("SIGINT", number=signal.SIGINT),
    Fault("SIGTERM", number=signal.SIGTERM),
)


@dataclass(frozen=True)
class Finding:
    """What one run did wrong.

    Attributes:
        scenario: Its name.
        fault: Its name.
        at: The number of the system call, or of the run.
        wrong: What was found, as one clause.
    """

    scenario: str
    fault: str
    at: int
    wrong: str

    def __str__(self) -> str:
        return f"{self.scenario}, {self.fault} at {self.at}: {self.wrong}"


class Shim:
    """Runs a scenario with a fault at one of its system calls that write."""

    def __init__(self, scenario: Scenario, folder: Path, library: Path) -> None:
        folder.mkdir()
        self._counter = folder / "counter"
        self._counter.write_bytes(bytes(8))
        environment = {
            "LD_PRELOAD": str(library),
            "FAULT_UNDER": str(folder / "bench" / "work"),
            "FAULT_COUNTER": str(self._counter),
            "FAULT_AT": str(_COUNT_ONLY),
        }
        self._bench = Bench(scenario, folder / "bench", environment)
        self.calls = int.from_bytes(self._counter.read_bytes(), sys.byteorder)

    def wrong(self, at: int, fault: Fault) -> Iterator[str]:
        """What is wrong after a run with `fault` at the system call `at`."""
        self._counter.write_bytes(bytes(8))
        settings = {"FAULT_AT": at, "FAULT_ERRNO": fault.code, "FAULT_SIGNAL": fault.number, "FAULT_STAYS": fault.stays}
        done = self._bench.run(extra={name: str(int(value)) for name, value in settings.items()})
        if not (fault.kills and done.returncode == -signal.SIGKILL):
            bad = ended_badly(done.returncode, done.stderr)
            yield from [bad] if bad else []
        yield from self._bench.torn()
        if not fault.kills and (more := self._bench.stray()):
            yield f"left {sorted(more)}"
        if fault.kills:
            yield from self._bench.after_another_run()


def compiled(folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "faults.so"
    command = [os.environ.get("CC", "cc"), "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return library


def campaign(folder: Path, scenarios: Sequence[Scenario], step: int) -> tuple[Counter[str], list[Finding]]:
    """Run all faults at each `step`-th system call of each scenario.

    Returns:
        How many runs there were by scenario, and what was found.
    """
    library = compiled(folder)
    runs: Counter[str] = Counter()
    findings: list[Finding] = []
    for scenario in scenarios:
        shim = Shim(scenario, folder / scenario.name, library)
        for number, fault in enumerate(FAULTS):
            for at in range(number % step, shim.calls, step):
                runs[scenario.name] += 1
                findings += (Finding(scenario.name, fault.name, at, wrong) for wrong in shim.wrong(at, fault))
    return runs, findings


def disturbed(
    folder: Path, scenarios: Sequence[Scenario], counts: Mapping[str, int], seed: int
) -> tuple[Counter[str], list[Finding]]:
    """Disturb runs of each scenario at random moments.

    Args:
        folder: For the runs.
        scenarios: What is run.
        counts: How many runs of each scenario, by the keys of `DISTURBANCES`.
        seed: Of the moments.

    Returns:
        How many runs there were by scenario and disturbance, and what was found.
    """
    runs: Counter[str] = Counter()
    findings: list[Finding] = []
    for scenario in scenarios:
        bench = Bench(scenario, folder / f"{scenario.name}-moments")
        for name, count in counts.items():
            runs[f"{scenario.name}, {name}"] += count
            found = DISTURBANCES[name](bench, count, random.Random(seed)) if count else ()
            findings += (Finding(f"{scenario.name}, {name}", name, at, wrong) for at, wrong in found)
    return runs, findings


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--step", type=int, default=1, help="take each N-th system call only; 0: none")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    for name in DISTURBANCES:
        parser.add_argument(f"--{name}", type=int, default=0, metavar="N", help=f"so many {name} of each scenario")
    given = parser.parse_args()
    scenarios = [scenario for scenario in SCENARIOS if not given.only or scenario.name in given.only]
    counts = {name: getattr(given, name) for name in DISTURBANCES if getattr(given, name)}
    with tempfile.TemporaryDirectory() as folder:
        runs, findings = campaign(Path(folder), scenarios, given.step) if given.step else (Counter(), [])
        more_runs, more = disturbed(Path(folder), scenarios, counts, given.seed) if counts else (Counter(), [])
    findings += more
    for finding in findings:
        print(finding)
    print("| scenario | runs | wrong |\n|---|---|---|")
    for name, count in (runs + more_runs).items():
        print(f"| {name} | {count} | {len({(f.fault, f.at) for f in findings if f.scenario == name})} |")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
