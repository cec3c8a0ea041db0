"""Permutations of axes as Transpose has them: axis ``i`` of the output is axis ``perm[i]`` of the input."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.graph.match import Mismatch

Perm = tuple[int, ...]


def compose(*perms: Perm) -> Perm:
    """The one permutation that does these in turn."""
    result = perms[0]
    for perm in perms[1:]:
        result = tuple(result[axis] for axis in perm)
    return result


def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(int(axis) for axis in np.argsort(perm))


def perm_of(node: ir.Node | None) -> Perm | None:
    """The permutation of a Transpose; None for another operator, and without `perm` for an unknown rank."""
    if node is None or not graph.is_standard(node, "Transpose"):
        return None
    perm, rank = graph.attribute_ints(node, "perm"), graph.rank(node.inputs[0])
    if perm is None:
        return None if rank is None else tuple(reversed(range(rank)))
    return perm if sorted(perm) == list(range(len(perm))) else None


def without(perm: Perm, outer: Sequence[int]) -> Perm:
    """`perm` for tensors without the axes `outer` of the output, which are the axes ``perm[axis]`` of the input."""
    gone = {perm[axis] for axis in outer}
    left = [axis for axis in range(len(perm)) if axis not in gone]
    return tuple(left.index(perm[axis]) for axis in range(len(perm)) if axis not in outer)


def axis_in(axis: int, perm: Perm) -> int | Mismatch:
    """`axis` counted from the front."""
    return axis % len(perm) if -len(perm) <= axis < len(perm) else Mismatch(f"axis {axis} is outside rank {len(perm)}")


def axes_in(axes: Sequence[int], perm: Perm) -> list[int] | Mismatch:
    """The axes counted from the front, in the order in which they are written."""
    found = [axis_in(axis, perm) for axis in axes]
    return next(
        (each for each in found if isinstance(each, Mismatch)), [each for each in found if isinstance(each, int)]
    )
