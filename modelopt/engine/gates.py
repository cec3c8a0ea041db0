"""The contract: what the user demands of a result, judged on what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from modelopt.core import targets
from modelopt.core.changes import Effect
from modelopt.core.errors import InputError
from modelopt.engine import settings
from modelopt.engine.findings import Findings, keeps
from modelopt.measure.speed import Verdict
from modelopt.measure.stability import said
from modelopt.recipe.recipe import BenchSpec, Gates, Recipe
from modelopt.report import GateResult, PassResult, Verification

DEFAULT_MAX_DROP = 0.01
"""What accuracy may fall by where the user did not say it and there are data to measure it on."""


def require(recipe: Recipe) -> None:
    """Refuse a contract that this run could not judge, before it does the work.

    Raises:
        InputError: A gate needs a figure that the recipe does not measure, or cannot measure here.
    """
    if recipe.gates.min_speedup is not None:
        _require_timing(recipe)
    if recipe.gates.require_verified and not recipe.verify:
        raise InputError("--require-verified needs the verification", hint="leave out --no-verify")
    if recipe.gates.max_drop is None:
        return
    compared = recipe.evaluate is not None or recipe.verify or recipe.bench is not None
    if not compared or not (settings.has_evidence(recipe) or settings.is_verified(recipe)):
        raise _no_accuracy()
    if "max-abs-error" in settings.metrics_of(recipe):
        raise InputError(
            "max-abs-error is no share that a contract on accuracy (--max-drop) could bound",
            hint="--metric cosine, sqnr or argmax-agreement",
        )


def _require_timing(recipe: Recipe) -> None:
    if recipe.bench is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    reason = settings.why_not_timed(recipe)
    if reason is not None:
        raise InputError(
            "--min-speedup cannot be judged here",
            note=f"speed is {reason}",
            hint="leave it out, or run the command on the machine that the result is for",
        )


def _no_accuracy() -> InputError:
    return InputError(
        "--max-drop needs data to measure accuracy on",
        note="random inputs say nothing about accuracy",
        hint="give labelled data with --eval DATA",
    )


def unchecked(recipe: Recipe, results: Sequence[PassResult], findings: Findings) -> str | None:
    """A note where passes changed the outputs and no data say how much accuracy that costs; else None."""
    changed = any(result.rewrites and result.effect != Effect.EXACT.value for result in results)
    if not changed or (settings.has_evidence(recipe) and findings.accuracy is not None):
        return None
    given = [spec for spec in (recipe.calibration, recipe.evaluate) if spec is not None]
    reason = "random inputs are no evidence" if given else "no --calib or --eval"
    if settings.has_evidence(recipe):
        reason = "no outputs were compared"
    seen = findings.seen()
    measured = "" if seen is None else f" (on random inputs {seen})"
    return f"the {100 * DEFAULT_MAX_DROP:g} % contract was not checked: {reason}{measured}"


def measured_elsewhere(recipe: Recipe, findings: Findings) -> str | None:
    """A note on accuracy that was measured here where the result is for another machine; else None."""
    provider = (recipe.bench or BenchSpec()).provider
    target = settings.target_of(recipe)
    if findings.accuracy is None or targets.why_not_timed(target, provider) is None:
        return None
    there = target.kind.value
    return f"accuracy was measured with the kernels of this machine (provider {provider}), not with those of {there}"


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
    sized = _size(gates, before_bytes, after_bytes)
    return (*sized, *gained, *_not_slower(gates, findings), *_speed(gates, findings), *_accuracy(gates, findings))


def judge_verification(gates: Gates, found: Verification | None) -> tuple[GateResult, ...]:
    """Judge whether what exact passes changed was compared with the original, where that is part of the contract."""
    if not gates.require_verified:
        return ()
    reason = "not verified" if found is None else found.unproved
    if reason is None and found is not None and found.unstable:
        reason = said(found.unstable, range(len(found.unstable)))
    passed = reason is None
    hint = None if found is None else found.hint
    words = reason or "what exact passes changed was compared"
    return (GateResult(gate="require-verified", limit="", found=words, passed=passed, hint=hint),)


def _size(gates: Gates, before_bytes: int, after_bytes: int) -> Iterator[GateResult]:
    if gates.max_size_bytes is not None:
        limit, passed = f"{gates.max_size_bytes:,} bytes", after_bytes <= gates.max_size_bytes
        yield GateResult(gate="max-size", limit=limit, found=f"{after_bytes:,} bytes", passed=passed)
    if gates.max_size_ratio is not None:
        limit, ratio = f"{gates.max_size_ratio:.2%} of the input", after_bytes / before_bytes
        yield GateResult(gate="max-size", limit=limit, found=f"{ratio:.2%}", passed=ratio <= gates.max_size_ratio)


def _gain(gates: Gates, before_bytes: int, after_bytes: int, findings: Findings) -> Iterator[GateResult]:
    if not gates.must_gain or findings.unchanged:
        return
    limit = "faster, or as fast and smaller"
    if findings.latency is None:
        yield _untimed("must-gain", limit, findings)
        return
    ratio, faster = findings.latency.ratio, findings.latency.ratio.verdict is Verdict.FASTER
    found = f"{ratio.verdict.value}: {ratio.point:.3f}×"
    if ratio.verdict is Verdict.UNDECIDED and after_bytes < before_bytes:  # one that is no smaller has no gain to prove
        undecided = f"{found} ({ratio.low:.3f}–{ratio.high:.3f})"
        yield GateResult(gate="must-gain", limit=limit, found=undecided, passed=None, hint="give it more --budget")
        return
    found = found if faster else f"{found}, {after_bytes / before_bytes:.1%} of the size"
    smaller = ratio.verdict is Verdict.NO_DIFFERENCE and after_bytes < before_bytes
    yield GateResult(gate="must-gain", limit=limit, found=found, passed=faster or smaller)


def _not_slower(gates: Gates, findings: Findings) -> Iterator[GateResult]:
    if not gates.not_slower or findings.unchanged:
        return
    limit = "not measurably slower"
    if findings.latency is None:
        yield _untimed("not-slower", limit, findings)
        return
    ratio = findings.latency.ratio
    found = f"{ratio.verdict.value}: {ratio.point:.3f}×"
    yield GateResult(gate="not-slower", limit=limit, found=found, passed=ratio.verdict is not Verdict.SLOWER)


def _untimed(gate: str, limit: str, findings: Findings) -> GateResult:
    """A gate on speed where none was measured: it is not judged."""
    return GateResult(gate=gate, limit=limit, found=findings.not_timed or "not measured", passed=None)


def _speed(gates: Gates, findings: Findings) -> Iterator[GateResult]:
    if gates.min_speedup is None:
        return
    limit = f"{gates.min_speedup:.3f}×"
    if findings.unchanged:
        passed = gates.min_speedup <= 1
        yield GateResult(gate="min-speedup", limit=limit, found="1.000× (nothing changed)", passed=passed)
        return
    if findings.latency is None and findings.not_timed is not None:
        yield GateResult(gate="min-speedup", limit=limit, found=f"speed {findings.not_timed}", passed=False)
        return
    if findings.latency is None:
        raise InputError("--min-speedup needs a benchmark", hint="leave out --no-bench")
    ratio = findings.latency.ratio
    found = f"{ratio.point:.3f}× ({ratio.low:.3f}–{ratio.high:.3f})"
    yield GateResult(gate="min-speedup", limit=limit, found=found, passed=ratio.point >= gates.min_speedup)


def _accuracy(gates: Gates, findings: Findings) -> Iterator[GateResult]:
    if gates.max_drop is None:
        return
    limit = f"{gates.max_drop:.2%}"
    if findings.unchanged or findings.same_outputs:
        why = "nothing changed" if findings.unchanged else "the outputs are the same"
        yield GateResult(gate="max-drop", limit=limit, found=f"0 ({why})", passed=True)
        return
    if findings.accuracy is None and findings.blank is None:
        raise _no_accuracy()
    drop, reason = findings.drop(), findings.no_evidence()
    found = "" if drop is None else f"{round(drop, 6) + 0.0:.2%} ({findings.drop_of()})"
    passed = drop is not None and keeps(drop, gates.max_drop) and reason is None
    yield GateResult(
        gate="max-drop",
        limit=limit,
        found=", but ".join(filter(None, (found, reason))),
        passed=passed,
        hint=None if reason is None else _better_data(findings),
    )


def _better_data(findings: Findings) -> str:
    """What the user may do where the data say nothing about accuracy."""
    if findings.accuracy is None or findings.drop() is None:
        return "give inputs on which the model has something to answer: --eval DATA"
    if findings.guesses:
        guessed = ",".join(findings.guesses)
        return f"say how the model's images were prepared, which was guessed: --preprocess {guessed}"
    return "check that inputs and labels are those of the model: --eval DATA, --labels FILE, --preprocess"
