"""Shares, sizes and times as users write them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.core import quantities
from modelopt.core.quantities import BadQuantity


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (quantities.share, "1%", 0.01),
        (quantities.share, " 0.5 ", 0.5),
        (quantities.share, "0", 0.0),
        (quantities.share, "100%", 1.0),
        (quantities.size, "50%", 0.5),
        (quantities.size, "150%", 1.5),
        (quantities.size, "3MB", 3_000_000),
        (quantities.size, "1.5kib", 1536),
        (quantities.n_bytes, "200MB", 200_000_000),
        (quantities.n_bytes, "17 B", 17),
        (quantities.nanoseconds, "2ms", 2_000_000),
        (quantities.nanoseconds, "1.5 s", 1_500_000_000),
        (quantities.nanoseconds, "500us", 500_000),
        (quantities.nanoseconds, "500µs", 500_000),
    ],
)
def test_a_quantity(parse: Callable[[str], float], text: str, value: float) -> None:
    assert parse(text) == value
    assert type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("parse", "text", "message"),
    [
        (quantities.share, "1", "'1' has no unit: it may mean 1% or 100%"),
        (quantities.share, "50", "'50' has no unit: it may mean 50% or 5000%"),
        (quantities.share, "101%", "'101%' is not between 0% and 100%"),
        (quantities.share, "-1%", "'-1%' is not between 0% and 100%"),
        (quantities.share, "nan%", "'nan%' is not a fraction such as 1% or 0.01"),
        (quantities.share, "1e9999999%", "'1e9999999%' is not a fraction such as 1% or 0.01"),
        (quantities.size, "1e9999999%", "'1e9999999%' is not a size such as 3MB or 50%"),
        (quantities.share, "much", "'much' is not a fraction such as 1% or 0.01"),
        (quantities.size, "5", "'5' has no unit: it may mean 5MB or 5% of the input's size"),
        (quantities.size, "0%", "'0%' is not a size such as 3MB or 50%"),
        (quantities.size, "3 parsecs", "'3 parsecs' is not a size such as 3MB or 50%"),
        (quantities.size, "-3MB", "'-3MB' is not a size such as 3MB or 50%"),
        (quantities.n_bytes, "200", "'200' has no unit: it may mean 200MB or 200 bytes (200B)"),
        (quantities.nanoseconds, "2", "'2' has no unit: it may mean 2ms or 2s"),
        (quantities.nanoseconds, "2MB", "'2MB' is not a time such as 2ms"),
    ],
)
def test_what_is_none(parse: Callable[[str], float], text: str, message: str) -> None:
    with pytest.raises(BadQuantity) as caught:
        parse(text)
    assert str(caught.value) == message


@given(st.floats(0, 1))
def test_a_share_survives_its_text(value: float) -> None:
    assert quantities.share(quantities.share_text(value)) == value


@given(st.integers(1, 2**60))
def test_bytes_and_times_survive_their_text(count: int) -> None:
    assert quantities.n_bytes(quantities.bytes_text(count)) == count
    assert quantities.nanoseconds(quantities.time_text(count)) == count


def test_texts_are_short() -> None:
    assert [quantities.share_text(value) for value in (0.01, 0.005, 1.0)] == ["1%", "0.5%", "100%"]
    assert [quantities.bytes_text(count) for count in (5_000_000, 1_500_000, 1_234_567, 0)] == [
        "5MB",
        "1.5MB",
        "1234.567kB",
        "0B",
    ]
    assert [quantities.time_text(ns) for ns in (2_000_000, 1_500_000_000, 123)] == ["2ms", "1.5s", "123ns"]
