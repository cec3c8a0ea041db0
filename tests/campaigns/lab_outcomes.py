"""What a lab is given and what it finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from modelopt.core.errors import ExitCode
from modelopt.core.signature import Signature
from tests.campaigns.runs import Feeds


class Verdict(Enum):
    """What became of a model.

    Attributes:
        UNCHANGED: No rewrites, and the same bytes.
        PRESERVED: Rewritten; the runtime gives the same outputs.
        STRUCTURE: Rewritten; the outputs are random, or the runtime does not run the original: the rest was checked.
        RUNTIME: Rewritten; without onnxruntime's optimizations the outputs are the same, and with them NaN or infinity
            differ or the result does not load: its fusions are not exact for these numbers.
        OVERFLOWS: Rewritten; the outputs differ, and the original itself computes with infinity, NaN or beyond 1e18,
            where sums and products in another order are other numbers.
        REFUSED: One line says why.
        FAILED: A bug.
    """

    UNCHANGED = "unchanged"
    PRESERVED = "preserved"
    STRUCTURE = "structure"
    RUNTIME = "the runtime's own"
    OVERFLOWS = "overflows"
    REFUSED = "refused"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """A verdict and why.

    Attributes:
        verdict: The verdict.
        reason: Of a refusal or a failure.
        rewrites: How many.
        error: The largest relative difference of outputs.
        size_bytes: Of the result; 0 where there is none.
    """

    verdict: Verdict
    reason: str = ""
    rewrites: int = 0
    error: float = 0.0
    size_bytes: int = 0


@dataclass(frozen=True)
class Original:
    """A model before any pass.

    Attributes:
        path: Its file.
        content: Its bytes.
        canonical: What loading and writing makes of them.
        feeds: What it is run on.
        outputs: For each feed; None where onnxruntime does not run it, or where outputs are random.
        why_not_run: Why there are none.
        signature: What it declares.
        inputs: Names of all inputs, those with a default too.
        names: Of the outputs.
        checked: Whether onnx's checker accepts it.
        loads: Whether onnxruntime loads it.
    """

    path: Path
    content: bytes
    canonical: bytes
    feeds: Sequence[Feeds]
    outputs: list[list[Any]] | None
    why_not_run: str
    signature: Signature
    inputs: tuple[str, ...]
    names: tuple[str, ...]
    checked: bool
    loads: bool
    seen: dict[bytes, Outcome] = field(default_factory=dict)  # passes often agree on a result: it is run once


class NotTaken(Exception):
    """The gate refuses the model."""

    def __init__(self, reason: str, code: ExitCode) -> None:
        super().__init__(reason)
        self.reason = reason
        self.code = code
