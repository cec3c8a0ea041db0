"""What must hold of every call of the command, whatever the model: checks that say what is wrong, in a line each.

Claims are held against the report as data and against what onnxruntime answers when this campaign asks it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.campaigns.command_runs import REPORT, RESULT, Outcome

Check = Callable[[Outcome], Iterator[str]]

DOCUMENTED = range(6)
"""Exit codes of a call that nobody interrupted and that met no bug; README lists them."""

_ERROR, _PARTS = "modelopt: error: ", ("note: ", "hint: ")
_VERIFIED = re.compile(r"^Verified\b|bit for bit|^outputs\b.*\bthe same\b|the outputs are the same", re.MULTILINE)
_SPEED = re.compile(r"× as fast|: (faster|slower)\b|\bis slower\b|\bis faster\b")
_CRASH = re.compile(r"SIG(SEGV|ABRT|BUS|FPE|ILL)|Segmentation fault|core dumped")
_STRANGE = re.compile(
    r"\.cc:\d+|\.h:\d+|onnxruntime::|onnxruntime/core|0x[0-9a-f]{6}|/tmp/|modelopt-[a-z0-9_]{6,}|\bNone\b|\bnan\b"
    r"|[A-Z][a-z]+Error\b|<class |object at|\{\}|%s|\s\(\)|: $"
)


_INTEGER_CALLS = {"static", "static --no-search", "dynamic", "storage", "weights"}
_INTEGER = re.compile(r"QuantizeLinear|Integer|^QLinear|^QAttention|NBits|DynamicQuantize|GatherBlockQuantized")
_UNCHECKED = re.compile(r"not checked|not measured|not compared|was not|random")


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


# Claims


def claims_verified(outcome: Outcome) -> bool:
    """Whether the call says that the outputs are those of the original."""
    return _VERIFIED.search(outcome.err) is not None


def verified(outcome: Outcome) -> Iterator[str]:
    """Outputs are called verified only where feeds were run and elements were compared."""
    if not claims_verified(outcome) or outcome.report is None or _unchanged(outcome):
        return
    if not compared(outcome.report):
        yield f"the outputs are called the same, but the report counts nothing that was compared: {_said(outcome)}"
    elif outcome.call.has_data and _empty_on_data(outcome) and not _counts_elements(outcome.report):
        yield f"the outputs are called the same, but on the data the model gives no element: {_said(outcome)}"


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
        if gate.get("passed") is not True or _unchanged(outcome) or gate.get("gate") == "max-size":
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
    scores = [accuracy.get("reference"), accuracy.get("candidate"), *(accuracy.get("fidelity") or ())]
    for score in scores:
        if isinstance(score, dict) and score.get("value") is not None and not score.get("n"):
            yield f"{score.get('name')} is {score['value']}, but over nothing"
        elif (
            isinstance(score, dict)
            and score.get("value") is not None
            and outcome.call.has_data
            and _empty_on_data(outcome)
        ):
            yield f"{score.get('name')} is {score['value']:g}, but on the data the model gives no element"


def same_as_itself(outcome: Outcome) -> Iterator[str]:
    """A model compared with itself differs in nothing."""
    if not outcome.call.column.startswith("compare self") or not isinstance(outcome.report, dict):
        return
    for score in (outcome.report.get("accuracy") or {}).get("fidelity") or ():
        steady = outcome.original is not None and not outcome.original.problem
        if steady and score.get("name") == "max-abs-error" and score.get("value"):
            yield f"the model differs from itself: max-abs-error {score['value']:g}"


def _said(outcome: Outcome) -> str:
    return next(line.strip() for line in outcome.err.splitlines() if _VERIFIED.search(line))[:150]


def _unchanged(outcome: Outcome) -> bool:
    return outcome.copied


def compared(report: Any) -> bool:
    """Whether a report says that feeds were run and that elements were compared, whatever it calls them."""
    found = report.get("verification") if isinstance(report, dict) else None
    if not isinstance(found, dict):
        return False
    counts = {key: value for key, value in _numbers(found) if isinstance(value, int) and not isinstance(value, bool)}
    feeds = [value for key, value in counts.items() if re.search("sample|feed|real|constructed", key)]
    elements = [value for key, value in counts.items() if "element" in key]
    return any(feeds) and (not elements or any(elements))


def _counts_elements(report: Any) -> bool:
    return any("element" in key for key, _value in _numbers(report.get("verification")))


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
        return any(isinstance(score, dict) and score.get("n") for score in scores)
    return compared(outcome.report)


def _empty_on_data(outcome: Outcome) -> bool:
    answer = outcome.original
    return answer is not None and bool(answer.data_feeds) and not answer.data_elements


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
    for line in outcome.err.splitlines():
        text = line
        for part in sorted(own, key=len, reverse=True):
            text = text.replace(part, "") if "/" in part else text
        found = _STRANGE.search(text)
        if found:
            yield f"'{found[0].strip()}' in: {line.strip()[:300]}"
    lines = error_lines(outcome)
    if lines and len(lines) == 1:
        yield f"neither note nor hint: {lines[0]}"


def no_integers(outcome: Outcome) -> Iterator[str]:
    """What was to be quantized was not: the first line must say so."""
    asked = outcome.call.column.removesuffix(" --json") in _INTEGER_CALLS
    if asked and outcome.code == 0 and not any(_INTEGER.search(name) for name in outcome.operators):
        first = next((line.strip() for line in outcome.err.splitlines() if line.strip()), "nothing")
        if not outcome.call.as_json:
            yield f"the result holds no integer operator; the first line is: {first}"


def lossy_without_data(outcome: Outcome) -> Iterator[str]:
    """What may cost accuracy and was compared on no data must say that the contract was not checked."""
    if outcome.code != 0 or outcome.call.has_data or outcome.call.as_json or not isinstance(outcome.report, dict):
        return
    passes = outcome.report.get("passes") or ()
    lossy = [each.get("step") for each in passes if each.get("effect") != "exact" and each.get("rewrites")]
    if lossy and not _UNCHECKED.search(outcome.err):
        yield f"{lossy[0]} without data, and no line says that accuracy was not checked on any"


def faster_than_itself(outcome: Outcome) -> Iterator[str]:
    """A model that is compared with itself has no other speed; an interval of 95 % is wrong in one of twenty."""
    if outcome.call.column.startswith("compare self"):
        text = outcome.err + outcome.out
        found = re.search(r"(: faster|: slower|\"(faster|slower)\")", text)
        if found:
            yield f"a model is called {found[0].strip(': ')} than itself"


REMARKS: tuple[Check, ...] = (poor_words, no_integers, lossy_without_data, faster_than_itself)
"""What one of these finds is listed for a person to read, and fails nothing."""
