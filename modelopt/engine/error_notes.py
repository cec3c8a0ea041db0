"""Adds to an error of onnxruntime what the child process cannot know: whose model it was, and what the user can do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from modelopt.core.errors import ModeloptError, Refused, WorkerDied

WITHOUT = "to go on without running it, and without proof: --no-verify --no-bench"
"""The hint where onnxruntime does not load the user's model, in commands that optimize."""


@contextlib.contextmanager
def explained(original: Path, changed_by: Sequence[str]) -> Iterator[None]:
    """Complete the errors of onnxruntime that are raised within: a model that it does not load, or that crashes it.

    Args:
        original: The user's model.
        changed_by: The passes that changed it; the list may grow within.
    """
    try:
        yield
    except ModeloptError as error:
        error.is_of_result = error.model not in {None, original} and bool(changed_by)
        if error.model == original and isinstance(error, Refused):
            if WITHOUT not in (error.hint or ""):
                error.hint = "; ".join(filter(None, (error.hint, WITHOUT)))
        elif error.is_of_result and isinstance(error, WorkerDied):
            error.note = f"{error.note}; that model was made by {', '.join(dict.fromkeys(changed_by))}"
        raise
