"""What watches passes, never inside them: dumps here, and `modelopt.verification`."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from modelopt import io
from modelopt.passes.base import Pass
from modelopt.report import PassResult


class Observer(Protocol):
    """Watches the engine's loop."""

    def before(self, step: Pass, model: ir.Model) -> None:
        """Called before each application of a pass."""
        ...

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Called after it."""
        ...

    def end(self, model: ir.Model) -> None:
        """Called after the last pass."""
        ...


@dataclass
class Dump:
    """Writes the model after every pass that changed it.

    Attributes:
        folder: Where to; created.
    """

    folder: Path
    _count: int = 0

    def before(self, step: Pass, model: ir.Model) -> None:
        """Nothing to do."""

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Write ``NN-pass-name.onnx``; an older dump of that name is replaced."""
        self._count += 1
        if not result.rewrites:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self._count:02d}-{re.sub(r'[^a-z0-9-]', '-', step.name)}.onnx"
        io.remove_aside(path)
        io.write_aside(model, path)

    def end(self, model: ir.Model) -> None:
        """Nothing to do."""


class Enough(Exception):
    """Ends a replay."""


@dataclass
class StopAfter:
    """Ends a replay after so many applications of passes, by `Enough`."""

    count: int
    done: int = field(default=0)

    def before(self, step: Pass, model: ir.Model) -> None:
        """Stop when enough were applied."""
        if self.done == self.count:
            raise Enough
        self.done += 1

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Nothing to do."""

    def end(self, model: ir.Model) -> None:
        """Nothing to do."""
