"""What a call claims, held against its report as data and against what onnxruntime answers when the campaign asks it.

The report is read where it can be: the wording of lines changes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from tests.campaigns.command_runs import Outcome

_VERIFIED = re.compile(r"^Verified\b|bit for bit|^outputs\b.*\bthe same\b|the outputs are the same", re.MULTILINE)
_SPEED = re.compile(r"× as fast|: (faster|slower)\b|\bis slower\b|\bis faster\b")


def claims_verified(outcome: Outcome) -> bool:
    """Whether the call says that the outputs are those of the original."""
    return _VERIFIED.search(outcome.err) is not None


def verified(outcome: Outcome) -> Iterator[str]:
    """Outputs are called verified only where feeds were run and elements were compared."""
    if not claims_verified(outcome) or outcome.report is None or _unchanged(outcome):
        return
    if not compared(outcome.report):
        yield f"the outputs are called the same, but the report counts nothing that was compared: {_said(outcome)}"


def same_answers(outcome: Outcome) -> Iterator[str]:
    """What is written as exact answers as the original does when this campaign asks both."""
    if outcome.code != 0 or outcome.answer is None or not outcome.answer.difference:
        return
    claim = "called verified" if claims_verified(outcome) else "written"
    yield f"the result is {claim}, but answers otherwise: {outcome.answer.difference}"


def gates_measured(outcome: Outcome) -> Iterator[str]:
    """A gate is ok only where its figure was measured."""
    if not isinstance(outcome.report, dict):
        return
    for gate in outcome.report.get("gates") or ():
        if gate.get("outcome") != "passed" or _unchanged(outcome) or gate.get("gate") == "max-size":
            continue
        speed = gate.get("gate") in {"must-gain", "min-speedup"}
        measured = _has_ratio(outcome.report.get("latency")) if speed else _has_accuracy(outcome)
        if not measured:
            yield f"the gate {gate.get('gate')} is ok ({gate.get('found')}), but its figure was not measured"


def speed_measured(outcome: Outcome) -> Iterator[str]:
    """Nothing is called faster or slower where no latency was measured."""
    found = _SPEED.search(outcome.err)
    if found and isinstance(outcome.report, dict) and not _has_ratio(outcome.report):
        line = next(line for line in outcome.err.splitlines() if _SPEED.search(line))
        yield f"a speed is claimed, but none was measured: {line.strip()[:150]}"


def accuracy_measured(outcome: Outcome) -> Iterator[str]:
    """A figure of accuracy stands for elements that were compared."""
    accuracy = outcome.report.get("accuracy") if isinstance(outcome.report, dict) else None
    if not isinstance(accuracy, dict):
        return
    for score in (accuracy.get("reference"), accuracy.get("candidate"), *(accuracy.get("fidelity") or ())):
        if not isinstance(score, dict) or score.get("value") is None:
            continue
        if not score.get("n"):
            yield f"{score.get('name')} is {score['value']:g}, but over nothing"
        elif _gives_nothing(outcome):
            yield f"{score.get('name')} is {score['value']:g}, but the model gives no element"


def same_as_itself(outcome: Outcome) -> Iterator[str]:
    """A model compared with itself differs in nothing."""
    if not outcome.call.column.startswith("compare self") or not isinstance(outcome.report, dict):
        return
    for score in (outcome.report.get("accuracy") or {}).get("fidelity") or ():
        steady = outcome.original is not None and not outcome.original.problem
        if steady and score.get("name") == "max-abs-error" and score.get("value"):
            yield f"the model differs from itself: max-abs-error {score['value']:g}"


def kept_is_there(outcome: Outcome) -> Iterator[str]:
    """What was tried and is called kept is in the result."""
    trials = outcome.report.get("trials") if isinstance(outcome.report, dict) else None
    for trial in trials or () if outcome.copied else ():
        if trial.get("kept") and trial.get("rewrites"):
            yield f"the trial {trial.get('group')} is called kept, but the result is the input"


def _said(outcome: Outcome) -> str:
    return next(line.strip() for line in outcome.err.splitlines() if _VERIFIED.search(line))[:150]


def _unchanged(outcome: Outcome) -> bool:
    return outcome.copied


def compared(report: Any) -> bool:
    """Whether a report says that verification compared elements; it does not count feeds that give none."""
    found = report.get("verification") if isinstance(report, dict) else None
    if not isinstance(found, dict):
        return False
    return found["real"] + found["constructed"] > 0 and found["max_relative_error"] is not None


def _numbers(found: Any) -> Iterator[tuple[str, Any]]:
    """All (key, value) in a document, nested ones too."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield key, value
            yield from _numbers(value)
    elif isinstance(found, list):
        for value in found:
            yield from _numbers(value)


def _has_ratio(found: Any) -> bool:
    return any(key == "verdict" and value for key, value in _numbers(found))


def _has_accuracy(outcome: Outcome) -> bool:
    accuracy = outcome.report.get("accuracy")
    if isinstance(accuracy, dict) and accuracy.get("n"):
        scores = [accuracy.get("candidate"), *(accuracy.get("fidelity") or ())]
        return any(isinstance(score, dict) and score.get("n") for score in scores) and not _gives_nothing(outcome)
    return compared(outcome.report)


def _gives_nothing(outcome: Outcome) -> bool:
    """Whether the original's outputs are empty on what the call runs it on, as this campaign sees it."""
    answer = outcome.original
    if answer is None:
        return False
    if outcome.call.has_data:
        return bool(answer.data_feeds) and not answer.data_elements
    return answer.usual_elements == 0
