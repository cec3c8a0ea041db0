"""A model whose output is of a known kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from modelopt.measure.output_kinds import OutputKind
from tests.campaigns.fitted_nets import (
    Net,
    run,
)


@dataclass(frozen=True)
class Case:
    """A model of a known kind.

    Attributes:
        name: What it is like.
        model: The model.
        inputs: One sample a row.
        kinds: Of its outputs, in order.
    """

    name: str
    model: onnx.ModelProto
    inputs: np.ndarray
    kinds: tuple[OutputKind, ...]

    def answers(self) -> list[list[np.ndarray]]:
        """By output, what the model gives for each sample."""
        return run(self.model, self.inputs)


def case_of(name: str, kinds: Sequence[OutputKind], build: Callable[[int], Net], seed: int) -> Case:
    net = build(seed)
    return Case(name, net.model(), net.inputs, tuple(kinds))
