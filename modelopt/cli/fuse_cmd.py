"""`modelopt fuse`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from modelopt.cli import options

_PROVIDERS = ("cpu", "cuda")


@click.command(
    "fuse",
    cls=options.Optimizing,
    epilog="""\b
Examples:
  modelopt fuse model.onnx                      # writes model.fused.onnx
  modelopt fuse --keep-if-faster model.onnx     # attention and more, where it pays here
  modelopt fuse --explain model.onnx            # what was not fused, and why
  modelopt fuse --opset 17 model.onnx           # for operators that an old file lacks
  modelopt fuse --eval labelled.npz --min-speedup 1.1 model.onnx""",
)
@options.MODEL
@options.option("--portable", is_flag=True, help="Only operators of the ONNX standard. [default]")
@options.option("--contrib", is_flag=True, help="Fold, and use operators that only onnxruntime has, too.")
@options.option("--keep-if-faster", is_flag=True, help="Use each kind of those only where it is faster here.")
@options.OPSET
@options.KEEP_OPSET
@options.OPTIMIZING
def command(model: Path, portable: bool, contrib: bool, keep_if_faster: bool, opset: int | None, **flags: Any) -> None:
    """Merge operators into fewer, faster ones. Exact: the outputs stay the same up to rounding.

    BatchNormalization and affine Mul/Add go into the convolution before them, decomposed HardSwish becomes
    HardSigmoid × x, MatMul + Add becomes Gemm, and chains of Transpose, Cast and Reshape become one. An old model is
    converted to the opset that a fusion needs. Where speed is measured, a slower result gives way to a copy of the
    input.
    """
    from modelopt.cli.optimizing import execute, recipe_from_flags
    from modelopt.recipe import pipelines
    from modelopt.recipe.pass_options import make_pass
    from modelopt.recipe.recipe import Search, Step

    _check(portable=portable, contrib=contrib, keep_if_faster=keep_if_faster, opset=opset, flags=flags)
    steps: list[Step] = [] if opset is None else [make_pass("upgrade-opset", {"version": opset})]
    keep_opset = opset is not None or flags["keep_opset"]
    steps += pipelines.expand("exact" if contrib or keep_if_faster else "fuse", keep_opset=keep_opset)
    steps += pipelines.expand("contrib") if contrib or keep_if_faster else ()
    search = Search.KEEP_IF_FASTER if keep_if_faster else None
    execute(recipe_from_flags("fuse", steps, flags, not_slower=True, search=search), model, "fused", flags)


def _check(*, portable: bool, contrib: bool, keep_if_faster: bool, opset: int | None, flags: dict[str, Any]) -> None:
    """Whether the flags go together, and with the provider."""
    from modelopt.core.errors import InputError, Refused

    given = [flag for flag, on in (("--contrib", contrib), ("--keep-if-faster", keep_if_faster)) if on]
    if portable and given:
        raise InputError(f"--portable and {given[0]} exclude each other", note="--portable keeps to standard operators")
    if len(given) == 2:
        raise InputError("--contrib and --keep-if-faster exclude each other", note="one keeps all, one what pays")
    if opset is not None and flags["keep_opset"]:
        raise InputError("--opset and --keep-opset exclude each other", note="one converts, one does not")
    if given and flags["provider"] not in _PROVIDERS:
        raise Refused(
            f"{given[0]} is for onnxruntime's own kernels, not for the provider {flags['provider']}",
            hint=f"--provider {' or '.join(_PROVIDERS)}",
        )
