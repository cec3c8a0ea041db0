"""What passes may ask of onnxruntime and onnx, without knowing that these run in a child process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import onnx_ir as ir


class Runner(Protocol):
    """Runs a model on onnxruntime in the limited child process."""

    def run(
        self, model: ir.Model, feeds: Iterable[Mapping[str, np.ndarray]], outputs: Sequence[str] | None = None
    ) -> Iterator[list[np.ndarray]]:
        """Yield the outputs for each feed.

        Args:
            model: The model; it is not changed.
            feeds: Input arrays by name.
            outputs: Names of values of the main graph to return; None returns the model's outputs.

        Raises:
            Refused: onnxruntime does not load the model.
            WorkerDied: The child crashed or exceeded its limits.
        """
        ...

    def infer_shapes(self, model: ir.Model) -> None:
        """Add what onnx's strict shape inference knows to the values of `model`, in place.

        Raises:
            Refused: Shape inference fails.
        """
        ...

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        """A copy of `model` converted by onnx's version converter.

        Raises:
            Refused: The converter fails.
        """
        ...

    def simplify(self, model: ir.Model) -> ir.Model:
        """A copy of `model` simplified by onnxsim from an in-memory proto.

        Raises:
            Refused: onnxsim fails.
        """
        ...
