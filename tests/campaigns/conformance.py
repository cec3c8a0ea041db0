"""Every node case and file model of the onnx package, through every exact pass and the default pipelines.

python -m tests.campaigns.conformance --jobs 2
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from modelopt.core.errors import ExitCode
from tests.campaigns import lab, pool, runs
from tests.campaigns.cases import Case, file_cases, node_cases
from tests.campaigns.lab_comparison import generic
from tests.campaigns.lab_outcomes import NotTaken, Outcome, Verdict

_SECONDS = 300.0
_LIGHT_GROWTH = 1.1
_PRESERVED = 0.99


@dataclass(frozen=True)
class CaseReport:
    """What became of one case.

    Attributes:
        ran: Whether onnxruntime runs the original and its outputs can be compared.
        why_not_run: Why not.
        outcomes: By pass.
    """

    ran: bool
    why_not_run: str
    outcomes: dict[str, Outcome]


def handle(one: lab.Lab, case: Case, names: Sequence[str]) -> CaseReport:
    """Put a case through the passes called `names`."""
    content = case.content()
    try:
        original = one.original(content, case.feeds(content))
    except NotTaken as error:
        refused = error.code is ExitCode.REFUSED or not runs.accepts(content)
        verdict = Outcome(Verdict.REFUSED if refused else Verdict.FAILED, error.reason)
        return CaseReport(_runs(content, case), "refused", dict.fromkeys(names, verdict))
    outcomes = {name: one.judge(original, name) for name in names}
    for name, outcome in outcomes.items():
        if case.is_light and outcome.size_bytes > _LIGHT_GROWTH * len(content):
            grew = f"a light model of {len(content)} bytes grew to {outcome.size_bytes}"
            outcomes[name] = Outcome(Verdict.FAILED, grew)
    return CaseReport(original.outputs is not None, original.why_not_run, outcomes)


def _runs(content: bytes, case: Case) -> bool:
    try:
        session = runs.open_session(content)
        for feed in case.feeds(content):
            runs.session_run(session, feed)
    except Exception:  # noqa: BLE001 - onnxruntime raises many kinds
        return False
    return not runs.is_random(content)


# The table


@dataclass
class Row:
    """The figures of one pass.

    Attributes:
        runnable: Cases that onnxruntime runs and whose outputs can be compared.
        changed: Cases that the pass rewrote.
        preserved: Runnable cases whose outputs are the same.
        structure: Other cases, of which all but the outputs was checked.
        excused: Runnable cases where numbers beyond the type's range differ, or onnxruntime's own fusions do.
        reasons: Of refusals, runnable or not, without names and numbers.
        refused_though_it_runs: One line for each runnable case that is refused.
        failures: One line each.
    """

    runnable: int = 0
    changed: int = 0
    preserved: int = 0
    structure: int = 0
    excused: list[str] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    refused_though_it_runs: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def add(self, case: Case, ran: bool, outcome: Outcome) -> None:
        """Count one case."""
        self.runnable += ran
        self.changed += outcome.rewrites > 0
        told = f"{case.name}: {outcome.reason}"
        if outcome.verdict is Verdict.REFUSED:
            self.reasons[generic(outcome.reason.removeprefix("original.onnx"))] += 1
            self.refused_though_it_runs += [told] * ran
        elif outcome.verdict is Verdict.FAILED:
            self.failures.append(told)
        elif outcome.verdict in {Verdict.RUNTIME, Verdict.OVERFLOWS}:
            self.excused.append(told)
        else:
            self.structure += not ran
            self.preserved += ran

    def __add__(self, other: Row) -> Row:
        return Row(
            self.runnable + other.runnable,
            self.changed + other.changed,
            self.preserved + other.preserved,
            self.structure + other.structure,
            self.excused + other.excused,
            self.reasons + other.reasons,
            self.refused_though_it_runs + other.refused_though_it_runs,
            self.failures + other.failures,
        )

    @property
    def share(self) -> float:
        """Of the runnable cases, those that are preserved."""
        return self.preserved / self.runnable if self.runnable else 1.0

    def line(self, name: str) -> str:
        """The figures as text."""
        refused = sum(self.reasons.values())
        return (
            f"{name:<26}{self.runnable:>10}{self.changed:>9}{self.preserved:>11}{self.share:>10.2%}"
            f"{self.structure:>11}{refused:>9}{len(self.excused):>9}{len(self.failures):>8}"
        )


@dataclass
class Table:
    """The figures of a campaign."""

    cases: int = 0
    rows: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    not_run: Counter[str] = field(default_factory=Counter)

    def add(self, case: Case, names: Sequence[str], report: CaseReport | pool.Died) -> None:
        """Count one case."""
        self.cases += 1
        if isinstance(report, pool.Died):
            died = Outcome(Verdict.FAILED, report.reason)
            report = CaseReport(ran=False, why_not_run=report.reason, outcomes=dict.fromkeys(names, died))
        if not report.ran:
            self.not_run[generic(report.why_not_run)] += 1
        for name, outcome in report.outcomes.items():
            self.rows[name].add(case, report.ran, outcome)

    @property
    def failures(self) -> list[str]:
        """All failures, with the pass."""
        return [f"{name}: {failure}" for name, row in self.rows.items() for failure in row.failures]

    @property
    def lowest_share(self) -> float:
        """The smallest `Row.share`."""
        return min((row.share for row in self.rows.values()), default=1.0)

    def lines(self) -> Iterator[str]:
        """The table as text."""
        yield f"{self.cases} cases; unrunnable ones are checked but for their outputs"
        yield (
            f"{'pass':<26}{'runnable':>10}{'changed':>9}{'preserved':>11}{'share':>10}"
            f"{'unrunnable':>11}{'refused':>9}{'excused':>9}{'failed':>8}"
        )
        yield from (row.line(name) for name, row in self.rows.items())
        total = sum(self.rows.values(), Row())
        yield total.line("total")
        yield from (f"{name:<26}left out: {reason}" for name, reason in lab.LEFT_OUT.items())
        yield f"preserved: {self.lowest_share:.2%} of the runnable cases or more, in every row"
        refused_reasons = Counter[str]()
        for row in self.rows.values():
            refused_reasons |= row.reasons
        yield "\nrefused (cases, reason):"
        yield from (f"{count:>6}  {reason}" for reason, count in refused_reasons.most_common())
        yield "\nnot compared on the runtime (cases, reason):"
        yield from (f"{count:>6}  {reason}" for reason, count in self.not_run.most_common(20))
        yield f"\nrefused although onnxruntime runs them: {len(total.refused_though_it_runs)}"
        yield from (f"  {name}: {told}" for name, row in self.rows.items() for told in row.refused_though_it_runs)
        yield f"\nexcused: {len(total.excused)}"
        yield from (f"  {name}: {told}" for name, row in self.rows.items() for told in row.excused)
        yield f"\nfailed: {len(total.failures)}"
        yield from (f"  {failure}" for failure in self.failures)


def campaign(cases: Sequence[Case], names: Sequence[str], *, jobs: int) -> Table:
    """Put all cases through the passes called `names`."""

    @contextmanager
    def setup() -> Iterator[Callable[[int], CaseReport]]:
        with lab.lab() as one:
            yield lambda index: handle(one, cases[index], names)

    table = Table()
    for done, (index, report) in enumerate(pool.run(setup, range(len(cases)), jobs=jobs, seconds=_SECONDS), 1):
        table.add(cases[index], names, report)
        if jobs and done % 200 == 0:
            print(f"{done} of {len(cases)} cases, {len(table.failures)} failures", file=sys.stderr, flush=True)
    return table


def main() -> int:
    """Run the campaign and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="only every n-th node case")
    parser.add_argument("--only", default="", help="only cases whose name holds this")
    parser.add_argument("--passes", nargs="*", default=[*lab.EXACT_PASSES, *lab.VARIANTS, *lab.PIPELINES])
    given = parser.parse_args()
    cases = [*node_cases()[:: given.every], *file_cases()]
    cases = [case for case in cases if given.only in case.name]
    table = campaign(cases, given.passes, jobs=given.jobs)
    print("\n".join(table.lines()))
    return 1 if table.failures or table.lowest_share < _PRESERVED else 0


if __name__ == "__main__":
    sys.exit(main())
