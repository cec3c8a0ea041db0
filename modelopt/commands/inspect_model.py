"""`inspect`: what a model is made of, without running it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from modelopt.commands import option_groups
from modelopt.core import temporary
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
        max_nodes: How many nodes and initializers to accept; None: `io.MAX_NODES`.
    """

    model: ModelLike = field(kw_only=False)
    dims: Mapping[str, int] = field(default_factory=dict)
    layers: int = 10
    timeout: float = 30.0
    allow_hardlinks: bool = False
    max_nodes: int | None = None


def inspect(options: InspectOptions) -> Inspection:
    """Inspect a model file.

    Raises:
        ModeloptError: Any of its kinds.
    """
    if not isinstance(options.model, str | os.PathLike):
        raise TypeError("a model in memory is written to a file first: see modelopt.commands.api")
    limits = dataclasses.replace(Limits.default(), seconds=options.timeout)
    with temporary.folder() as scratch, closing(WorkerRunner(limits=limits)) as runner:
        loaded = load(Path(options.model), scratch=scratch, accepted=option_groups.accepted(options))
        runner.follow(limits.for_model(loaded.size_bytes))
        return inspect_loaded(loaded, runner, sizes=options.dims, layer_limit=options.layers)
