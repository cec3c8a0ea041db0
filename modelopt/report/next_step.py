"""What the user may do next, where something is known to help: one line with the exact flag."""

from __future__ import annotations

import math
from collections import Counter

import msgspec

from modelopt.core.changes import Effect
from modelopt.report import GateOutcome, Outcome, Report, verdict

_MOST_DROP = 0.1
"""A model that loses more than this is not worth an offer."""


def concluded(report: Report) -> Report:
    """The report with its verdict and the next step."""
    return msgspec.structs.replace(report, verdict=verdict.of(report), next=of(report))


def of(report: Report) -> str | None:
    """The next step; None where nothing is known that helps."""
    if any(gate.gate == "max-size" and gate.outcome is GateOutcome.FAILED for gate in report.gates):
        share = report.output.size_bytes / max(1, report.input.size_bytes)
        return f"--max-size {math.ceil(share * 100)}% admits the smallest model that was made" if share < 1 else None
    is_open = [gate for gate in report.gates if gate.outcome is GateOutcome.INCONCLUSIVE and gate.hint]
    if is_open:
        return f"--{is_open[0].gate} is not decided: {is_open[0].hint}"
    if report.verification is not None and report.verification.unproved and report.verification.hint:
        return report.verification.hint
    changed = any(one.rewrites and one.effect != Effect.EXACT.value for one in report.passes)
    if changed:
        return "--eval DATA measures the accuracy" if report.accuracy is None else None
    return _of_trials(report)


def _of_trials(report: Report) -> str | None:
    """What would make something of the trials, of which none was kept."""
    if any(trial.kept for trial in report.trials):
        return None
    if any(trial.outcome is Outcome.NO_EVIDENCE for trial in report.trials):
        return "data with labels on which the model scores well decide it: --eval DATA"
    drops = [trial.drop for trial in report.trials if trial.outcome is Outcome.INACCURATE and trial.drop is not None]
    if drops and min(drops) <= _MOST_DROP:
        least = min(drops)
        return f"--max-drop {_rounded_up(least)} admits a model that loses {least:.2%}"
    refused = Counter(skip.reason for trial in report.trials for skip in trial.skipped)
    unprofitable = [reason for reason, _ in refused.most_common(1) if "estimated to save less" in reason]
    if unprofitable:
        return "--everywhere quantizes what is estimated to be slower, for its size"
    slow = [trial for trial in report.trials if trial.outcome in {Outcome.SLOWER, Outcome.NO_GAIN} and trial.ratio]
    return "where size counts more than speed, --max-size 50% takes the smaller model" if slow else None


def _rounded_up(drop: float) -> str:
    """A limit in percent that the drop meets, with at most one decimal."""
    return f"{math.ceil(drop * 1000) / 10:g}%"
