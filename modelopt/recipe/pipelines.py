"""The standard sequences of passes; commands and recipes are made of them."""

from __future__ import annotations

from modelopt.passes import find
from modelopt.passes.base import Pass
from modelopt.recipe.recipe import UntilStable

_KNOWN = ("fold-constants", "simplify-reshape")

_CLEAN = ("drop-zero-states", "eliminate-identity", "dedup-initializers", "eliminate-common", "eliminate-dead")

FOLD = (*_KNOWN, *_CLEAN)
"""Constants are computed, what does nothing is removed, equal weights are stored once."""

RAISE = "raise-opset"

FUSE = (
    RAISE,  # before the fusions that it makes room for
    "fuse-conv-bn",
    "fuse-conv-affine",
    "fuse-conv-branches",  # behind fuse-conv-bn, which ends most branches
    "fuse-pad",  # before fuse-padded-affine, which needs to know that a convolution pads
    "fuse-padded-affine",
    "fuse-hardswish",
    "fuse-matmul-add",
    "fuse-gemm-bn",
    "fuse-gemm-gemm",  # behind fuse-gemm-bn, which may stand between two products
    "fuse-layer-norm",
    "fuse-instance-norm",  # behind fuse-layer-norm, which takes what both could
    "fuse-rms-norm",
    "reduce-mean-pool",  # behind the normalizations, which match on ReduceMean
    "fuse-gelu",
    "fuse-mish",
    "merge-transpose",
    "sink-transpose",
    "merge-cast",
    "merge-reshape",
    "merge-clip",
    "merge-slice",
    "merge-concat",
    "cancel-concat",
    "fold-gather",
    "shield-layer-norm",  # behind all that match on Add
    *_CLEAN,
)
"""Exact rewrites into fewer operators."""

CONTRIB = (
    "fuse-attention",
    "fuse-rotary",
    "fuse-skip-layer-norm",
    "fuse-bias-gelu",
    "fuse-silu",
)
"""Exact rewrites into operators that only onnxruntime has; each is worth a measurement before it is kept."""

EXACT = (*_KNOWN, *FUSE)
"""Folding first: fusions match on constants."""


def fusing(*, folded: bool, raises: bool) -> UntilStable:
    """`EXACT`, or without folding `FUSE`; with or without conversion to an opset that a fusion needs."""
    names = EXACT if folded else FUSE
    return until_stable(names if raises else tuple(name for name in names if name != RAISE))


def contrib(name: str) -> UntilStable:
    """The pass `name` of `CONTRIB` and what cleans up behind it, as one group."""
    return until_stable((name, *_CLEAN))


def until_stable(names: tuple[str, ...]) -> UntilStable:
    """The passes called `names` with their default options, repeated until nothing changes."""
    return UntilStable(tuple(_default(name) for name in names))


def _default(name: str) -> Pass:
    return find(name)()
