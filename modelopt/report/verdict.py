"""The verdict on a run: the one sentence that its report begins with."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from modelopt.core.changes import Effect
from modelopt.core.plural import counted
from modelopt.report import GateOutcome, Outcome, PassResult, Report
from modelopt.report.measured_words import measured

_QUANTIZED = {
    "quantize-static": "int8 (static)",
    "quantize-dynamic": "int8 (dynamic)",
    "quantize-weights": "weights of 4 bits",
    "store-weights": "int8 for storage",
    "convert-half": "half precision",
    "convert-float": "float32",
}
ALL = "all passes"
"""The name of the trial of a whole recipe."""

_PRUNED = ("prune-magnitude", "prune-channels", "prune-layers")
_NOT_DONE = {**dict.fromkeys(_PRUNED, "Not pruned"), "convert-half": "Not converted", "convert-float": "Not converted"}
LARGER = "the result would be larger than the input"
"""The beginning of the reason why a whole result was refused; other reasons concern one place in the model."""

_FAILINGS = {
    Outcome.SLOWER: "slower",
    Outcome.NO_GAIN: "no gain in speed or size",
    Outcome.INACCURATE: "less accurate than allowed",
    Outcome.FAILED: "not possible to make or to run",
}


def of(report: Report) -> str:
    """The verdict: whether the result was written, what changed in the model, and the size and speed as measured."""
    made = _made(report)
    if report.verification is not None and report.verification.unproved is not None:
        made = f"{made} NOT VERIFIED: {report.verification.unproved}."
    failed = [gate for gate in report.gates if gate.outcome is GateOutcome.FAILED]
    stopped = failed or [gate for gate in report.gates if gate.stops]
    if stopped:
        start = "Written although" if report.written else "Not written:"
        flags = " and ".join(f"--{gate.gate}" for gate in stopped)
        verb, state = "is" if len(stopped) == 1 else "are", "not met" if failed else "not decided"
        return f"{start} {flags} {verb} {state}. {made}"
    return made


def _made(report: Report) -> str:
    last = {result.name: result for result in report.passes if result.rewrites}
    changed = [result for result in last.values() if result.effect != Effect.EXACT.value]
    if changed:
        done = " and ".join(_changed(result, report) for result in changed)
        return f"{done[0].upper()}{done[1:]}: {measured(report)}."
    asked = _asked(report)
    if asked is not None:
        what = "Nothing to convert" if _finds_nothing(report, asked) else _NOT_DONE.get(asked, "Not quantized")
        rest = "the float model after the exact passes is the output" if last else "the output is a copy of the input"
        return f"{what}: {_why_not(report, asked)}; {rest}."
    slower = next((trial for trial in report.trials if trial.group == ALL and not trial.kept), None)
    if slower is not None:
        ratio = slower.ratio
        times = "" if ratio is None else f" ({ratio.point:.2f}×, {ratio.low:.2f}–{ratio.high:.2f})"
        left = "the model with its opset converted" if last else "a copy of the input"
        return f"Not kept: the result was {slower.reason}{times}; the output is {left}."
    if not last:
        return "Nothing changed: the output is a copy of the input."
    rewrites = sum(result.rewrites for result in report.passes)
    places, passes = counted(rewrites, "place"), counted(len(last), "exact pass")
    return f"Rewritten in {places} by {passes}: {measured(report)}."


def _changed(result: PassResult, report: Report) -> str:
    name = result.name
    places = counted(result.rewrites, "place")
    if name not in _QUANTIZED:
        sparsity = result.facts.get("sparsity")
        share = f", {sparsity:.0%} of the weights there are zero" if isinstance(sparsity, float) else ""
        return f"{'pruned' if name in _PRUNED else name} in {places}{share}"
    if name in {"convert-half", "convert-float"}:
        return f"converted to {result.facts.get('type', _QUANTIZED[name])} in {places}"
    if name == "store-weights":
        return f"weights stored in int8 in {places}, computing in float"
    asked = _asked(report)
    instead = f", not to {_QUANTIZED[asked]} as asked" if asked in _QUANTIZED and asked != name else ""
    return f"quantized to {_format(result)} in {places}{instead}"


def _format(result: PassResult) -> str:
    bits = re.search(r"bits=(\d+)", result.step) if result.name == "quantize-weights" else None
    return _QUANTIZED[result.name] if bits is None else f"weights of {bits[1]} bits"


def _asked(report: Report) -> str | None:
    """The name of the pass that was to change what the model computes; None where none was."""
    first = report.trials[0].group.split("(")[0] if report.trials else None
    if first in _QUANTIZED or first in _PRUNED:
        return first
    named = [result.name for result in report.passes if result.effect != Effect.EXACT.value]
    return named[-1] if named else None


def _finds_nothing(report: Report, asked: str) -> bool:
    """Whether the model holds nothing that the conversion would change."""
    if asked not in {"convert-half", "convert-float"} or _larger(report, asked) is not None:
        return False
    return all(trial.outcome is Outcome.NOTHING_TO_DO for trial in report.trials)


def _larger(report: Report, asked: str) -> str | None:
    """Why a result that was made was refused as larger than the input: see `outcome.why_none`."""
    skipped = (skip.reason for result in report.passes if result.name == asked for skip in result.skipped)
    return next((reason for reason in skipped if reason.startswith(LARGER)), None)


def _why_not(report: Report, asked: str) -> str:
    larger = _larger(report, asked)
    if larger is not None:
        return larger
    outcomes = {trial.outcome for trial in report.trials}
    found = [words for outcome, words in _FAILINGS.items() if outcome in outcomes]
    unjudged = next((trial.reason for trial in report.trials if trial.outcome is Outcome.NO_EVIDENCE), None)
    if unjudged is not None:
        return unjudged
    if found:
        return f"what was tried was {' or '.join(found)}{_best(report)}"
    skipped = [skip.reason for result in report.passes if result.name == asked for skip in result.skipped]
    return nothing_to_do(skipped or [skip.reason for trial in report.trials for skip in trial.skipped])


def _best(report: Report) -> str:
    """How fast the fastest of what was tried is, where nothing is faster than the float model."""
    points = [trial.ratio.point for trial in report.trials if trial.ratio is not None and not trial.kept]
    return f" (best {max(points):.2f}×)" if points else ""


def nothing_to_do(reasons: Sequence[str]) -> str:
    """Why a pass found nothing to do, from the reasons of its refusals."""
    if not reasons:
        return "the model holds nothing of the kind"
    counts = Counter(reasons)
    most, count = counts.most_common(1)[0]
    if len(reasons) == 1:
        return most
    return f"{len(reasons)} places refused, {'all' if len(counts) == 1 else count} of them because: {most}"
