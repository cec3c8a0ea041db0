"""Every command on every model below some folders: a table of what each said, and what of that is not true.

    python -m tests.campaigns.commands sample_models --jobs 2 --out build/commands.md

Exits with 1 where a check of `command_checks` finds something.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tests.campaigns import command_calls, command_runs, command_table
from tests.campaigns.command_calls import Subject
from tests.campaigns.command_checks import CHECKS
from tests.campaigns.command_runs import Outcome


def campaign(
    subjects: Sequence[Subject],
    *,
    jobs: int,
    limit_seconds: float,
    budget_seconds: float,
    columns: Sequence[str] = (),
) -> Iterator[list[Outcome]]:
    """Run all commands on all models; yields the outcomes of a model when it is done.

    Args:
        subjects: The models.
        jobs: How many models at the same time.
        limit_seconds: A call that takes longer is ended.
        budget_seconds: Time for timing in each call.
        columns: The calls to make; all where there are none.
    """

    def handle(number: int) -> list[Outcome]:
        subject = subjects[number]
        calls = list(command_calls.calls(subject, number, budget_seconds))
        chosen = [call for call in calls if not columns or call.column.removesuffix(" --json") in columns]
        with tempfile.TemporaryDirectory(prefix="commands-") as folder:
            return command_runs.run_all(subject, chosen, Path(folder), limit_seconds)

    with ThreadPoolExecutor(jobs) as pool:
        for done in as_completed([pool.submit(handle, number) for number in range(len(subjects))]):
            yield done.result()


def main() -> int:
    """Run the campaign and write the table; it is written anew after each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="models are *.onnx below them")
    parser.add_argument("--jobs", type=int, default=2, help="models at the same time")
    parser.add_argument("--limit-seconds", type=float, default=180.0, help="for one call")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds for timing in each call")
    parser.add_argument("--max-mb", type=float, default=120.0, help="leave larger models out")
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="COLUMN", help="these calls, e.g. fold 'fuse --contrib'"
    )
    parser.add_argument("--out", type=Path, default=Path("build/commands.md"), help="where the table goes")
    given = parser.parse_args()
    subjects, left_out = command_calls.subjects(given.folders, given.max_mb * 1e6)
    print(f"{len(subjects)} models", *left_out, sep="\n", file=sys.stderr, flush=True)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    by_model: dict[Path, list[Outcome]] = {}
    started = campaign(
        subjects,
        jobs=given.jobs,
        limit_seconds=given.limit_seconds,
        budget_seconds=given.budget,
        columns=given.only,
    )
    for done, outcomes in enumerate(started, 1):
        if not outcomes:
            continue
        by_model[outcomes[0].subject.model] = outcomes
        found = command_table.findings(outcomes, CHECKS)
        seconds = sum(outcome.seconds for outcome in outcomes)
        told = f"{done}/{len(subjects)} {outcomes[0].subject.shown}: {len(outcomes)} calls in {seconds:.0f} s"
        print(told, *command_table.bullets(found), sep="\n", file=sys.stderr, flush=True)
        ordered = [outcome for subject in subjects for outcome in by_model.get(subject.model, [])]
        given.out.write_text(command_table.document(ordered, left_out))
    failures = command_table.findings(ordered, CHECKS) if by_model else []
    print("\n".join(command_table.summary(ordered, failures, [])) if by_model else "no model was run")
    print(f"the table is in {given.out}")
    return 1 if failures or not by_model else 0


if __name__ == "__main__":
    sys.exit(main())
