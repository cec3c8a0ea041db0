"""Sizes, times and changes in words."""

from __future__ import annotations

from modelopt.measure.speed import Ratio


def size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def fell(drop: float | None) -> str:
    """A loss of accuracy as a signed change in percent; empty where it is not known."""
    return "" if drop is None else f"{-drop + 0.0:+.2%}"


def times_as_fast(ratio: Ratio) -> str:
    """A ratio of latencies with its interval and its verdict."""
    return f"{ratio.point:.2f}× as fast ({ratio.low:.2f}–{ratio.high:.2f}): {ratio.verdict.value}"


def milliseconds(ns: float) -> str:
    """Nanoseconds as milliseconds, or microseconds where they are few."""
    return f"{ns / 1e6:.2f} ms" if ns >= 1e5 else f"{ns / 1e3:.1f} µs"
