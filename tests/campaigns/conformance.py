"""Every node case and file model of the onnx package, through every exact pass and the default pipelines.

python -m tests.campaigns.conformance --jobs 2
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from modelopt.errors import ExitCode
from tests.campaigns import lab, pool
from tests.campaigns.lab import Feeds, Outcome, Verdict

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"
_FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")
_SECONDS = 300.0
_LIGHT_GROWTH = 1.1


@dataclass(frozen=True)
class Case:
    """A model with data.

    Attributes:
        name: Its name.
        content: Gives its bytes.
        feeds: Gives what to run it on.
        size_bytes: Of the file; 0 for node cases.
    """

    name: str
    content: Callable[[], bytes]
    feeds: Callable[[bytes], list[Feeds]]
    size_bytes: int = 0

    @property
    def is_light(self) -> bool:
        """Whether its weights are ConstantOfShape."""
        return self.name.startswith("light/")


def node_cases() -> list[Case]:
    """What onnx generates for its operators."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    return [_node_case(case) for case in found]


def _node_case(case: Any) -> Case:
    names = [value.name for value in case.model.graph.input]

    def feeds(_content: bytes) -> list[Feeds]:
        return [_named(names, inputs) for inputs, _outputs in case.data_sets or []]

    return Case(f"node/{case.name}", case.model.SerializeToString, feeds)


def _named(names: Sequence[str], inputs: Sequence[Any]) -> Feeds:
    return {name: _plain(value) for name, value in zip(names, inputs, strict=False) if value is not None}


def _plain(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return numpy_helper.to_optional(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return np.asarray(value) if np.isscalar(value) or isinstance(value, np.generic) else value


def file_cases() -> list[Case]:
    """The models that the onnx package ships as files."""
    found = [_folder_case(path) for name in _FOLDERS for path in sorted((DATA / name).glob("*/model.onnx"))]
    light = sorted((DATA / "light").glob("*.onnx"))
    return found + [Case(f"light/{path.stem}", path.read_bytes, _seeded, path.stat().st_size) for path in light]


def _folder_case(path: Path) -> Case:
    def feeds(content: bytes) -> list[Feeds]:
        proto = onnx.ModelProto.FromString(content)
        stored = {tensor.name for tensor in proto.graph.initializer}
        values = [value for value in proto.graph.input if value.name not in stored]
        return [
            {value.name: _read(folder / f"input_{i}.pb", value.type) for i, value in enumerate(values)}
            for folder in sorted(path.parent.glob("test_data_set_*"))
        ]

    return Case(f"{path.parents[1].name}/{path.parent.name}", path.read_bytes, feeds, path.stat().st_size)


def _read(path: Path, kind: onnx.TypeProto) -> Any:
    if kind.HasField("sequence_type"):
        return _plain(onnx.SequenceProto.FromString(path.read_bytes()))
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def _seeded(content: bytes) -> list[Feeds]:
    proto = onnx.ModelProto.FromString(content)
    stored = {tensor.name for tensor in proto.graph.initializer}
    rng = np.random.default_rng(0)
    return [
        {
            value.name: rng.normal(size=[dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim]).astype("f")
            for value in proto.graph.input
            if value.name not in stored
        }
    ]


# One case through everything


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
    except lab.NotTaken as error:
        refused = error.code is ExitCode.REFUSED or not lab.accepts(content)
        verdict = Outcome(Verdict.REFUSED if refused else Verdict.FAILED, error.reason)
        return CaseReport(_runs(content, case), "refused", dict.fromkeys(names, verdict))
    outcomes = {name: one.judge(original, lab.steps(name)) for name in names}
    if case.is_light:
        for name in names:
            size = len(one.transform(original.path, lab.steps(name))[0])
            if size > _LIGHT_GROWTH * len(content):
                outcomes[name] = Outcome(Verdict.FAILED, f"a light model of {len(content)} bytes grew to {size}")
    return CaseReport(original.outputs is not None, original.why_not_run, outcomes)


def _runs(content: bytes, case: Case) -> bool:
    try:
        session = lab.open_session(content)
        for feed in case.feeds(content):
            lab.session_run(session, feed)
    except Exception:  # noqa: BLE001 - onnxruntime raises many kinds
        return False
    return not lab.is_random(content)


# The table


@dataclass
class Row:
    """The figures of one pass."""

    ran: int = 0
    preserved: int = 0
    changed: int = 0
    structure: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    refused_though_it_runs: int = 0
    failures: list[str] = field(default_factory=list)

    def add(self, case: Case, ran: bool, outcome: Outcome) -> None:
        """Count one case."""
        self.ran += ran
        self.changed += outcome.rewrites > 0
        if outcome.verdict is Verdict.REFUSED:
            self.reasons[lab.generic(outcome.reason.removeprefix("original.onnx"))] += 1
            self.refused_though_it_runs += ran
        elif outcome.verdict is Verdict.FAILED:
            self.failures.append(f"{case.name}: {outcome.reason}")
        else:
            self.structure += not ran
            self.preserved += ran


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
            self.not_run[lab.generic(report.why_not_run)] += 1
        for name, outcome in report.outcomes.items():
            self.rows[name].add(case, report.ran, outcome)

    @property
    def failures(self) -> list[str]:
        """All failures, with the pass."""
        return [f"{name}: {failure}" for name, row in self.rows.items() for failure in row.failures]

    def lines(self) -> Iterator[str]:
        """The table as text."""
        yield f"{'pass':<22}{'cases':>7}{'run':>7}{'changed':>9}{'preserved':>11}{'refused':>9}{'failed':>8}"
        for name, row in self.rows.items():
            refused = sum(row.reasons.values())
            yield (
                f"{name:<22}{self.cases:>7}{row.ran:>7}{row.changed:>9}{row.preserved:>11}{refused:>9}"
                f"{len(row.failures):>8}"
            )
        refused_reasons = Counter[str]()
        for row in self.rows.values():
            refused_reasons |= row.reasons
        yield "\nrefused (cases, reason):"
        yield from (f"{count:>6}  {reason}" for reason, count in refused_reasons.most_common())
        worst = max((row.refused_though_it_runs for row in self.rows.values()), default=0)
        yield f"\nrefused although onnxruntime runs them: {worst} at most"
        yield "\nnot compared on the runtime (cases, reason):"
        yield from (f"{count:>6}  {reason}" for reason, count in self.not_run.most_common(20))
        yield f"\nfailed: {len(self.failures)}"
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
    parser.add_argument("--passes", nargs="*", default=[*lab.EXACT_PASSES, *lab.PIPELINES])
    given = parser.parse_args()
    cases = [*node_cases()[:: given.every], *file_cases()]
    cases = [case for case in cases if given.only in case.name]
    table = campaign(cases, given.passes, jobs=given.jobs)
    print("\n".join(table.lines()))
    return 1 if table.failures else 0


if __name__ == "__main__":
    sys.exit(main())
