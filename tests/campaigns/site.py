"""A model and what verification says of passes that run on it, without any data of a user."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir as ir

from modelopt import graph, io
from modelopt.calibration.context import Context
from modelopt.core import targets
from modelopt.core.errors import VerificationFailed
from modelopt.engine import loop, observers
from modelopt.recipe.recipe import Step
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from modelopt.verification.fitting import Needs
from modelopt.verification.prepare import Original, Prepared, prepare
from modelopt.verification.verify import Verify


@dataclass
class Site:
    """A model under verification.

    Attributes:
        model: The model.
        path: Its file.
        runner: What passes run models on.
        worker: What verification runs models on.
    """

    model: onnx.ModelProto
    path: Path
    runner: WorkerRunner
    worker: Worker
    _prepared: Prepared | None = field(default=None)

    def __post_init__(self) -> None:
        self.path.parent.mkdir()
        self.path.write_bytes(self.model.SerializeToString())

    def prepared(self) -> Prepared:
        """The feeds: the same for each bug in this model."""
        if self._prepared is None:
            model = self.load()
            original = Original.of(model, self.path, graph.signature(model), Needs.of(model))
            self._prepared = prepare(original, [], self.worker, self.load, self.path.parent, seed=0)
        return self._prepared

    def load(self) -> ir.Model:
        """The model."""
        return io.load(self.path, scratch=self.path.parent).model

    def check(self, steps: Sequence[Step]) -> str | None:
        """Run steps under verification; returns what it says, None when it passes."""
        context = Context(runner=self.runner, target=targets.resolve("x86-vnni"))

        def replay(count: int) -> ir.Model:
            model = self.load()
            with contextlib.suppress(observers.Enough):
                loop.apply(steps, model, context, [observers.StopAfter(count)])
            return model

        model = self.load()
        verify = Verify(self.path, self.prepared, self.worker, replay, self.path.parent)
        try:
            loop.apply(steps, model, context, [verify])
        except VerificationFailed as error:
            return f"{error.fact} ({error.note})"
        return None
