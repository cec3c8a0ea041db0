"""What watches the loop over passes from outside: dumps and replays here, verification in `modelopt.verification`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import onnx_ir as ir

from modelopt import io
from modelopt.io.writing import disk_errors
from modelopt.passes.base import Pass
from modelopt.report import PassResult

DUMP_NAME = re.compile(r"[0-9]{2,}-[a-z0-9-]+\.onnx(\.data)?")
"""The names of the files that `Dump` writes."""


class Observer(Protocol):
    """Watches the loop."""

    def before(self, step: Pass, model: ir.Model) -> None:
        """Called before each application of a pass."""
        return

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Called after it."""
        return

    def end(self, model: ir.Model) -> None:
        """Called after the last pass."""
        return


@dataclass
class Dump(Observer):
    """Writes the model after every pass that changed it.

    Attributes:
        folder: Where to; created.
    """

    folder: Path
    _count: int = 0

    def after(self, step: Pass, model: ir.Model, result: PassResult) -> None:
        """Write ``NN-pass-name.onnx``; an older dump of that name is replaced."""
        self._count += 1
        if not result.rewrites:
            return
        path = self.folder / f"{self._count:02d}-{re.sub(r'[^a-z0-9-]', '-', step.name)}.onnx"
        with disk_errors(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        io.rewrite_aside(model, path)


class Enough(Exception):
    """Raised by `StopAfter`: the replay has come to the model that was asked for."""


@dataclass
class StopAfter(Observer):
    """Raises `Enough` before the application of a pass that comes after the first `count`."""

    count: int
    done: int = 0

    def before(self, step: Pass, model: ir.Model) -> None:
        """Count the application, or stop."""
        if self.done == self.count:
            raise Enough
        self.done += 1
