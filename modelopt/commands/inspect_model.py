"""`inspect`: what a model is made of, without running it."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.inspection import Inspection
from modelopt.inspection import inspect as inspect_loaded
from modelopt.io import load
from modelopt.io.given_model import ModelLike
from modelopt.runtime.limits import Limits
from modelopt.runtime.worker_runner import WorkerRunner


@dataclass(frozen=True, kw_only=True)
class InspectOptions:
    """Options of `inspect`.

    Attributes:
        model: The model.
        dims: Sizes of open dimensions: by their names, or "INPUT:AXIS" where they have none.
        layers: How many of the largest layers to list.
        timeout: Seconds for shape inference; without its answer the rest is still found.
        allow_hardlinks: Accept external data files that are hardlinks.
    """

    model: ModelLike = field(kw_only=False)
    dims: Mapping[str, int] = field(default_factory=dict)
    layers: int = 10
    timeout: float = 30.0
    allow_hardlinks: bool = False


def inspect(options: InspectOptions) -> Inspection:
    """Inspect a model file.

    Raises:
        ModeloptError: Any of its kinds.
    """
    if not isinstance(options.model, str | os.PathLike):
        raise TypeError("a model in memory is written to a file first: see modelopt.commands.api")
    limits = dataclasses.replace(Limits.default(), seconds=options.timeout)
    with tempfile.TemporaryDirectory(prefix="modelopt-in-") as scratch, closing(WorkerRunner(limits=limits)) as runner:
        loaded = load(Path(options.model), scratch=Path(scratch), allow_hardlinks=options.allow_hardlinks)
        runner.follow(limits.for_model(loaded.size_bytes))
        return inspect_loaded(loaded, runner, sizes=options.dims, layer_limit=options.layers)
