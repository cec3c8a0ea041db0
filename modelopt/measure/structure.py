"""Sequences and maps in comparisons: their values are compared, under the condition that keys and shapes are equal.

A session gives such an output as two arrays (see `modelopt.runtime.parts`): its values, and their keys or shapes. Keys
enter no score. Values under different keys count like an output of another shape.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelopt.measure.metric import Outputs


def value_positions(whole: Sequence[int]) -> list[int]:
    """The positions of the arrays that are tensors or the values of a sequence or map.

    Args:
        whole: `SessionInfo.whole`.
    """
    return [position for position, output in enumerate(whole) if whole.index(output) == position]


def values_beside(
    whole: Sequence[int], reference: Outputs, candidate: Outputs
) -> tuple[list[np.ndarray], list[np.ndarray], list[int]]:
    """The values of two models' outputs, and the positions of those whose keys or shapes differ."""
    places = value_positions(whole)
    ours, theirs = [reference[place] for place in places], [candidate[place] for place in places]
    unlike = []
    for position, place in enumerate(places):
        for other in range(place + 1, len(whole)):
            if whole[other] == whole[place] and not np.array_equal(reference[other], candidate[other]):
                unlike.append(position)
                if ours[position].shape == theirs[position].shape:
                    theirs[position] = theirs[position][None]
    return ours, theirs, unlike


def label_positions(whole: Sequence[int], reference: Outputs, label: np.ndarray) -> np.ndarray:
    """Labels as positions of classes, where the keys of a map output are the names of the classes.

    Labels that are no keys of any map are taken as positions.
    """
    for place in value_positions(whole):
        table = reference[place]
        for held in (reference[other] for other in range(place + 1, len(whole)) if whole[other] == whole[place]):
            if (
                table.ndim != 2
                or held.shape != table.shape[-1:]
                or (held.dtype.kind == "O") != (label.dtype.kind == "U")
            ):
                continue
            keys = held.astype(str) if held.dtype.kind == "O" else held
            if label.size and np.isin(label, keys).all():
                return np.asarray(np.searchsorted(keys, label), np.int64)
    return label
