"""How much each residual block matters: one number a block, the smaller the sooner it goes.

==========  ====  ==================================================================================================
name        data  what it measures
==========  ====  ==================================================================================================
influence   yes   how far the block turns its stream: one minus the cosine between x and x + f(x), averaged over
                  positions and samples ("block influence", Men et al. 2024, "ShortGPT", arXiv:2403.03853)
l2          no    the energy that f adds, as a share of the energy of the stream behind it, for inputs of f's last
                  layer that are uncorrelated and of variance 1: the mean over its outputs of the squared L2 norm of
                  their weights, over 1 plus that of this block and of those before it in the same stream (the
                  stream's variance grows by what each branch adds: De and Smith 2020, arXiv:2002.10444)
random      no    nothing: the control, from the seed
==========  ====  ==================================================================================================
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.pruning.constant_chains import stored_behind
from modelopt.pruning.original_and_pruned import run_to, sample_count
from modelopt.pruning.residual_blocks import ResidualBlock

BLOCK_NAMES = ("influence", "l2", "random")
"""What the option takes."""

NEED_DATA_OF_BLOCKS = frozenset({"influence"})
"""Those that run the model on calibration data."""

_UNSCALED = frozenset({"Relu", "LeakyRelu", "Gelu", "HardSwish", "Mish", "Identity", "Dropout", "Cast"})
"""Operators between two blocks that leave the scale of the stream about as it is."""


def scores(name: str, model: ir.Model, blocks: Sequence[ResidualBlock], ctx: Context) -> Mapping[str, float]:
    """How much each block matters, by its name; the smaller, the less.

    Args:
        name: One of `BLOCK_NAMES`.
        model: The model.
        blocks: Blocks of it, in order.
        ctx: Lends the runner, the samples, the seed and the progress.

    Raises:
        InputError: The measure needs calibration data and there are none.
        Refused: onnxruntime does not run the model.
    """
    if name == "influence":
        return _influence(model, blocks, ctx)
    if name == "l2":
        return _shares(blocks)
    return {block.name: _random(ctx.seed, block.name) for block in blocks}


def _random(seed: int, name: str) -> float:
    return float(np.random.default_rng((seed, zlib.crc32(name.encode()))).random())


def _shares(blocks: Sequence[ResidualBlock]) -> dict[str, float]:
    energies: dict[ir.Value, float] = {}  # by the sum of a block, that of the stream behind it
    found: dict[str, float] = {}
    for block in blocks:
        added = _energy(block)
        before: ir.Value | None = block.skip
        while before is not None and before not in energies:
            producer = before.producer()
            passes = producer is not None and producer.op_type in _UNSCALED
            before = producer.inputs[0] if passes and producer is not None else None
        behind = added + (1.0 if before is None else energies[before])
        energies[block.add.outputs[0]] = behind
        share = added / behind
        found[block.name] = share if np.isfinite(share) else 1.0
    return found


def _energy(block: ResidualBlock) -> float:
    """The mean over the outputs of the last layer of the squared L2 norm of the weights that make one."""
    node = block.last[-1][0]
    index = next(index for each, index in block.last if each is node)
    base = stored_behind(node.inputs[index])
    array = None if base is None else graph.constant(base[0])
    if base is None or array is None:
        return 0.0
    weights = array.astype(np.float64).transpose(base[1])
    outputs = _outputs(node, index, weights.shape)
    factor = graph.attribute_float(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    return factor**2 * float(np.square(weights).sum()) / max(outputs, 1)


def _outputs(node: ir.Node, index: int, shape: tuple[int, ...]) -> int:
    """How many outputs a weight makes; of a scale for each channel as many as it has numbers."""
    if node.op_type == "Conv":
        return shape[0]
    if node.op_type == "ConvTranspose":
        return shape[1] * graph.attribute_int(node, "group", 1)
    if node.op_type == "Gemm":
        return shape[0 if graph.attribute_int(node, "transB", 0) else 1]
    if node.op_type == "MatMul" and len(shape) > 1:
        return shape[-1 if index else -2] * int(np.prod(shape[:-2]))
    return int(np.prod(shape)) if node.op_type != "MatMul" else 1


def _influence(model: ir.Model, blocks: Sequence[ResidualBlock], ctx: Context) -> dict[str, float]:
    total = sample_count(ctx)
    pairs = {block.name: (block.skip.name or "", block.add.outputs[0].name or "") for block in blocks}
    names = [name for pair in pairs.values() for name in pair]
    turned = dict.fromkeys(pairs, 0.0)
    seen = dict.fromkeys(pairs, 0)
    for index, arrays in enumerate(run_to(model, names, ctx) if names else ()):
        for name, (before, behind) in pairs.items():
            cosines = _cosines(arrays[before], arrays[behind])
            turned[name] += float((1 - cosines).sum())
            seen[name] += cosines.size
        ctx.progress("measuring blocks", index + 1, total)
    return {name: turned[name] / max(seen[name], 1) for name in pairs}


def _cosines(before: np.ndarray, behind: np.ndarray) -> np.ndarray:
    """The cosines between two streams, at positions where both have a length; with images along the channels."""
    axis = 1 if before.ndim > 3 else -1
    a, b = (np.atleast_1d(each).astype(np.float64) for each in (before, behind))
    products, lengths = (a * b).sum(axis), np.sqrt(np.square(a).sum(axis) * np.square(b).sum(axis))
    known = np.isfinite(products) & np.isfinite(lengths) & (lengths > 0)
    return np.asarray(np.clip(products[known] / lengths[known], -1, 1))
