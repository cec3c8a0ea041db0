"""What counts in C and what counts in numpy agree, value for value."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.calibration import bincount

compiled = pytest.mark.skipif(not shutil.which(os.environ.get("CC", "cc")), reason="there is no C compiler")
values = st.lists(st.floats(-8.0, 7.96875, width=32), max_size=40)


def counted(how: object, array: np.ndarray, bins: int = 512) -> np.ndarray:
    counts = np.zeros(bins, np.int64)
    how(array, 32.0, -256, counts)  # type: ignore[operator]
    return counts


@given(values)
def test_numpy_counts_each_value_in_the_bin_that_its_quotient_is_cut_off_to(listed: list[float]) -> None:
    array = np.array(listed, np.float32)
    expected = np.bincount(np.trunc(array.astype(np.float64) * 32).astype(np.int64) + 256, minlength=512)
    np.testing.assert_array_equal(counted(bincount.add_in_numpy, array), expected)


@compiled
def test_a_compiler_was_used_where_there_is_one() -> None:
    assert bincount.kind() == "C"


@compiled
@given(values, st.integers(0, 5000))
def test_c_counts_as_numpy_does(listed: list[float], repeated: int) -> None:
    array = np.concatenate([np.array(listed, np.float32), np.full(repeated, -0.25, np.float32)])
    np.testing.assert_array_equal(counted(bincount.add_in_c, array), counted(bincount.add_in_numpy, array))


@compiled
def test_c_counts_arrays_larger_than_its_blocks_and_adds_to_what_is_there() -> None:
    array = np.random.default_rng(0).uniform(-8, 8, 300_001).astype(np.float32)
    counts = counted(bincount.add_in_c, array)
    assert counts.sum() == array.size
    bincount.add_in_c(array, 32.0, -256, counts)
    np.testing.assert_array_equal(counts, 2 * counted(bincount.add_in_numpy, array))


@compiled
def test_c_refuses_more_bins_than_it_has_and_numpy_takes_over() -> None:
    array = np.full(3, 1.0, np.float32)
    with pytest.raises(ValueError, match="too many bins"):
        counted(bincount.add_in_c, array, bins=4096)
    assert counted(bincount.add, array, bins=4096)[288] == 3


@compiled
def test_c_writes_nothing_outside_of_the_bins() -> None:
    guarded = np.zeros(600, np.int64)
    bincount.add_in_c(np.array([1e9, -1e9, np.nan, np.inf], np.float32), 32.0, -256, guarded[40:552])
    assert guarded[:40].sum() == guarded[552:].sum() == 0
    assert guarded.sum() == 4


def test_without_a_compiled_counter_numpy_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bincount, "_compiled", lambda: None)
    assert bincount.kind() == "numpy"
    assert counted(bincount.add, np.full(5, 1.0, np.float32))[288] == 5
