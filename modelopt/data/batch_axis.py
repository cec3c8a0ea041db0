"""Which axis of each input holds the samples of a batch.

In most models it is the first axis. The state of a recurrent model has it behind layers and directions; a transformer
whose first axis is time has it second. These decide, the surest first: the user; a dimension's name that inputs share,
or that contains ``batch``; equal sizes on axes that the model leaves free. Where none of them decides, a file is one
feed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelopt.core.errors import InputError, did_you_mean
from modelopt.core.signature import FIRST, LATER, TensorSpec, is_free, symbol_of, symbols_of

_LIKE_BATCH = re.compile(r"(^|[^a-z])batch", re.IGNORECASE)
_SHORT = frozenset({"N", "n", "B", "b", "bs", "bsz"})


@dataclass(frozen=True)
class Layout:
    """How the arrays of a file hold samples.

    Attributes:
        axes: The batch axis of inputs where it is not the first.
        is_whole: The file is one feed.
        note: Why each file is one feed, where that is a guess; None where the axes are certain.
    """

    axes: Mapping[str, int]
    is_whole: bool = False
    note: str | None = None


@dataclass(frozen=True)
class BatchAxes:
    """What the user says with ``--batch-axis`` and ``--whole-files``.

    Attributes:
        axes: The batch axis by input; of the other inputs it is found out.
        whole_files: Each file is one feed.
    """

    axes: Mapping[str, int]
    whole_files: bool = False

    def check(self, inputs: Sequence[TensorSpec]) -> None:
        """Refuse what does not fit the model.

        Raises:
            InputError: There is no such input, or it has no such axis.
        """
        ranks = {spec.name: spec.rank for spec in inputs}
        for name, axis in self.axes.items():
            if name not in ranks:
                raise InputError(
                    f"--batch-axis {name}={axis}: the model has no input '{name}'",
                    note=f"its inputs are {'; '.join(map(str, inputs))}",
                    hint=did_you_mean(name, ranks),
                )
            rank = ranks[name]
            if axis < 0 or (rank is not None and axis >= rank):
                spec = next(spec for spec in inputs if spec.name == name)
                raise InputError(f"--batch-axis {name}={axis}: there is no such axis", note=f"the input is {spec}")


def batch_name(inputs: Sequence[TensorSpec]) -> str | None:
    """The name of the dimension that is the batch; None where no name says so."""
    firsts = set(symbols_of(inputs, FIRST))
    for likely in ({name for name in symbols_of(inputs) if _LIKE_BATCH.search(name)}, firsts & _SHORT, firsts):
        if len(likely) == 1:
            return likely.pop()
    return None


def layout_of(inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[int, ...]], batch_axes: BatchAxes) -> Layout:
    """How arrays of these shapes hold samples.

    Args:
        inputs: The model's.
        shapes: Of each input's array.
        batch_axes: What the user says of it.
    """
    if batch_axes.whole_files:
        return Layout({}, is_whole=True)
    symbol = batch_name(inputs)
    axes = {spec.name: axis for spec in inputs if (axis := _sure(spec, symbol, batch_axes)) is not None}
    # An array with an axis more than its input counts whole feeds along that, whatever is on the others.
    left = [spec for spec in inputs if spec.name not in axes and spec.shape and len(shapes[spec.name]) == spec.rank]
    leads = [spec for spec in inputs if spec.name in axes or (spec in left and _has_rows(spec, shapes[spec.name]))]
    sliced = [spec for spec in leads if len(shapes[spec.name]) == spec.rank]
    rows = max((_count(spec, shapes[spec.name], axes.get(spec.name, 0)) for spec in sliced), default=1)
    doubtful = []
    for spec in left:
        found = _by_size(spec, shapes[spec.name], rows)
        if found is None:
            doubtful.append(spec.name)
        else:
            axes[spec.name] = found
    if _is_crossed(inputs, symbol, batch_axes):
        doubtful = [spec.name for spec in inputs if spec.name not in batch_axes.axes]
    if not doubtful:
        return Layout({name: axis for name, axis in axes.items() if axis})
    name = doubtful[0]
    doubt = f"which axis of '{name}' holds the samples is not certain: each file is taken for one feed"
    return Layout({}, is_whole=True, note=f"{doubt}; --batch-axis '{name}=AXIS' says it, --whole-files that it is so")


def _sure(spec: TensorSpec, symbol: str | None, batch_axes: BatchAxes) -> int | None:
    if spec.name in batch_axes.axes:
        return batch_axes.axes[spec.name]
    return spec.shape.index(symbol) if symbol is not None and spec.shape and symbol in spec.shape else None


def _has_rows(spec: TensorSpec, shape: tuple[int, ...]) -> bool:
    """Whether the first axis may have more rows than the model takes at once, or has."""
    first = (spec.shape or (None,))[0]
    return is_free(first) or shape[0] != first


def _count(spec: TensorSpec, shape: tuple[int, ...], axis: int) -> int:
    """How many samples an array holds along an axis."""
    dim = (spec.shape or (None,) * (axis + 1))[axis]
    return shape[axis] // dim if isinstance(dim, int) and dim > 0 else shape[axis]


def _by_size(spec: TensorSpec, shape: tuple[int, ...], rows: int) -> int | None:
    """The axis of an input without a name for the batch, 0 where it has none; None where sizes do not say.

    Args:
        spec: The input.
        shape: Of its array, of the input's rank.
        rows: How many samples the inputs hold whose batch is on their first axis.
    """
    dims = spec.shape or ()
    if _has_rows(spec, shape):
        return 0
    odd = [axis for axis, dim in enumerate(dims) if not is_free(dim) and shape[axis] != dim]
    if len(odd) == 1 and isinstance(size := dims[odd[0]], int) and size and shape[odd[0]] == size * rows:
        return odd[0]
    unnamed = [axis for axis, dim in enumerate(dims) if is_free(dim) and symbol_of(dim) is None]
    several = [axis for axis in unnamed if shape[axis] > 1]
    if not several or rows == 1:
        return 0
    equal = [axis for axis in several if shape[axis] == rows]
    return equal[0] if len(equal) == 1 else None


def _is_crossed(inputs: Sequence[TensorSpec], symbol: str | None, batch_axes: BatchAxes) -> bool:
    """Whether two names stand on the first axis of inputs, one of them on another axis too: either may be the batch."""
    if symbol is not None or batch_axes.axes:
        return False
    firsts, later = set(symbols_of(inputs, FIRST)), set(symbols_of(inputs, LATER))
    return len(firsts) > 1 and bool(firsts & later)
