"""The pipelines: sequences of passes with a name, of which commands and recipes are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelopt.core.errors import InputError, did_you_mean
from modelopt.passes import find
from modelopt.recipe.recipe import Step, UntilStable

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
    "prune-dead-channels",  # behind the normalizations, whose zero scales are zero filters then
    "shield-layer-norm",  # behind all that match on Add
    *_CLEAN,
)
"""Exact rewrites into fewer operators."""

EXACT = (*_KNOWN, *FUSE)
"""Folding first: fusions match on constants."""

CONTRIB = (
    "fuse-attention",
    "fuse-rotary",
    "fuse-skip-layer-norm",
    "fuse-bias-gelu",
    "fuse-silu",
)
"""Exact rewrites into operators that only onnxruntime has. Each should be measured before it is kept."""

PIPELINES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "fold": (FOLD,),
    "fuse": (FUSE,),
    "exact": (EXACT,),
    "contrib": tuple((name, *_CLEAN) for name in CONTRIB),
}
"""What a recipe may name in a step ``pipeline: NAME``: groups of passes, each repeated until nothing changes."""

PIPELINE = "pipeline"
"""The key of a step that names a pipeline."""

KEEP_OPSET = "keep-opset"
"""The option of the pipelines that convert to another opset where a fusion needs it: they then do not."""

LEFT_OUT: Mapping[str, str] = {
    "freeze-dims": "the result takes fewer shapes than the input: only where --freeze-dim or --input-shape asks for it",
    "freeze-weights": "callers can no longer give the weights as inputs: only a recipe may decide that",
    "upgrade-opset": "raise-opset converts where a fusion needs it; another opset only where --opset asks for it",
    "onnxsim": "another tool with rules of its own: only where --engine onnxsim asks for it",
    "equalize-layers": "for int8 only: the search of quantize tries it before quantize-static",
    "smooth-activations": "for int8 only: the search of quantize tries it before quantize-static",
    "prune-magnitude": "not exact: the command prune",
    "prune-channels": "not exact: the command prune",
    "prune-layers": "not exact: the command prune",
    "quantize-static": "not exact: the command quantize",
    "quantize-dynamic": "not exact: the command quantize",
    "quantize-weights": "not exact: the command quantize",
    "store-weights": "not exact: the command quantize",
    "convert-half": "not exact: the command quantize",
    "convert-float": "not exact for float64: the command quantize, whose other passes need float32",
}
"""The passes that are in no pipeline on purpose, and why."""


def expand(name: str, *, keep_opset: bool = False) -> tuple[UntilStable, ...]:
    """The steps that the pipeline called `name` stands for, each pass with its default options.

    Args:
        name: A key of `PIPELINES`.
        keep_opset: Leave out the conversion to another opset.

    Raises:
        InputError: No pipeline has that name.
    """
    if name not in PIPELINES:
        note, hint = f"pipelines: {', '.join(PIPELINES)}", did_you_mean(name, PIPELINES)
        raise InputError(f"unknown pipeline '{name}'", note=note, hint=hint)
    return tuple(map(until_stable, _groups(name, keep_opset=keep_opset)))


def raises(name: str) -> bool:
    """Whether the pipeline called `name` may convert to another opset."""
    return any(RAISE in group for group in PIPELINES[name])


def leading(steps: Sequence[Step]) -> tuple[dict[str, str | bool], int] | None:
    """The pipeline that the first of `steps` are exactly.

    Returns:
        The pipeline as a recipe file writes it, and how many steps it stands for; None where there is no such pipeline.
    """
    written = [_names(step) for step in steps]
    for name, groups in PIPELINES.items():
        for keep_opset in (False, True) if raises(name) else (False,):
            if tuple(written[: len(groups)]) == _groups(name, keep_opset=keep_opset):
                return {PIPELINE: name, **({KEEP_OPSET: True} if keep_opset else {})}, len(groups)
    return None


def _groups(name: str, *, keep_opset: bool) -> tuple[tuple[str, ...], ...]:
    left_out = {RAISE} if keep_opset else set[str]()
    return tuple(tuple(one for one in group if one not in left_out) for group in PIPELINES[name])


def _names(step: Step) -> tuple[str, ...] | None:
    """The passes of a group that all have their default options; None for any other step."""
    if not isinstance(step, UntilStable) or any(one.options() for one in step.passes):
        return None
    return tuple(one.name for one in step.passes)


def until_stable(names: Sequence[str]) -> UntilStable:
    """The passes called `names` with their default options, repeated until nothing changes."""
    return UntilStable(tuple(find(name)() for name in names))
