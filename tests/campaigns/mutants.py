"""Damaged models through every command: each call ends in a documented way and leaves nothing but its output.

    python -m tests.campaigns.mutants --count 20000 --seed 0 --jobs 2

Of each call must hold: a documented exit code, one error line where it failed, no traceback and no raw control
character; the input is as before; no file but the output, and none at all where it failed; an output that onnxruntime
loads where it loads the input; less than a minute, and a bounded amount of memory. What breaks this is saved;
``--seed N --count 1`` reproduces it. Calls run in this process's children; some run as the installed command too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.core.errors import ModeloptError
from modelopt.runtime.limits import Limits
from modelopt.runtime.session import SessionSpec
from modelopt.runtime.worker import Worker
from tests.campaigns import in_process, mutations, pool
from tests.campaigns.in_process import Ended
from tests.campaigns.mutation_picks import DATA_NAME
from tests.campaigns.mutations import Mutant
from tests.forks.children import forked_children

MODEL, OUTPUT = "model.onnx", "out.onnx"
_SECONDS = 60.0
_MEGABYTES = 1024.0
_SUBPROCESS_EVERY = 25
_LIMITS = ("--timeout", "20", "--memory-limit", "1GB")
_MADE = (*_LIMITS, "--no-bench", MODEL, "-o", OUTPUT)

CALLS: dict[str, tuple[str, ...]] = {
    "inspect": ("inspect", "-v", MODEL),
    "fold": ("fold", *_MADE),
    "fuse": ("fuse", *_MADE),
    "prune": ("prune", *_MADE),
    "dynamic": ("quantize", "--mode", "dynamic", *_MADE),
    "weights": ("quantize", "--mode", "weights", *_MADE),
    "bench": ("bench", "--budget", "0.1", "--warmup", "0", "--rounds", "2", "--processes", "1", *_LIMITS, MODEL),
}


@dataclass(frozen=True)
class Finding:
    """What became of one mutant.

    Attributes:
        changes: What was changed.
        codes: The exit code by call.
        failures: What was promised and did not hold, by call.
        seconds: The slowest call.
        peak_mb: The most memory that a call took.
        outputs: How many models were written and held against the input.
        subprocesses: How many calls ran as the installed command.
    """

    changes: tuple[str, ...]
    codes: dict[str, int | None]
    failures: tuple[str, ...]
    seconds: float
    peak_mb: float
    outputs: int
    subprocesses: int


class Bench:
    """Puts one mutant after the other through the calls, below one folder."""

    def __init__(self, folder: Path, calls: Sequence[str]) -> None:
        self._cwd, self._tmp = folder / "cwd", folder / "tmp"
        self._kept = folder / "kept"
        self._calls = calls

    def handle(self, seed: int) -> Finding:
        """All calls on the mutant of this seed."""
        mutant = mutations.mutant(seed)
        in_process.emptied(self._kept)
        codes: dict[str, int | None] = {}
        failures: list[str] = []
        seconds, peak, subprocesses = 0.0, 0.0, 0
        for number, (name, arguments) in enumerate((name, CALLS[name]) for name in self._calls):
            ended, found = self._called(mutant, name, arguments, as_subprocess=False)
            codes[name] = ended.code
            failures += [f"{name}: {what}" for what in found]
            seconds, peak = max(seconds, ended.seconds), max(peak, ended.peak_mb)
            if seed % _SUBPROCESS_EVERY == 0 and (seed // _SUBPROCESS_EVERY) % len(self._calls) == number:
                subprocesses += 1
                real, found = self._called(mutant, name, arguments, as_subprocess=True)
                failures += [f"{name} as a subprocess: {what}" for what in found]
                if real.code != ended.code:
                    failures.append(f"{name}: exit code {ended.code} here and {real.code} as a subprocess")
        outputs = len(list(self._kept.glob("*/" + OUTPUT)))
        failures += self._unloadable(mutant)
        return Finding(mutant.changes, codes, tuple(failures), seconds, peak, outputs, subprocesses)

    def _called(
        self, mutant: Mutant, name: str, arguments: Sequence[str], *, as_subprocess: bool
    ) -> tuple[Ended, list[str]]:
        self._place(in_process.emptied(self._cwd), mutant)
        in_process.emptied(self._tmp)
        before = in_process.snapshot(self._cwd)
        if as_subprocess:
            ended = in_process.subprocess_call(arguments, self._cwd, temporary=self._tmp, seconds=_SECONDS)
        else:
            ended = in_process.call(arguments, self._cwd, temporary=self._tmp)
        found = in_process.wrong(ended)
        after = in_process.snapshot(self._cwd)
        if any(after.get(path) != content for path, content in before.items()):
            found.append("the input changed")
        new = set(after) - set(before)
        made = {path for path in new if path == OUTPUT or (path.startswith(OUTPUT) and path.endswith(".data"))}
        allowed = made if ended.code == 0 and OUTPUT in arguments else set()
        if new - allowed:
            found.append(f"it left {', '.join(sorted(new - allowed))}")
        if litter := in_process.snapshot(self._tmp):
            found.append(f"it left temporary files: {', '.join(litter)}")
        if ended.seconds > _SECONDS:
            found.append(f"it took {ended.seconds:.0f} s")
        if ended.peak_mb > _MEGABYTES:
            found.append(f"it took {ended.peak_mb:.0f} MB")
        if ended.code == 0 and OUTPUT in arguments and not as_subprocess:
            if OUTPUT not in made:
                found.append("no output with exit code 0")
            self._keep(name, made)
        return ended, found

    def _place(self, folder: Path, mutant: Mutant) -> None:
        (folder / MODEL).write_bytes(mutant.content)
        if mutant.data is not None:
            (folder / DATA_NAME).write_bytes(mutant.data)

    def _keep(self, name: str, made: set[str]) -> None:
        (self._kept / name).mkdir()
        for path in made:
            (self._cwd / path).rename(self._kept / name / path)

    def _unloadable(self, mutant: Mutant) -> Iterator[str]:
        """The outputs that onnxruntime does not load, where it loads the input."""
        kept = sorted(self._kept.iterdir())
        self._place(in_process.emptied(self._cwd), mutant)
        if not kept or self._why_not(self._cwd / MODEL) is not None:
            return
        for folder in kept:
            why = self._why_not(folder / OUTPUT)
            if why is not None:
                yield f"{folder.name}: the output does not load although the input does: {why}"

    def _why_not(self, model: Path) -> str | None:
        with Worker(Limits(2**30, 20.0)) as worker:
            try:
                worker.open(model, SessionSpec())
            except ModeloptError as error:
                return f"{error.fact} ({error.note})"
        return None


@dataclass
class Tally:
    """The figures of a campaign."""

    mutants: int = 0
    calls: int = 0
    outputs: int = 0
    subprocesses: int = 0
    codes: dict[str, Counter[str]] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, int] = (0.0, -1)
    largest: tuple[float, int] = (0.0, -1)

    def add(self, seed: int, finding: Finding | pool.Died, folder: Path | None) -> None:
        """Count one seed; save what fails."""
        self.mutants += 1
        if isinstance(finding, pool.Died):
            self._fail(seed, [finding.reason], folder)
            return
        self.calls += len(finding.codes) + finding.subprocesses
        self.outputs += finding.outputs
        self.subprocesses += finding.subprocesses
        self.changes.update(finding.changes)
        for name, code in finding.codes.items():
            self.codes.setdefault(name, Counter())[str(code)] += 1
        self.slowest = max(self.slowest, (finding.seconds, seed))
        self.largest = max(self.largest, (finding.peak_mb, seed))
        if finding.failures:
            self._fail(seed, finding.failures, folder)

    def _fail(self, seed: int, failures: Sequence[str], folder: Path | None) -> None:
        self.failures += [f"seed {seed}: {failure}" for failure in failures]
        if folder is None:
            return
        mutant = mutations.mutant(seed)
        place = folder / f"seed-{seed}"
        place.mkdir(parents=True, exist_ok=True)
        (place / MODEL).write_bytes(mutant.content)
        if mutant.data is not None:
            (place / DATA_NAME).write_bytes(mutant.data)
        text = [", ".join(mutant.changes), *failures]
        (place / "failures.txt").write_text("\n".join(text) + "\n", encoding="utf-8")

    def lines(self) -> Iterator[str]:
        """The figures as text."""
        yield f"{self.mutants} mutants, {self.calls} calls, {self.subprocesses} of them as the installed command"
        for name, codes in self.codes.items():
            yield f"{name:<10}" + ", ".join(f"{count} × exit {code}" for code, count in sorted(codes.items()))
        yield f"{self.outputs} models written"
        yield f"slowest call: {self.slowest[0]:.1f} s (seed {self.slowest[1]})"
        yield f"most memory: {self.largest[0]:.0f} MB (seed {self.largest[1]})"
        yield f"failed: {len(self.failures)}"
        yield from (f"  {failure}" for failure in self.failures)


def campaign(
    seeds: Sequence[int], *, jobs: int, calls: Sequence[str] = tuple(CALLS), folder: Path | None = None
) -> Tally:
    """Put the mutants of all seeds through `calls`."""

    @contextmanager
    def setup() -> Iterator[Callable[[int], Finding]]:
        with tempfile.TemporaryDirectory() as place, forked_children():
            yield Bench(Path(place), calls).handle

    tally = Tally()
    with suppress(KeyboardInterrupt):  # what was done counts
        limit = _SECONDS * len(calls)
        for done, (seed, finding) in enumerate(pool.run(setup, seeds, jobs=jobs, seconds=limit), 1):
            tally.add(seed, finding, folder)
            if done % 100 == 0:
                print(f"{done} mutants, {len(tally.failures)} failures", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """Run the campaign and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("build/mutants"), help="where models that fail go")
    parser.add_argument("--calls", nargs="*", choices=list(CALLS), default=list(CALLS))
    given = parser.parse_args()
    seeds = range(given.seed, given.seed + given.count)
    tally = campaign(seeds, jobs=given.jobs, calls=given.calls, folder=given.save)
    print("\n".join(tally.lines()))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
