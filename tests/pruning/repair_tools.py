"""What the tests of repair share: pruned copies of models, and how far they are from the original."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from modelopt.calibration.context import Context
from modelopt.io import serialize
from modelopt.passes.prune_channels import PruneChannels
from tests.runtime_tools import session


def weights(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    """Seeded weights of about the size that keeps the size of what they multiply."""
    rng = np.random.default_rng(7)
    return [(rng.normal(size=shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32) for shape in shapes]


def feeds(shape: tuple[int, ...], count: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
    """Seeded samples of an input x, without the batch axis."""
    rng = np.random.default_rng(seed)
    return [{"x": rng.normal(size=(1, *shape)).astype(np.float32)} for _ in range(count)]


def error(before: ir.Model, after: ir.Model, samples: list[dict[str, np.ndarray]]) -> float:
    """The mean squared difference of the first outputs."""
    first, second = session(before), session(after)
    return float(np.mean([np.square(first.run(None, x)[0] - second.run(None, x)[0]).mean() for x in samples]))


def pruned(original: ir.Model, ctx: Context, **options: object) -> ir.Model:
    """A copy of a model without some channels."""
    copy = serialize.from_bytes(serialize.to_bytes(original))
    PruneChannels(**options).apply(copy, ctx)  # type: ignore[arg-type]
    return copy
