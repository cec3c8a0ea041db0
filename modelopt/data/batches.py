"""How the arrays of one file are cut into samples: pure arithmetic on shapes.

For an input of rank r:

=================  ==================================================================================
array of rank r    one axis is the batch axis, the first in most models: see `batch_axis`. A sample is a slice
                   of B rows if the model fixes it to B, else of ``batch`` rows. Rows that do not fill a fixed
                   B are dropped and counted; an array that is exactly one fixed B long is the same for each
                   sample when others have more.
array of rank r+1  axis 0 counts the samples; each is a whole feed.
scalar input       shape ``(n,)``: one per sample; shape ``()``: the same for each sample.
unknown rank       the whole array is one sample, as where a file is one feed.
=================  ==================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.arrayfile import Header
from modelopt.data.batch_axis import Layout
from modelopt.data.check import check_shape, fixed_size
from modelopt.data.dtypes import check_dtype


@dataclass(frozen=True)
class Cut:
    """How one array is cut.

    Attributes:
        count: The number of samples it holds.
        step: Rows per sample; 0 where axis 0 counts samples; None where the array is one whole sample.
        rows: The length of the batch axis where it is sliced, else `count`.
        dropped: Rows at the end that fill no fixed batch.
        is_shareable: One sample that may stand for every sample.
        axis: The batch axis.
    """

    count: int
    step: int | None
    rows: int
    dropped: int = 0
    is_shareable: bool = False
    axis: int = 0

    def at(self, array: np.ndarray, index: int) -> np.ndarray:
        """Sample ``index`` of the array, as a view."""
        if self.step is None:
            return array
        if self.step == 0:
            return np.asarray(array[index])
        part = slice(index * self.step, min((index + 1) * self.step, self.rows - self.dropped))
        return array[(*(slice(None),) * self.axis, part)]

    def size(self, index: int) -> int | None:
        """The rows of sample ``index``; None where the array is not sliced."""
        return min((index + 1) * self.step, self.rows - self.dropped) - index * self.step if self.step else None


WHOLE = Cut(count=1, step=None, rows=1)
_SHARED = Cut(count=1, step=None, rows=1, is_shareable=True)


@dataclass(frozen=True)
class CutPlan:
    """How one file is cut.

    Attributes:
        count: The number of samples.
        cuts: One per input, by name.
        lead: The cut that decides which rows of the labels belong to a sample.
    """

    count: int
    cuts: Mapping[str, Cut]
    lead: Cut


def plan(
    inputs: Sequence[TensorSpec], headers: Mapping[str, Header], batch: int, where: str, layout: Layout | None = None
) -> CutPlan:
    """Cut every input's array, and make sure that they agree on the number of samples.

    Args:
        inputs: The model's.
        headers: Of the file's arrays.
        batch: Rows per sample where the model leaves the batch free.
        where: How errors call the file.
        layout: Which axes hold samples; None for the first.

    Raises:
        InputError: A wrong dtype, rank or size; no sample at all; two inputs with different numbers of samples; a
            sample larger than `MAX_ARRAY_BYTES`.
        Refused: Strings that are not numpy unicode arrays.
    """
    layout = layout or Layout({})
    cuts = {}
    for spec in inputs:
        header = headers[spec.name]
        check_dtype(spec, header.dtype, where)
        if layout.is_whole:
            check_shape(spec, header.shape, where)
        axis = layout.axes.get(spec.name, 0)
        cuts[spec.name] = WHOLE if layout.is_whole else cut_one(spec, header.shape, batch, where, axis)
        _check_size(spec, header, cuts[spec.name], where)
    if not any(header.nbytes for name, header in headers.items() if name in cuts):
        raise InputError(f"{where}: the arrays hold no values", hint="save at least one sample")

    own = {name: cut for name, cut in cuts.items() if not cut.is_shareable}
    leader = max(own or cuts, key=lambda name: (cuts[name].count, bool(cuts[name].step)))
    for name, cut in own.items():
        if cut.count != cuts[leader].count or _rows_differ(cut, cuts[leader]):
            raise InputError(
                f"{where}: '{leader}' and '{name}' differ in their number of samples",
                note=" and ".join(
                    f"'{each}' {list(headers[each].shape)} has {_counted(cuts[each])} along axis {cuts[each].axis}"
                    for each in (leader, name)
                ),
                hint="save every input with one row per sample, or with a leading axis that counts the samples; "
                "--batch-axis NAME=AXIS says where the samples are, --whole-files that a file is one feed",
            )
    shared = {name: _SHARED if cut.is_shareable else cut for name, cut in cuts.items()}
    return CutPlan(count=cuts[leader].count, cuts=shared, lead=cuts[leader])


def _rows_differ(one: Cut, other: Cut) -> bool:
    return bool(one.step) and one.step == other.step and one.rows != other.rows


def _counted(cut: Cut) -> str:
    rows = f" ({cut.rows} rows, {cut.step} each)" if cut.step else ""
    return f"{cut.count}{rows}"


def _check_size(spec: TensorSpec, header: Header, cut: Cut, where: str) -> None:
    sample_bytes = header.nbytes // cut.count
    if sample_bytes > user_files.MAX_ARRAY_BYTES:
        raise InputError(
            f"{where}: one sample of '{spec.name}' is larger than memory should hold",
            note=f"{sample_bytes} bytes, the limit is {user_files.MAX_ARRAY_BYTES}",
        )


def cut_one(spec: TensorSpec, shape: tuple[int, ...], batch: int, where: str, axis: int = 0) -> Cut:
    """Cut one input's array of this shape along its batch axis.

    Raises:
        InputError: A rank that is neither the input's nor one more, a size that the model fixes otherwise, or no
            sample at all.
    """
    if spec.shape is None:
        return WHOLE
    if spec.shape == () and shape == ():
        return _SHARED
    if len(shape) == len(spec.shape) + 1:
        check_shape(spec, shape[1:], where)
        return _at_least_one(Cut(count=shape[0], step=0, rows=shape[0]), spec, where)
    if len(shape) != len(spec.shape):
        check_shape(spec, shape, where)
    return _at_least_one(_slices(spec, fixed_size(spec.shape[axis]), shape, batch, where, axis), spec, where)


def _slices(spec: TensorSpec, fixed: int | None, shape: tuple[int, ...], batch: int, where: str, axis: int) -> Cut:
    rows = shape[axis]
    if fixed is None:
        check_shape(spec, shape, where)
        return Cut(count=math.ceil(rows / batch), step=batch, rows=rows, axis=axis)
    if rows < fixed or fixed == 0:
        check_shape(spec, shape, where)
        return _SHARED
    check_shape(spec, (*shape[:axis], fixed, *shape[axis + 1 :]), where)
    dropped, shareable = rows % fixed, rows == fixed
    return Cut(count=rows // fixed, step=fixed, rows=rows, dropped=dropped, is_shareable=shareable, axis=axis)


def _at_least_one(cut: Cut, spec: TensorSpec, where: str) -> Cut:
    if cut.count:
        return cut
    raise InputError(f"{where}: '{spec.name}' holds no sample", note=f"the model's input is {spec}")
