"""The standard sequences of passes; commands and recipes are made of them."""

from __future__ import annotations

from modelopt.passes import find
from modelopt.passes.base import Pass
from modelopt.recipe import UntilStable

_KNOWN = ("fold-constants", "simplify-reshape")

_CLEAN = ("eliminate-identity", "dedup-initializers", "eliminate-common", "eliminate-dead")

FOLD = (*_KNOWN, *_CLEAN)
"""Constants are computed, what does nothing is removed, equal weights are stored once."""

FUSE = (
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "merge-transpose",
    "merge-cast",
    "merge-reshape",
    *_CLEAN,
)
"""Exact rewrites into fewer operators."""

EXACT = (*_KNOWN, *FUSE)
"""Folding first: fusions match on constants."""


def until_stable(names: tuple[str, ...]) -> UntilStable:
    """The passes called `names` with their default options, repeated until nothing changes."""
    return UntilStable(tuple(_default(name) for name in names))


def _default(name: str) -> Pass:
    return find(name)()
