"""Which dimensions have a name, and which of them are known to be equal."""

from __future__ import annotations

import pytest

from modelopt.core.signature import (
    FIRST,
    LATER,
    Dim,
    TensorSpec,
    known_equal,
    name_in,
    no_dimension,
    symbol_of,
    symbols_of,
)

ANONYMOUS = ["", "?", "*", "-1", "None", None, -1]


@pytest.mark.parametrize("dim", ANONYMOUS)
def test_what_exporters_write_for_nothing_names_no_dimension_and_equates_none(dim: Dim) -> None:
    assert symbol_of(dim) is None
    assert not known_equal(dim, dim)
    assert name_in("x", 1, dim) == "x:1"


def test_an_axis_is_named_by_its_dimension_or_by_its_place() -> None:
    assert [name_in("x", 0, dim) for dim in ("batch", None, 4)] == ["batch", "x:0", None]


def test_the_names_of_a_signature_come_once_and_by_axis() -> None:
    specs = [TensorSpec("x", "float32", ("n", "*", 4)), TensorSpec("y", "float32", ("?", "n", "m"))]
    assert symbols_of(specs) == ("n", "m")
    assert symbols_of(specs, FIRST) == ("n",)
    assert symbols_of(specs, LATER) == ("n", "m")
    assert symbols_of([TensorSpec("x", "float32", None)]) == ()


def test_a_name_that_no_dimension_has_is_explained() -> None:
    mistyped, anonymous = no_dimension("bacth", ("batch",), "use x:0"), no_dimension("*", (), "use x:0")
    assert (mistyped.note, mistyped.hint) == ("open dimensions: batch", "did you mean 'batch'?")
    assert (anonymous.note, anonymous.hint) == ("no input has an open dimension with a name", "use x:0")
