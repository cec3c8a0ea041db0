"""Generated models through the default pipelines: the same outputs, valid, and nothing left for a second run.

    python -m tests.campaigns.fuzz --count 10000 --seed 0 --jobs 2

A model that fails is shrunk and saved; ``--seed N --count 1`` reproduces it.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaigns import generate, lab, pool
from tests.campaigns.generate import Generated
from tests.campaigns.lab_comparison import generic
from tests.campaigns.lab_outcomes import NotTaken, Original, Outcome, Verdict

_SECONDS = 120.0
_KEPT = 20


@dataclass(frozen=True)
class Finding:
    """What became of one seed.

    Attributes:
        nodes: Of the model.
        opset: Of the model.
        ran: Whether onnxruntime runs the original.
        why_not_run: Why not.
        outcomes: By pipeline.
        shrunk: The smallest model that fails like it, serialized; None where nothing fails.
    """

    nodes: int
    opset: int
    ran: bool
    why_not_run: str
    outcomes: dict[str, Outcome]
    shrunk: bytes | None = None


def handle(one: lab.Lab, seed: int, names: Sequence[str]) -> Finding:
    """Put the model of one seed through the pipelines called `names`."""
    generated = generate.model(seed)
    nodes, opset = len(generated.proto.graph.node), generated.proto.opset_import[0].version
    original, outcomes = _outcomes(one, generated, names)
    failed = next((name for name, outcome in outcomes.items() if outcome.verdict is Verdict.FAILED), None)
    shrunk = None if failed is None else shrink(one, generated, failed, outcomes[failed])
    return Finding(nodes, opset, original.outputs is not None, original.why_not_run, outcomes, shrunk)


def _outcomes(one: lab.Lab, generated: Generated, names: Sequence[str]) -> tuple[Original, dict[str, Outcome]]:
    original = one.original(generated.proto.SerializeToString(), generated.feeds)
    if original.outputs is None:
        return original, {}
    return original, {name: one.judge(original, name) for name in names}


def shrink(one: lab.Lab, generated: Generated, name: str, outcome: Outcome) -> bytes:
    """Drop nodes, last ones first, as long as the pipeline still fails for the same kind of reason."""
    kind = outcome.reason.split(":")[0].split("'")[0]
    index = len(generated.proto.graph.node) - 1
    while index >= 0:
        smaller = generate.without(generated, index)
        if smaller is not None:
            try:
                found = _outcomes(one, smaller, [name])[1].get(name)
            except NotTaken:
                found = None
            if found and found.verdict is Verdict.FAILED and found.reason.split(":")[0].split("'")[0] == kind:
                generated = smaller
        index -= 1
    return bytes(generated.proto.SerializeToString())


@dataclass
class Tally:
    """The figures of a campaign."""

    graphs: int = 0
    ran: int = 0
    nodes: int = 0
    opsets: set[int] = field(default_factory=set)
    verdicts: dict[str, Counter[Verdict]] = field(default_factory=dict)
    rewrites: Counter[str] = field(default_factory=Counter)
    not_run: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    worst: list[tuple[float, int]] = field(default_factory=list)

    def add(self, seed: int, finding: Finding | pool.Died, folder: Path | None) -> None:
        """Count one seed; save what fails."""
        self.graphs += 1
        if isinstance(finding, pool.Died):
            self.failures.append(f"seed {seed}: {finding.reason}")
            return
        self.nodes += finding.nodes
        self.opsets.add(finding.opset)
        self.ran += finding.ran
        if not finding.ran:
            self.not_run[generic(finding.why_not_run)] += 1
        for name, outcome in finding.outcomes.items():
            self.verdicts.setdefault(name, Counter())[outcome.verdict] += 1
            self.rewrites[name] += outcome.rewrites
            if outcome.verdict is Verdict.REFUSED:
                self.refused[generic(outcome.reason)] += 1
            if outcome.verdict is Verdict.FAILED:
                self.failures.append(f"seed {seed}: {name}: {outcome.reason}")
        self.worst.append((max((o.error for o in finding.outcomes.values()), default=0.0), seed))
        self.worst = sorted(self.worst, reverse=True)[:_KEPT]
        if finding.shrunk is not None and folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"seed-{seed}.onnx").write_bytes(finding.shrunk)

    def lines(self) -> Iterator[str]:
        """The figures as text."""
        mean = self.nodes / max(1, self.graphs)
        yield f"{self.graphs} graphs, {mean:.1f} nodes on average, opsets {min(self.opsets)} to {max(self.opsets)}"
        yield f"{self.ran} run by onnxruntime; others:"
        yield from (f"{count:>6}  {reason}" for reason, count in self.not_run.most_common(8))
        for name, verdicts in self.verdicts.items():
            told = ", ".join(f"{count} {verdict.value}" for verdict, count in verdicts.most_common())
            yield f"{name:<8}{told}; {self.rewrites[name]} rewrites"
        yield from (f"{count:>6}  refused: {reason}" for reason, count in self.refused.most_common(8))
        yield "largest relative errors: " + ", ".join(f"{error:.1e} (seed {seed})" for error, seed in self.worst[:5])
        yield f"failed: {len(self.failures)}"
        yield from (f"  {failure}" for failure in self.failures)


def campaign(seeds: Sequence[int], names: Sequence[str], *, jobs: int, folder: Path | None = None) -> Tally:
    """Generate, optimize and compare the models of all seeds."""

    @contextmanager
    def setup() -> Iterator[Callable[[int], Finding]]:
        with lab.lab() as one:
            yield lambda seed: handle(one, seed, names)

    tally = Tally()
    with suppress(KeyboardInterrupt):  # what was done counts
        for done, (seed, finding) in enumerate(pool.run(setup, seeds, jobs=jobs, seconds=_SECONDS), 1):
            tally.add(seed, finding, folder)
            if jobs and done % 500 == 0:
                print(f"{done} graphs, {len(tally.failures)} failures", file=sys.stderr, flush=True)
    return tally


def main() -> int:
    """Run the campaign and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--save", type=Path, default=Path("build/fuzz"), help="where failing models go")
    parser.add_argument("--passes", nargs="*", default=list(lab.PIPELINES))
    given = parser.parse_args()
    tally = campaign(range(given.seed, given.seed + given.count), given.passes, jobs=given.jobs, folder=given.save)
    print("\n".join(tally.lines()))
    for seed in sorted({failure.split(":")[0] for failure in tally.failures})[:_KEPT]:
        print(f"reproduce: python -m tests.campaigns.fuzz --{seed} --count 1 --jobs 1 (shrunk: {given.save})")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
