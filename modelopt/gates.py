"""The contract: what the user demands of a result, judged on what was measured."""

from __future__ import annotations

from collections.abc import Iterator

from modelopt.errors import InputError
from modelopt.measure.stats import Verdict
from modelopt.measuring import Findings
from modelopt.recipe import Gates, Recipe
from modelopt.report import GateResult


def require(recipe: Recipe) -> None:
    """Refuse a contract that this run could not judge, before it does the work.

    Raises:
        InputError: A gate needs a figure that the recipe does not measure.
    """
    if recipe.gates.min_speedup is not None and recipe.bench is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    if recipe.gates.max_drop is not None and recipe.evaluate is None and not (recipe.verify or recipe.bench):
        raise _no_accuracy()


def _no_accuracy() -> InputError:
    return InputError("--max-drop needs data to measure accuracy on", hint="give labelled data with --eval")


def judge(gates: Gates, before_bytes: int, after_bytes: int, findings: Findings) -> tuple[GateResult, ...]:
    """Judge every gate that was asked for.

    Args:
        gates: The contract.
        before_bytes: The input's size.
        after_bytes: The output's size.
        findings: What was measured.

    Raises:
        InputError: A gate needs a figure that this run does not measure.
    """
    gained = _gain(gates, before_bytes, after_bytes, findings)
    return (*_size(gates, before_bytes, after_bytes), *gained, *_speed(gates, findings), *_accuracy(gates, findings))


def _size(gates: Gates, before_bytes: int, after_bytes: int) -> Iterator[GateResult]:
    if gates.max_size_bytes is not None:
        yield GateResult(
            gate="max-size",
            limit=f"{gates.max_size_bytes:,} bytes",
            found=f"{after_bytes:,} bytes",
            passed=after_bytes <= gates.max_size_bytes,
        )
    if gates.max_size_ratio is not None:
        ratio = after_bytes / before_bytes
        yield GateResult(
            gate="max-size",
            limit=f"{gates.max_size_ratio:.2%} of the input",
            found=f"{ratio:.2%}",
            passed=ratio <= gates.max_size_ratio,
        )


def _gain(gates: Gates, before_bytes: int, after_bytes: int, findings: Findings) -> Iterator[GateResult]:
    if not gates.must_gain or findings.latency is None:
        return
    ratio = findings.latency.ratio
    smaller = ratio.verdict is Verdict.NO_DIFFERENCE and after_bytes < before_bytes
    found = f"{ratio.verdict.value}: {ratio.point:.3f}×"
    yield GateResult(
        gate="must-gain",
        limit="faster, or as fast and smaller",
        found=found if ratio.verdict is Verdict.FASTER else f"{found}, {after_bytes / before_bytes:.1%} of the size",
        passed=ratio.verdict is Verdict.FASTER or smaller,
    )


def _speed(gates: Gates, findings: Findings) -> Iterator[GateResult]:
    if gates.min_speedup is None:
        return
    if findings.unchanged:
        yield GateResult(
            gate="min-speedup",
            limit=f"{gates.min_speedup:.3f}×",
            found="1.000× (nothing changed)",
            passed=gates.min_speedup <= 1,
        )
        return
    if findings.latency is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    ratio = findings.latency.ratio
    yield GateResult(
        gate="min-speedup",
        limit=f"{gates.min_speedup:.3f}×",
        found=f"{ratio.point:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})",
        passed=ratio.point >= gates.min_speedup,
    )


def _accuracy(gates: Gates, findings: Findings) -> Iterator[GateResult]:
    if gates.max_drop is None:
        return
    if findings.unchanged:
        yield GateResult(gate="max-drop", limit=f"{gates.max_drop:.2%}", found="0 (nothing changed)", passed=True)
        return
    if findings.same_outputs:
        yield GateResult(
            gate="max-drop", limit=f"{gates.max_drop:.2%}", found="0 (the outputs are the same)", passed=True
        )
        return
    if findings.accuracy is None:
        raise _no_accuracy()
    drop, reason = findings.drop(), findings.no_evidence()
    found = "" if drop is None else f"{round(drop, 6) + 0.0:.2%} ({findings.drop_of()})"
    passed = drop is not None and drop <= gates.max_drop and reason is None
    found = ", but ".join(filter(None, (found, reason)))
    yield GateResult(gate="max-drop", limit=f"{gates.max_drop:.2%}", found=found, passed=passed)
