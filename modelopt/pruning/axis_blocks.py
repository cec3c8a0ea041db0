"""Which axes of a tensor become which in a reshape: the smallest blocks of axes that hold the same elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class AxisBlock:
    """Neighbouring axes that become neighbouring axes.

    Attributes:
        before: Axes of the input.
        after: Axes of the output, which hold as many elements.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]


def axis_blocks(before: Sequence[int], after: Sequence[int]) -> list[AxisBlock]:
    """The blocks, in order; axes of size 1 belong to the block before them.

    Args:
        before: The shape of the input; no size is 0.
        after: The shape of the output, with as many elements.
    """
    blocks: list[AxisBlock] = []
    i = j = 0
    while i < len(before) or j < len(after):
        first = (i, j)
        left, right = 1, 1
        while True:
            if left <= right and i < len(before):
                left, i = left * before[i], i + 1
            elif j < len(after):
                right, j = right * after[j], j + 1
            else:
                left, i = left * before[i], i + 1
            if left == right and i > first[0] and j > first[1]:
                break
            if i == len(before) and j == len(after):
                break
        while i < len(before) and before[i] == 1 and (j == len(after) or after[j] != 1):
            i += 1
        while j < len(after) and after[j] == 1 and (i == len(before) or before[i] != 1):
            j += 1
        blocks.append(AxisBlock(tuple(range(first[0], i)), tuple(range(first[1], j))))
    return blocks
