"""Measures of outputs whose values count as they are: errors relative to the size of the output."""

from __future__ import annotations

import math

import numpy as np

from modelopt.measure.metric import Measure, Score, Tally
from modelopt.measure.stats import Interval, Units, mean_interval

_SCALES_APART = 8.0
_OFF = 0.5
_CONSTANT = 1e-9
"""A channel whose variance is below this share of its mean square is constant up to rounding."""


class _Errors(Measure):
    """Sums of squares by sample and channel.

    Args:
        axis: The axis of the channels; None where all values are of one kind.
    """

    def __init__(self, axis: int | None = None) -> None:
        self._axis = axis
        self._noise: list[np.ndarray] = []
        self._signal: list[np.ndarray] = []
        self._sums: list[np.ndarray] = []
        self._counts: list[int] = []

    def update(self, a: np.ndarray, b: np.ndarray) -> None:
        """See `Measure.update`."""
        rows, others = (self._channels(values) for values in (a, b))
        if self._noise and len(self._noise[0]) != rows.shape[0]:
            # The number of channels changes from sample to sample: from here on all values are one group.
            self._axis = None
            for found in (self._noise, self._signal, self._sums):
                found[:] = [each.sum(keepdims=True) for each in found]
            rows, others = rows.reshape(1, -1), others.reshape(1, -1)
        self._noise.append(((rows - others) ** 2).sum(1))
        self._signal.append((rows**2).sum(1))
        self._sums.append(rows.sum(1))
        self._counts.append(rows.shape[1])

    def _channels(self, values: np.ndarray) -> np.ndarray:
        """float64[channels, values of each]."""
        if self._axis is None or values.ndim < -self._axis:
            return values.reshape(1, -1)
        return np.moveaxis(values, self._axis, 0).reshape(values.shape[self._axis], -1)


class RelativeError(_Errors):
    """The root of Σ (reference - candidate)² over Σ reference², over all samples; 0.01 is 40 dB of signal to noise.

    The channels of an output may be of very different size, and the errors of small ones would not show beside large
    ones. Channels whose root mean squares differ by a factor of eight or more form separate groups; the group with the
    largest error gives the score.
    """

    name = "relative-error"
    higher_is_better = False

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self._noise:
            return self.scored(None, 0)
        noise, signal = np.array(self._noise), np.array(self._signal)
        errors = [_error(noise[:, group].sum(1), signal[:, group].sum(1)) for group in _groups(signal.sum(0))]
        worst, interval = max(errors, key=lambda each: each[0])
        n = sum(self._counts) * len(self._noise[0])
        return self.scored(worst, n, interval)


class SampleAgreement(_Errors):
    """The share of samples that are off by less than half of the standard deviation of the values over all samples.

    It finds a few answers that are completely wrong. They hardly change an error over all samples, least of all where
    all values share an offset.
    """

    name = "sample-agreement"

    def score(self) -> Score:
        """See `Measure.score`."""
        if not self._noise:
            return self.scored(None, 0)
        noise, signal, sums = (np.array(each) for each in (self._noise, self._signal, self._sums))
        counts = np.array(self._counts, np.float64)
        variance = signal.sum(0) / counts.sum() - (sums.sum(0) / counts.sum()) ** 2
        varies = variance > _CONSTANT * signal.sum(0) / counts.sum()
        if not varies.any():
            return self.scored(None, 0)
        off = (noise[:, varies] / counts[:, None] / variance[varies]).mean(1)
        tally = Tally()
        tally.add((off < _OFF**2).astype(np.float64), together=False)
        return self.share(tally)


def _groups(power: np.ndarray) -> list[np.ndarray]:
    """Channels of like size: int[k] each. Channels that are zero everywhere join the smallest."""
    groups: list[list[int]] = []
    for channel in np.argsort(-power):
        if not groups or 0 < power[channel] < power[groups[-1][0]] / _SCALES_APART**2:
            groups.append([])
        groups[-1].append(int(channel))
    return [np.array(group) for group in groups]


def _error(noise: np.ndarray, signal: np.ndarray) -> tuple[float, Interval | None]:
    """The relative error from sums of squares, each float64[samples], and its interval."""
    if not noise.any():
        return 0.0, None
    if not signal.any():
        return math.inf, None
    units = Units(noise, signal)
    interval = mean_interval(units)
    if interval is None:
        return math.sqrt(units.mean), None
    return math.sqrt(units.mean), Interval(low=math.sqrt(max(0.0, interval.low)), high=math.sqrt(interval.high))
