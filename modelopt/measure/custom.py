"""A metric that the user wrote: ``--metric file.py:function``. The file runs only because the user names it."""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.data.script import load_function
from modelopt.measure.metric import Outputs
from modelopt.measure.task_metric import TaskMetric

_USER_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, BufferError, EOFError, ImportError, LookupError, MemoryError),
    *(NameError, OSError, RuntimeError, StopIteration, TypeError, ValueError),
)


class Custom(TaskMetric):
    """The mean over all items of what ``score(outputs, label)`` gives for each sample.

    The function takes the model's outputs for one sample, a list of arrays, and its label (an array or None), and
    returns one number per item (a frame, a row, a box) as an array float[k], or one number. The items of a sample are
    taken to be alike: the interval is over samples. ``score.higher_is_better = False`` after the function's definition
    makes lower scores better; ``score.unit = "Hz"`` names its unit.

    Raises:
        InputError: The file does not exist or raises, or holds no such function.
    """

    def __init__(self, spec: str) -> None:
        super().__init__()
        file, _, function = spec.rpartition(":")
        self.name = spec
        self._path = Path(file)
        self._function = load_function(self._path, function)
        self.unit = str(getattr(self._function, "unit", ""))
        self.higher_is_better = bool(getattr(self._function, "higher_is_better", True))

    def items(self, outputs: Outputs, label: np.ndarray | None) -> tuple[np.ndarray, bool]:
        """See `TaskMetric.items`."""
        try:
            found = np.atleast_1d(np.asarray(self._function(list(outputs), label), np.float64))
        except _USER_ERRORS as error:
            raise InputError(
                f"{self._place(error)}: {type(error).__name__}: {error}",
                note=f"outputs are {', '.join(f'{out.dtype.name}{list(out.shape)}' for out in outputs)}",
                hint="the metric is score(outputs: list of arrays, label) and returns one number per item",
            ) from error
        if found.ndim != 1 or not np.all(np.isfinite(found)):
            what = f"an array of shape {list(found.shape)}" if found.ndim != 1 else "NaN or infinity"
            raise InputError(f"{self.name} returned {what}", hint="return one finite number per item")
        return found, True

    def _place(self, error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(self._path)]
        return f"{self._path}, line {lines[-1]}" if lines else str(self._path)
