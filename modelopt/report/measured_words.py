"""Size, speed and accuracy of a result in a few words each, with what is known of their uncertainty."""

from __future__ import annotations

from collections.abc import Iterator

from modelopt.core.changes import Effect
from modelopt.core.plural import counted
from modelopt.measure.loss import Loss, loss_of
from modelopt.measure.speed import Ratio, Verdict
from modelopt.report import Report


def measured(report: Report) -> str:
    """What was measured of the result beside its input, as far as it was."""
    return ", ".join((_size(report), _speed(report), *_accuracy(report)))


def _size(report: Report) -> str:
    before, after = report.input.size_bytes, report.output.size_bytes
    change = after / before - 1 if before else 0.0
    return f"{abs(change):.1%} {'smaller' if change < 0 else 'larger'}" if abs(change) >= 0.0005 else "the same size"


def _speed(report: Report) -> str:
    if report.not_timed is not None:
        return f"speed {report.not_timed}"
    return "speed not measured" if report.latency is None else times(report.latency.ratio)


def times(ratio: Ratio) -> str:
    """A ratio of latencies as a clause of a sentence."""
    between = f"{ratio.low:.2f}–{ratio.high:.2f}"
    return {
        Verdict.FASTER: f"{ratio.point:.2f}× as fast ({between})",
        Verdict.SLOWER: f"slower: {ratio.point:.2f}× as fast ({between})",
        Verdict.NO_DIFFERENCE: f"no difference in speed ({between}×)",
        Verdict.UNDECIDED: f"speed not decided ({between}×)",
    }[ratio.verdict]


def _accuracy(report: Report) -> Iterator[str]:
    """Nothing of a result of exact passes alone: that was compared with the input."""
    if not any(one.rewrites and one.effect != Effect.EXACT.value for one in report.passes):
        return
    if report.accuracy is None:
        yield "accuracy not measured"
        return
    loss = loss_of(report.accuracy)
    yield "accuracy not known: nothing was compared" if loss is None else lost(loss, _named(report))


def _named(report: Report) -> str:
    tasks = report.accuracy.tasks if report.accuracy is not None else ()
    return tasks[0].candidate.name if tasks else "accuracy"


def lost(loss: Loss, name: str) -> str:
    """A loss of accuracy as a clause of a sentence.

    Args:
        loss: What was lost.
        name: What it is called where it is a share of answers.
    """
    samples = counted(loss.score.n, "sample")
    if loss.score.name == name and loss.score.unit != "share" and not loss.score.higher_is_better:
        return f"{name} {'worse' if loss.lost > 0 else 'better'} by {abs(loss.lost):.2%} ({samples})"
    if loss.score.unit != "share":
        return f"outputs off by {loss.lost:.2%} ({samples})"
    known = loss.low is not None and loss.high is not None
    if abs(loss.lost) < 5e-5:
        low, high = loss.low or 0.0, loss.high or 0.0
        two_sided = f"±{100 * max(high, -low):.1f} points" if low < 0 else f"at most {100 * high:.1f} points lost"
        return f"{name} unchanged ({samples}{f': {two_sided}' if known else ''})"
    sign = -1 if loss.score.higher_is_better else 1
    ends = sorted((sign * (loss.low or 0.0), sign * (loss.high or 0.0)))
    between = f": {_points(ends[0], 1)} to {_points(ends[1], 1)}" if known else ""
    return f"{name} {_points(loss.lost, sign)} points ({samples}{between})"


def _points(share: float | None, sign: int) -> str:
    """A loss as a signed change in points."""
    return f"{100 * sign * (share or 0.0) + 0.0:+.1f}"
