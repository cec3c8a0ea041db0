"""Whether a result promises and computes what its original does."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modelopt.core.errors import ModeloptError
from modelopt.core.signature import Signature, TensorSpec
from modelopt.measure.tolerance import OutputMismatch
from modelopt.passes.freeze_weights import FreezeWeights
from modelopt.recipe.recipe import Step, UntilStable
from tests.campaigns import runs
from tests.campaigns.lab_outcomes import Original, Outcome, Verdict


def given_inputs(original: Original, chosen: Sequence[Step]) -> tuple[str | None, ...]:
    """The inputs that the result has: freeze-weights leaves those without a value."""
    if any(isinstance(step, UntilStable) and step.passes == (FreezeWeights(),) for step in chosen):
        return tuple(spec.name for spec in original.signature.inputs)
    return original.inputs


def keeps_promises(before: Signature, after: Signature, chosen: Sequence[Step]) -> bool:
    """Whether the signature is the one that the steps promise, but that what nothing declared may have become known.

    Where a step narrows the inputs, outputs follow: their symbols may have become sizes.
    """
    alone = [one for step in chosen for one in (step.passes if isinstance(step, UntilStable) else (step,))]
    for one in alone:
        before = one.signature_after(before)
    narrows = not all(one.keeps_signature for one in alone)
    return _refine(before.inputs, after.inputs) and _refine(before.outputs, after.outputs, narrows=narrows)


def _refine(before: Sequence[TensorSpec], after: Sequence[TensorSpec], *, narrows: bool = False) -> bool:
    return len(before) == len(after) and all(
        (a.name, a.dtype) == (b.name, b.dtype) and _refines_shape(a.shape, b.shape, narrows=narrows)
        for a, b in zip(before, after, strict=True)
    )


def _refines_shape(before: Sequence[Any] | None, after: Sequence[Any] | None, *, narrows: bool) -> bool:
    if before is None or after is None:
        return before is None
    return len(before) == len(after) and all(
        a in {None, b} or (narrows and isinstance(a, str) and isinstance(b, int))
        for a, b in zip(before, after, strict=True)
    )


# On the runtime


def compare_outputs(original: Original, content: bytes) -> Outcome:
    """What the runtime says of a result."""
    if not original.loads:
        return Outcome(Verdict.STRUCTURE, original.why_not_run)
    try:
        session = runs.open_session(content)
        if original.outputs is None:
            return Outcome(Verdict.STRUCTURE, original.why_not_run)
        outputs = [runs.session_run(session, feed) for feed in original.feeds]
    except Exception as error:  # noqa: BLE001 - onnxruntime raises many kinds
        own = original.outputs is not None and _same_without_fusions(original, content)
        return Outcome(Verdict.RUNTIME if own else Verdict.FAILED, f"onnxruntime: {runs.first_line(error)}")
    worst = 0.0
    for before, after in zip(original.outputs, outputs, strict=True):
        found = runs.compare(before, after, original.names)
        if isinstance(found, OutputMismatch):
            return Outcome(_blame(original, content, found), str(found))
        worst = max(worst, found)
    return Outcome(Verdict.PRESERVED, error=worst)


def _blame(original: Original, content: bytes, found: OutputMismatch) -> Verdict:
    """Whose fault a mismatch is."""
    if "on one side only" in found.reason and _same_without_fusions(original, content):
        return Verdict.RUNTIME
    return Verdict.OVERFLOWS if _overflows(original) else Verdict.FAILED


def _overflows(original: Original) -> bool:
    """Whether some value inside the original is infinite, NaN or huge."""
    proto = onnx.ModelProto.FromString(original.content)
    present = {value.name for value in proto.graph.output}
    names = [name for node in proto.graph.node for name in node.output if name and name not in present]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = runs.open_session(proto.SerializeToString(), fuse=False)
    arrays = [array for feed in original.feeds for array in runs.session_run(session, feed)]
    floats = [array for array in arrays if isinstance(array, np.ndarray) and array.dtype.kind == "f"]
    return any(not np.isfinite(array).all() or np.abs(array).max(initial=0.0) > 1e18 for array in floats)


def _same_without_fusions(original: Original, content: bytes) -> bool:
    """Whether the two agree when onnxruntime runs them as they are."""
    try:
        before, after = (runs.open_session(each, fuse=False) for each in (original.content, content))
        return all(
            isinstance(
                runs.compare(runs.session_run(before, feed), runs.session_run(after, feed), original.names), float
            )
            for feed in original.feeds
        )
    except Exception:  # noqa: BLE001 - onnxruntime raises many kinds
        return False


# Text


def generic(reason: str) -> str:
    """A reason without names and numbers, to count by."""
    return re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", re.sub(r"\d+", "#", re.sub(r"/\S+/", "", reason)))[:110]


def one_line(error: ModeloptError) -> str:
    return f"{error.fact}" + (f" ({error.note})" if error.note else "")


def told(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"traceback: {type(error).__name__}: {runs.first_line(error)} at {where}"
