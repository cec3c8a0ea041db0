"""How much each channel of a group matters: one number a channel, the smaller the sooner it goes.

==============  ====  ==============================================================================================
name            data  what it measures
==============  ====  ==============================================================================================
l1              no    the L1 norm of the filters that make it (Li et al. 2017, arXiv:1608.08710)
l2              no    their L2 norm (He et al. 2018, arXiv:1808.06866)
random          no    nothing: the control, from the seed
wanda           yes   the weights that read it, times the norm of what they read (Sun et al. 2024, arXiv:2306.11695),
                      summed over the channel
stability       yes   the mean rank by that measure over single samples: what matters in few samples only counts less
                      (as in stability selection, Meinshausen and Buehlmann 2010, arXiv:0809.2932)
second-order    yes   the error of the layers that read it, after the other channels have taken over what they can
                      (Hassibi and Stork 1993, "Optimal Brain Surgeon"; for blocks Kurtic et al. 2023, arXiv:2302.04089)
==============  ====  ==============================================================================================

Measures of several layers are added after each was divided by its mean, or by the energy of the layer's output, so that
the scale of no layer decides.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelopt import graph
from modelopt.pruning.channel_groups import ChannelGroup

NAMES = ("l2", "l1", "wanda", "second-order", "stability", "random")
"""What the option takes."""

NEED_DATA = frozenset({"wanda", "second-order", "stability"})
"""Those that run the model on calibration data."""


class Importance(Protocol):
    """A measure of channels."""

    def scores(self, group: ChannelGroup) -> np.ndarray:
        """One number for each channel: float64, shape (width,), finite; the smaller, the less it matters."""
        ...


@dataclass(frozen=True)
class FilterNorm:
    """The norm of the filters that make a channel.

    Attributes:
        order: 1 or 2.
    """

    order: int

    def scores(self, group: ChannelGroup) -> np.ndarray:
        """See `Importance.scores`."""
        total = np.zeros(group.width)
        for producer in group.producers:
            array, place = graph.constant(producer.weight), group.by_place[producer.weight, producer.weight_axis]
            if array is None:
                continue
            rows = np.moveaxis(np.abs(array.astype(np.float64)), producer.weight_axis, 0).reshape(
                array.shape[producer.weight_axis], -1
            )
            sums = (rows**self.order).sum(1)
            norms = np.array([sums[positions].sum() for positions in place.positions]) ** (1 / self.order)
            total += norms / (norms.mean() or 1.0)
        return np.nan_to_num(total)


@dataclass(frozen=True)
class RandomOrder:
    """Any order: the control.

    Attributes:
        seed: Decides, together with the name of the group.
    """

    seed: int

    def scores(self, group: ChannelGroup) -> np.ndarray:
        """See `Importance.scores`."""
        return np.random.default_rng((self.seed, zlib.crc32(group.name.encode()))).random(group.width)


@dataclass(frozen=True)
class Measured:
    """Scores that were computed ahead, by the names of the groups."""

    by_group: dict[str, np.ndarray]

    def scores(self, group: ChannelGroup) -> np.ndarray:
        """See `Importance.scores`."""
        return self.by_group[group.name]


def weakest(scores: Sequence[float] | np.ndarray, count: int) -> np.ndarray:
    """Whether each is one of the `count` smallest; of equal ones the first goes first. Bool, same shape."""
    gone = np.zeros(len(scores), bool)
    gone[np.argsort(np.asarray(scores), kind="stable")[:count]] = True
    return gone
