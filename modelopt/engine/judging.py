"""Whether a result honours the contract. A gate is judged on the interval of what was measured, never on its point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from modelopt.core import quantities
from modelopt.core.errors import InputError
from modelopt.engine import accuracy_gate, evidence
from modelopt.engine.findings import Findings
from modelopt.engine.settings import AS_FAST
from modelopt.measure.latency import BenchResult
from modelopt.measure.process_figures import Figure, over_processes
from modelopt.measure.speed import Ratio, Verdict
from modelopt.measure.stability import said
from modelopt.recipe.recipe import Gates, OnInconclusive
from modelopt.report import GateOutcome, GateResult, Latency, Verification
from modelopt.report.units import milliseconds, size

_PASSED, _FAILED = GateOutcome.PASSED, GateOutcome.FAILED


def judge(contract: Gates, before_bytes: int, after_bytes: int, findings: Findings) -> tuple[GateResult, ...]:
    """Judge every gate that was asked for.

    Args:
        contract: The gates.
        before_bytes: The input's size.
        after_bytes: The output's size.
        findings: What was measured.

    Raises:
        InputError: A gate needs a figure that this run does not measure.
    """
    if findings.not_measured is not None:
        others = [
            _gate(name, "", findings.not_measured, GateOutcome.NOT_JUDGED)
            for name in ("must-gain", "not-slower", "min-speedup", "max-latency", "max-memory", "max-load", "max-drop")
            if asks(contract, name)
        ]
        return with_consequences(contract, (*_size(contract, before_bytes, after_bytes), *others))
    judged = (
        *_size(contract, before_bytes, after_bytes),
        *_gain(contract, before_bytes, after_bytes, findings),
        *_not_slower(contract, findings),
        *_speed(contract, findings),
        *_figures(contract, findings),
    )
    found = with_consequences(contract, judged)
    if contract.max_drop is None:
        return found
    accuracy, within = accuracy_gate.judged(contract.max_drop, findings)
    return (*found, _with_consequence(contract, accuracy, passes_if_open=within))


def judge_verification(contract: Gates, found: Verification | None) -> tuple[GateResult, ...]:
    """Judge whether what exact passes changed was compared with the original, where that is part of the contract."""
    if not contract.require_verified:
        return ()
    reason = "not verified" if found is None else found.unproved
    if reason is None and found is not None and found.unstable:
        reason = said(found.unstable, range(len(found.unstable)))
    hint = None if found is None else found.hint
    words = reason or "what exact passes changed was compared"
    outcome = _PASSED if reason is None else _FAILED
    return (_with_consequence(contract, _gate("require-verified", "", words, outcome, hint)),)


def is_too_large(contract: Gates, before_bytes: int, after_bytes: int) -> bool:
    """Whether a result breaks the contract by its size, whatever is measured of it."""
    return any(gate.outcome is _FAILED for gate in _size(contract, before_bytes, after_bytes))


def asks(contract: Gates, name: str) -> bool:
    """Whether the contract holds a gate, by the name of its flag."""
    fields = [each for each in msgspec.structs.fields(Gates) if each.encode_name.startswith(name)]
    return any(getattr(contract, each.name) not in {None, False} for each in fields)


def figure_gates(contract: Gates, result: BenchResult) -> Iterator[GateResult]:
    """Judge latency, peak memory and the time to load of one model, as far as the contract asks."""
    latency, memory, load = contract.max_latency_ns, contract.max_memory_bytes, contract.max_load_ns
    if latency is not None:
        yield _below("max-latency", latency, quantities.time_text(latency), _timed(result.latency), result)
    if memory is not None:
        found = over_processes(result.peaks_bytes)
        yield _below("max-memory", memory, quantities.bytes_text(memory), _Shown(found, size), result)
    if load is not None:
        yield _below("max-load", load, quantities.time_text(load), _timed(over_processes(result.loads_ns)), result)


def speedup_gate(contract: Gates, latency: Latency) -> GateResult | None:
    """Judge a ratio of latencies; None where the contract does not ask."""
    limit, ratio = contract.min_speedup, latency.ratio
    if limit is None:
        return None
    found = f"{ratio.point:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})"
    if ratio.low >= limit:
        return _gate("min-speedup", f"{limit:.3f}×", found, _PASSED)
    if ratio.high < limit:
        return _gate("min-speedup", f"{limit:.3f}×", found, _FAILED)
    hint = _more_time(ratio, limit, latency.after.wall_ns)
    return _gate("min-speedup", f"{limit:.3f}×", found, GateOutcome.INCONCLUSIVE, hint)


def with_consequences(contract: Gates, judged: Iterable[GateResult]) -> tuple[GateResult, ...]:
    """The gates, each with what follows from it for the command."""
    return tuple(_with_consequence(contract, gate) for gate in judged)


def _with_consequence(contract: Gates, gate: GateResult, *, passes_if_open: bool = False) -> GateResult:
    """The gate with what follows from it.

    Args:
        contract: Says whether an inconclusive gate stops the result.
        gate: The gate.
        passes_if_open: The same where the contract does not say it.
    """
    asked = contract.on_inconclusive
    passes = passes_if_open if asked is None else asked is OnInconclusive.PASS
    stops = gate.outcome is _FAILED or (gate.outcome is GateOutcome.INCONCLUSIVE and not passes)
    return msgspec.structs.replace(gate, stops=stops)


def _gate(name: str, limit: str, found: str, outcome: GateOutcome, hint: str | None = None) -> GateResult:
    return GateResult(gate=name, limit=limit, found=found, outcome=outcome, hint=hint)


def _size(contract: Gates, before_bytes: int, after_bytes: int) -> Iterator[GateResult]:
    if contract.max_size_bytes is not None:
        outcome = _PASSED if after_bytes <= contract.max_size_bytes else _FAILED
        yield _gate("max-size", f"{contract.max_size_bytes:,} bytes", f"{after_bytes:,} bytes", outcome)
    if contract.max_size_ratio is not None:
        ratio = after_bytes / before_bytes
        outcome = _PASSED if ratio <= contract.max_size_ratio else _FAILED
        yield _gate("max-size", f"{contract.max_size_ratio:.2%} of the input", f"{ratio:.2%}", outcome)


# Speed


def is_as_fast(ratio: Ratio) -> bool:
    """Whether a model is shown to be as fast as another: a test of non-inferiority."""
    return ratio.low >= AS_FAST


def _gain(contract: Gates, before_bytes: int, after_bytes: int, findings: Findings) -> Iterator[GateResult]:
    if not contract.must_gain or findings.unchanged:
        return
    limit = "faster, or as fast and smaller"
    if findings.latency is None:
        yield _untimed("must-gain", limit, findings)
        return
    ratio = findings.latency.ratio
    smaller = after_bytes < before_bytes
    if ratio.verdict is Verdict.FASTER or (smaller and is_as_fast(ratio)):
        yield _gate("must-gain", limit, _said(ratio), _PASSED)
        return
    found = f"{_said(ratio)}, {after_bytes / before_bytes:.1%} of the size"
    yield _gate("must-gain", limit, found, _FAILED, _more_budget(ratio) if smaller else None)


def _not_slower(contract: Gates, findings: Findings) -> Iterator[GateResult]:
    if not contract.not_slower or findings.unchanged:
        return
    limit = f"at least {AS_FAST:g}×"
    if findings.latency is None:
        yield _untimed("not-slower", limit, findings)
        return
    ratio = findings.latency.ratio
    passed = is_as_fast(ratio)
    yield _gate(
        "not-slower", limit, _said(ratio), _PASSED if passed else _FAILED, None if passed else _more_budget(ratio)
    )


def _said(ratio: Ratio) -> str:
    return f"{ratio.verdict.value}: {ratio.point:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})"


def _more_budget(ratio: Ratio) -> str | None:
    """What may show that a result is as fast, where it was not shown to be slower."""
    return None if ratio.verdict is Verdict.SLOWER else "more time may show that it is as fast: --budget SECONDS"


def _untimed(gate: str, limit: str, findings: Findings) -> GateResult:
    """A gate on speed where none was measured: it is not judged."""
    return _gate(gate, limit, findings.not_timed or "not measured", GateOutcome.NOT_JUDGED)


def _speed(contract: Gates, findings: Findings) -> Iterator[GateResult]:
    if contract.min_speedup is None:
        return
    limit = f"{contract.min_speedup:.3f}×"
    if findings.unchanged:
        outcome = _PASSED if contract.min_speedup <= 1 else _FAILED
        yield _gate("min-speedup", limit, "1.000× (nothing changed)", outcome)
        return
    if findings.latency is None and findings.not_timed is not None:
        yield _gate("min-speedup", limit, f"speed {findings.not_timed}", _FAILED)
        return
    if findings.latency is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    judged = speedup_gate(contract, findings.latency)
    if judged is not None:
        yield judged


# Figures of the result alone


class _Shown(NamedTuple):
    """A figure, and how its numbers are written."""

    figure: Figure
    text: Callable[[float], str]


def _timed(figure: Figure) -> _Shown:
    return _Shown(figure, milliseconds)


def _figures(contract: Gates, findings: Findings) -> Iterator[GateResult]:
    asked = {
        "max-latency": contract.max_latency_ns,
        "max-memory": contract.max_memory_bytes,
        "max-load": contract.max_load_ns,
    }
    if all(limit is None for limit in asked.values()):
        return
    if findings.latency is not None:
        yield from figure_gates(contract, findings.latency.after)
        return
    reason = findings.not_timed or "not measured"
    for name, limit in asked.items():
        if limit is not None:
            text = quantities.bytes_text(limit) if name == "max-memory" else quantities.time_text(limit)
            yield _gate(name, text, reason, _FAILED)


def _below(name: str, limit: float, limit_text: str, shown: _Shown, result: BenchResult) -> GateResult:
    """Judge a figure that shall be no larger than a limit."""
    point, low, high = shown.figure.point, shown.figure.low, shown.figure.high
    if low is None or high is None:
        hint = "one process shows no spread: allow more with --processes and --budget"
        return _gate(name, limit_text, shown.text(point), GateOutcome.INCONCLUSIVE, hint)
    found = f"{shown.text(point)} ({shown.text(low)} to {shown.text(high)})"
    if high <= limit:
        return _gate(name, limit_text, found, _PASSED)
    if low > limit:
        return _gate(name, limit_text, found, _FAILED)
    seconds = evidence.seconds_needed(point, low, high, limit, result.wall_ns / 1e9)
    return _gate(name, limit_text, found, GateOutcome.INCONCLUSIVE, _budget_hint(seconds))


def _more_time(ratio: Ratio, limit: float, wall_ns: int) -> str:
    return _budget_hint(evidence.seconds_needed(ratio.point, ratio.low, ratio.high, limit, wall_ns / 1e9))


def _budget_hint(seconds: float | None) -> str:
    if seconds is None:
        return "the figure is at its limit: more time will hardly decide"
    return f"about {seconds:.0f} s of timing would decide: --budget {seconds:.0f}"
