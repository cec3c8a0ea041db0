"""Whether a result honours the contract. A gate is judged on the interval of what was measured, never on its point."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from modelopt.core.errors import InputError
from modelopt.engine import accuracy_gate, evidence, figure_gates
from modelopt.engine.bounds import at_least, at_most
from modelopt.engine.figure_gates import FigureGate
from modelopt.engine.findings import Findings
from modelopt.engine.settings import AS_FAST
from modelopt.measure.latency import BenchResult
from modelopt.measure.speed import Ratio, Verdict
from modelopt.measure.stability import said
from modelopt.recipe.recipe import Gates, OnInconclusive
from modelopt.report import GateOutcome, GateResult, Verification

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
        others = [_gate(name, "", findings.not_measured, GateOutcome.NOT_JUDGED) for name in _measured_gates(contract)]
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


def _measured_gates(contract: Gates) -> list[str]:
    """The names of the gates that were asked for and that need a measurement."""
    asked = {
        "must-gain": contract.must_gain,
        "not-slower": contract.not_slower,
        "min-speedup": contract.min_speedup is not None,
        **{gate.name: True for gate, _ in figure_gates.asked(contract)},
        "max-drop": contract.max_drop is not None,
    }
    return [name for name, is_asked in asked.items() if is_asked]


def judge_figures(contract: Gates, result: BenchResult) -> Iterator[GateResult]:
    """Judge latency, peak memory and the time to load of one model, as far as the contract asks."""
    return (judge_figure(gate, limit, result) for gate, limit in figure_gates.asked(contract))


def judge_figure(gate: FigureGate, limit: int, result: BenchResult) -> GateResult:
    """Judge a figure that shall be no larger than a limit."""
    figure = gate.measured(result)
    point, low, high = figure.point, figure.low, figure.high
    limit_text, outcome = gate.limit_text(limit), at_most(low, high, limit)
    if low is None or high is None:
        hint = "one process shows no spread: allow more with --processes and --budget"
        return _gate(gate.name, limit_text, gate.text(point), outcome, hint)
    found = f"{gate.text(point)} ({gate.text(low)} to {gate.text(high)})"
    is_open = outcome is GateOutcome.INCONCLUSIVE
    return _gate(
        gate.name, limit_text, found, outcome, _more_time((point, low, high), limit, result) if is_open else None
    )


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
    least = contract.min_speedup
    if least is None:
        return
    limit = f"{least:.3f}×"
    if findings.unchanged:
        outcome = _PASSED if least <= 1 else _FAILED
        yield _gate("min-speedup", limit, "1.000× (nothing changed)", outcome)
        return
    if findings.latency is None and findings.not_timed is not None:
        yield _gate("min-speedup", limit, f"speed {findings.not_timed}", _FAILED)
        return
    if findings.latency is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    ratio = findings.latency.ratio
    found, outcome = f"{ratio.point:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})", at_least(ratio.low, ratio.high, least)
    hint = None
    if outcome is GateOutcome.INCONCLUSIVE:
        hint = _more_time((ratio.point, ratio.low, ratio.high), least, findings.latency.after)
    yield _gate("min-speedup", limit, found, outcome, hint)


def _figures(contract: Gates, findings: Findings) -> Iterator[GateResult]:
    for gate, limit in figure_gates.asked(contract):
        if findings.latency is not None:
            yield judge_figure(gate, limit, findings.latency.after)
        else:
            yield _gate(gate.name, gate.limit_text(limit), findings.not_timed or "not measured", _FAILED)


def _more_time(figure: tuple[float, float, float], limit: float, result: BenchResult) -> str:
    """What would decide on which side of a limit a figure lies, from its point and the ends of its interval."""
    seconds = evidence.seconds_needed(*figure, limit, result.wall_ns / 1e9)
    return (
        evidence.AT_LIMIT
        if seconds is None
        else f"about {seconds:.0f} s of timing would decide: --budget {seconds:.0f}"
    )
