"""Rounding of weights and tables to integers by blocks: to nearest, HQQ or GPTQ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import Enum

import numpy as np
import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.quant.numerics import blocks, hqq
from modelopt.quant.numerics.blocks import BlockGrid
from modelopt.quant.numerics.gptq import gptq
from modelopt.quant.numerics.hessian import Hessian, observe_inputs
from modelopt.quant.weight_only import matmul_nbits
from modelopt.quant.weight_only.matmul_nbits import Group, Quantized


class BlockRounding(Enum):
    """How integers are chosen.

    Attributes:
        RTN: To nearest.
        HQQ: To nearest, with scales and zero points that outliers change less; needs no data.
        GPTQ: With the error of each column compensated by the later ones; needs calibration data.
    """

    RTN = "rtn"
    HQQ = "hqq"
    GPTQ = "gptq"


def round_weights(
    model: ir.Model,
    groups: Sequence[Group],
    grids: Sequence[BlockGrid],
    ctx: Context,
    *,
    method: BlockRounding,
    clip: bool,
) -> list[Quantized]:
    """The integers of each group's weight, in the order of the groups.

    Args:
        model: The float model; it is not changed.
        groups: Products and look-ups that share a weight.
        grids: The integers of each group.
        ctx: Lends the runner and the samples to gptq, and the progress.
        method: How to round.
        clip: See `blocks.params_of`.

    Raises:
        InputError: gptq has no calibration data.
        Refused: onnxruntime does not run the model on them.
    """
    found: dict[int, Quantized] = {}
    for indices, hessians in _batches(model, groups, ctx, method):
        for i in indices:
            weight = matmul_nbits.matrix(groups[i][0])
            hessian, scales = hessians.get(_activation(groups[i]) or ""), matmul_nbits.element(groups[i][0])
            found[i] = _rounded(weight, grids[i], method, hessian, scales, clip=clip)
            ctx.progress("quantizing weights", len(found), len(groups))
    return [found[i] for i in range(len(groups))]


def _batches(
    model: ir.Model, groups: Sequence[Group], ctx: Context, method: BlockRounding
) -> Iterator[tuple[list[int], Mapping[str, Hessian]]]:
    """Which weights to round next, with the hessians of their inputs."""
    if method is not BlockRounding.GPTQ:
        yield list(range(len(groups))), {}
        return
    names = [_activation(group) for group in groups]
    yield [i for i, name in enumerate(names) if name is None], {}
    widths = {name: matmul_nbits.shape(group[0])[1] for name, group in zip(names, groups, strict=True) if name}
    for hessians in observe_inputs(model, widths, ctx):
        yield [i for i, name in enumerate(names) if name in hessians], hessians


def _activation(group: Group) -> str | None:
    """The input of the first product by a weight, which stands for those of all; None where it is only looked up."""
    products = [one.node.inputs[0] for one in group if not one.is_lookup]
    return (products[0].name if products[0] is not None else None) if products else None


def _rounded(
    weight: np.ndarray,
    grid: BlockGrid,
    method: BlockRounding,
    hessian: Hessian | None,
    scales: ir.DataType,
    *,
    clip: bool,
) -> Quantized:
    params = blocks.params_of(weight, grid, clip=clip)
    if method is BlockRounding.HQQ:
        params = hqq.refine(weight, params, grid)
    if scales != ir.DataType.FLOAT:
        narrow = np.maximum(params.scale.astype(scales.numpy()), np.finfo(scales.numpy()).smallest_subnormal)
        params = replace(params, scale=narrow.astype(np.float32))  # integers are chosen for the scales that are stored
    if hessian is None:
        return Quantized(blocks.quantize(weight, params, grid), params, grid)
    width = weight.shape[1]
    scale, zero_point = (np.repeat(a, grid.block, axis=1)[:, :width] for a in (params.scale, params.zero_point))
    integers = gptq(weight, hessian.matrix(), scale, zero_point, 0, grid.high)
    return Quantized(integers.astype(np.uint8), params, grid)
