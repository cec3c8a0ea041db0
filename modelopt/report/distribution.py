"""How the samples of several latencies are spread, as outlines on one axis: what a chart needs to draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelopt.measure.latency import BenchResult
from modelopt.report.units import milliseconds

WIDTH, HEIGHT = 640, 160
"""The size of the area that curves are drawn in, in units of the chart."""

_BINS = 80
_TICKS = 5
_TAIL = 0.5
"""The percentage of samples that may be outside the axis at either end."""

_FAR = 4.0
"""Samples may be outside that are farther from the median than so many times the spread of the middle 80 %: those
where another program ran are far away."""


@dataclass(frozen=True)
class Curve:
    """How often each latency of one model was measured.

    Attributes:
        name: The model.
        path: The outline, in the language of SVG's ``d``.
        median: Where the median is on the axis.
        words: The median, and how many samples there are.
    """

    name: str
    path: str
    median: float
    words: str


@dataclass(frozen=True)
class Chart:
    """Curves on one axis.

    Attributes:
        curves: The curves, in order.
        ticks: Places on the axis with their words.
        outside: How many samples are outside the axis.
    """

    curves: tuple[Curve, ...]
    ticks: tuple[tuple[float, str], ...]
    outside: int


def chart(named: Sequence[tuple[str, BenchResult]]) -> Chart | None:
    """The curves of models that were timed together; None where there is nothing to draw."""
    runs = [(name, np.asarray(result.runs_ns, np.float64)) for name, result in named]
    runs = [(name, samples) for name, samples in runs if samples.size]
    if not runs:
        return None
    ends = [_ends(samples) for _, samples in runs]
    low, high = min(first for first, _ in ends), max(last for _, last in ends)
    margin = 0.03 * (high - low) or 0.01 * max(high, 1.0)
    low, high = max(0.0, low - margin), high + margin
    shares = [np.histogram(samples, _BINS, (low, high))[0] / samples.size for _, samples in runs]
    most = max(float(share.max()) for share in shares) or 1.0
    curves = [
        Curve(name, _outline(share / most), _place(float(np.median(samples)), low, high), _words(samples))
        for (name, samples), share in zip(runs, shares, strict=True)
    ]
    ticks = tuple((_place(ns, low, high), milliseconds(ns)) for ns in np.linspace(low, high, _TICKS).tolist())
    outside = sum(int(((samples < low) | (samples > high)).sum()) for _, samples in runs)
    return Chart(tuple(curves), ticks, outside)


def _ends(samples: np.ndarray) -> tuple[float, float]:
    """The axis that shows what matters of the samples of one model."""
    first, tenth, median, ninetieth, last = np.percentile(samples, (_TAIL, 10, 50, 90, 100 - _TAIL)).tolist()
    spread = max(ninetieth - tenth, 0.02 * median)
    return max(first, median - _FAR * spread), min(last, median + _FAR * spread)


def _words(samples: np.ndarray) -> str:
    return f"median {milliseconds(float(np.median(samples)))} of {samples.size:,} runs"


def _place(ns: float, low: float, high: float) -> float:
    return round(min(max((ns - low) / (high - low), 0.0), 1.0) * WIDTH, 1)


def _outline(heights: np.ndarray) -> str:
    """A histogram with bars without gaps, closed along the axis."""
    step = WIDTH / heights.size
    corners = [f"M0 {HEIGHT}"]
    for i, height in enumerate(heights.tolist()):
        corners.append(f"V{HEIGHT * (1 - height):.1f}H{(i + 1) * step:.1f}")
    return "".join((*corners, f"V{HEIGHT}Z"))
