"""What must hold of every call of the command, whatever the model: checks that say what is wrong, in a line each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from tests.campaigns.command_claims import (
    accuracy_measured,
    gates_measured,
    kept_is_there,
    same_answers,
    same_as_itself,
    speed_measured,
    verified,
)
from tests.campaigns.command_runs import REPORT, RESULT, Outcome

Check = Callable[[Outcome], Iterator[str]]

DOCUMENTED = range(6)
"""Exit codes of a call that nobody interrupted and that met no bug; README lists them."""

_ERROR, _PARTS = "modelopt: error: ", ("note: ", "hint: ")
_CRASH = re.compile(r"SIG(SEGV|ABRT|BUS|FPE|ILL)|Segmentation fault|core dumped")
_STRANGE = re.compile(
    r"\.cc:\d+|\.h:\d+|onnxruntime::|onnxruntime/core|0x[0-9a-f]{6}|/tmp/|modelopt-[a-z0-9_]{6,}|\bNone\b|\bnan\b"
    r"|[A-Z][a-z]+Error\b|<class |object at|\{\}|%s|\s\(\)|: $"
)
_INTEGER_CALLS = {"static", "static --no-search", "dynamic", "storage", "weights"}
_INTEGER = re.compile(r"QuantizeLinear|Integer|^QLinear|^QAttention|NBits|DynamicQuantize|GatherBlockQuantized")
_AS_FAST = 0.95
_IN_FLOAT = re.compile(r"[Nn]ot quantized|in(to)? integers|in float|float model|input itself")
_UNCHECKED = re.compile(r"not checked|not measured|not compared")


def error_lines(outcome: Outcome) -> list[str]:
    """The error with its note and its hint; empty where there is none."""
    lines = outcome.err.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith(_ERROR)), len(lines))
    return lines[start:]


# What ended, and how


def ends(outcome: Outcome) -> Iterator[str]:
    """The call ends by itself."""
    if outcome.code is None:
        yield f"no answer in {outcome.seconds:.0f} s"


def no_traceback(outcome: Outcome) -> Iterator[str]:
    """No traceback is shown."""
    if "Traceback" in outcome.err or "Traceback" in outcome.out:
        last = next(
            (line for line in reversed(outcome.err.splitlines()) if re.match(r"[\w.]+(Error|Exception)", line)), ""
        )
        yield f"a traceback: {last}"


def documented_code(outcome: Outcome) -> Iterator[str]:
    """The exit code is a documented one, and no bug of ours."""
    if outcome.code is not None and outcome.code not in DOCUMENTED:
        said = (error_lines(outcome) or [""])[0].removeprefix(_ERROR)
        yield f"ended by signal {-outcome.code}" if outcome.code < 0 else f"exit code {outcome.code}: {said}"


def error_form(outcome: Outcome) -> Iterator[str]:
    """An error is a fact, at most one note and one hint, and the last that is said; success has none."""
    if outcome.code is None:
        return
    lines = error_lines(outcome)
    if outcome.code == 0:
        if lines:
            yield f"exit code 0 with an error: {lines[0]}"
        return
    kinds = [next((part for part in (_ERROR, *_PARTS) if line.startswith(part)), "") for line in lines]
    if kinds not in ([_ERROR, *rest] for rest in ([], ["note: "], ["hint: "], list(_PARTS))):
        yield f"exit code {outcome.code} without fact, note, hint: {' / '.join(lines)[:200] or 'no error line'}"


def nothing_written(outcome: Outcome) -> Iterator[str]:
    """A call that fails leaves no file, and none leaves litter."""
    if outcome.code != 0 and outcome.created - {REPORT}:
        yield f"exit code {outcome.code}, and yet it left {', '.join(sorted(outcome.created - {REPORT}))}"
    strange = {name for name in outcome.created if not name.startswith((RESULT, REPORT))}
    if strange | outcome.litter:
        yield f"it left {', '.join(sorted(strange | outcome.litter)[:4])} behind"


def output_loads(outcome: Outcome) -> Iterator[str]:
    """On success the model is there, and onnxruntime opens it where it opens the original."""
    if outcome.code != 0 or not outcome.call.makes_model:
        return
    if outcome.result is None:
        yield "exit code 0 without an output"
    elif outcome.answer is not None and not outcome.answer.loads and _original_loads(outcome):
        what = "onnxruntime crashes on the result" if outcome.answer.crashed else "onnxruntime refuses the result"
        yield f"{what}: {outcome.answer.problem}"


def _original_loads(outcome: Outcome) -> bool:
    return outcome.original is not None and outcome.original.loads


def sizes(outcome: Outcome) -> Iterator[str]:
    """The size in the report is the size on the disk, and what no pass rewrote is a copy of the input."""
    if outcome.result is None or not isinstance(outcome.report, dict):
        return
    told = (outcome.report.get("output") or {}).get("size_bytes")
    if told != outcome.size_bytes:
        yield f"the report says {told} bytes, there are {outcome.size_bytes}"
    if not outcome.copied and not any(each.get("rewrites") for each in outcome.report.get("passes") or ()):
        yield "no pass rewrote anything, and yet the result is not the input"


def json_alone(outcome: Outcome) -> Iterator[str]:
    """With ``--json`` stdout holds one document and nothing else, or nothing where the call fails."""
    if not outcome.call.as_json:
        return
    if outcome.report is None and (outcome.code == 0 or outcome.out.strip()):
        yield f"--json did not print one JSON document: {outcome.out[:100]!r}"


CHECKS: tuple[Check, ...] = (
    ends,
    no_traceback,
    documented_code,
    error_form,
    nothing_written,
    output_loads,
    sizes,
    json_alone,
    verified,
    same_answers,
    gates_measured,
    speed_measured,
    accuracy_measured,
    same_as_itself,
    kept_is_there,
)
"""Each failure of one of these ends the campaign with exit code 1."""


# What a person should read


def crashed(outcome: Outcome) -> Iterator[str]:
    """onnxruntime or onnx ended a child process."""
    for line in outcome.err.splitlines():
        if _CRASH.search(line):
            yield line.strip()[:250]


def poor_words(outcome: Outcome) -> Iterator[str]:
    """Text that a user cannot use: names of temporary files, paths in C++, Python's words; a bare error."""
    own = (str(outcome.subject.model), *outcome.command)
    for line in () if "Traceback" in outcome.err else outcome.err.splitlines():
        text = line
        for part in sorted(own, key=len, reverse=True):
            text = text.replace(part, "FILE") if "/" in part else text
        found = _STRANGE.search(text)
        if found:
            yield f"'{found[0].strip()}' in: {line.strip()[:300]}"
    lines = error_lines(outcome)
    if lines and len(lines) == 1:
        yield f"neither note nor hint: {lines[0]}"


def no_integers(outcome: Outcome) -> Iterator[str]:
    """What was to be quantized was not: the first line must say so."""
    asked = outcome.call.column in _INTEGER_CALLS  # without --json, which says no line
    if asked and outcome.code == 0 and not any(_INTEGER.search(name) for name in outcome.operators):
        first = next((line.strip() for line in outcome.err.splitlines() if line.strip()), "nothing")
        if not _IN_FLOAT.search(first):
            yield f"the result holds no integer operator; the first line is: {first}"


def lossy_without_data(outcome: Outcome) -> Iterator[str]:
    """What may cost accuracy and was compared on no data must say that the contract was not checked."""
    if outcome.code != 0 or outcome.call.has_data or outcome.call.as_json or not isinstance(outcome.report, dict):
        return
    passes = outcome.report.get("passes") or ()
    lossy = [each.get("step") for each in passes if each.get("effect") != "exact" and each.get("rewrites")]
    if lossy and not _UNCHECKED.search(outcome.err):
        yield f"{lossy[0]} without data, and no line says that accuracy was not checked on any"


def notes_about_nothing(outcome: Outcome) -> Iterator[str]:
    """A note on calibration or accuracy stands beside a result that nothing was calibrated for or measured of."""
    report = outcome.report if isinstance(outcome.report, dict) else {}
    idle = outcome.copied and not report.get("accuracy") and not report.get("trials")
    for line in outcome.err.splitlines() if idle else ():
        if line.startswith("note: ") and re.search(r"\baccuracy is|\bcalibrated on|\bheld out", line):
            yield f"the result is a copy, and yet: {line}"


def gain_within_noise(outcome: Outcome) -> Iterator[str]:
    """A gate passes on the bound of its interval: as fast is not what may well be slower."""
    report = outcome.report if isinstance(outcome.report, dict) else {}
    ratio = (report.get("latency") or {}).get("ratio") or {}
    for gate in report.get("gates") or ():
        if gate.get("gate") == "must-gain" and gate.get("outcome") == "passed" and ratio.get("low", 1.0) < _AS_FAST:
            yield f"must-gain is ok at {ratio['point']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})"


def faster_than_itself(outcome: Outcome) -> Iterator[str]:
    """A model that is compared with itself has no other speed; an interval of 95 % is wrong in one of twenty."""
    if outcome.call.column.startswith("compare self"):
        text = outcome.err + outcome.out
        found = re.search(r"(: faster|: slower|\"(faster|slower)\")", text)
        if found:
            yield f"a model is called {found[0].strip(': ')} than itself"


REMARKS: tuple[Check, ...] = (
    poor_words,
    no_integers,
    lossy_without_data,
    notes_about_nothing,
    gain_within_noise,
    faster_than_itself,
)
"""What one of these finds is listed for a person to read, and fails nothing."""
