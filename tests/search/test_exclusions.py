"""Which nodes cause the error, and the fewest of them that must stay in float."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelopt.search import exclusions
from modelopt.search.sensitivity import rank

# Which nodes cause the error


def test_the_worst_nodes_come_first_in_few_evaluations() -> None:
    errors = dict.fromkeys((f"n{i}" for i in range(64)), 1e-6) | {"n5": 1.0, "n40": 0.3}
    asked = []

    def error_of(group: Sequence[str]) -> float:
        asked.append(len(group))
        return sum(errors[name] for name in group)

    found = rank(list(errors), error_of)
    assert [suspect.nodes for suspect in found[:2]] == [("n5",), ("n40",)]
    assert len(asked) <= 24
    assert sorted(name for suspect in found for name in suspect.nodes) == sorted(errors)


def test_a_single_node_needs_no_evaluation() -> None:
    assert rank([], lambda group: pytest.fail("asked")) == []  # no changed node has a name that is known
    assert [suspect.nodes for suspect in rank(["a"], lambda group: pytest.fail("asked"))] == [("a",)]


# How many of them stay in float


def _fewest(enough: int, most: int, max_tries: int = exclusions.MAX_TRIES) -> tuple[int | None, list[int]]:
    """What the search finds where `enough` nodes in float keep the contract, and the counts that it tried."""
    tried: list[int] = []

    def attempt(count: int) -> str | None:
        tried.append(count)
        return f"{count} in float" if count >= enough else None

    found = exclusions.fewest(most, attempt, max_tries)
    assert found is None or found[1] == f"{found[0]} in float"
    return None if found is None else found[0], tried


@pytest.mark.parametrize(
    ("enough", "most", "tried"),
    [
        (1, 20, [1]),
        (2, 20, [1, 2]),
        (3, 20, [1, 2, 4, 3]),
        (6, 20, [1, 2, 4, 8, 6, 5]),
        (19, 20, [1, 2, 4, 8, 16, 20, 18, 19]),  # the last count is `most`, and what failed is not tried again
        (1, 1, [1]),
        (3, 3, [1, 2, 3]),
    ],
)
def test_the_fewest_nodes_are_found_by_galloping(enough: int, most: int, tried: list[int]) -> None:
    assert _fewest(enough, most) == (enough, tried)


@given(st.integers(1, 200), st.integers(1, 200))
def test_the_fewest_nodes_are_found_where_there_are_tries_enough(enough: int, most: int) -> None:
    found, tried = _fewest(enough, most, max_tries=30)
    assert found == (enough if enough <= most else None)
    assert len(tried) == len(set(tried)) <= 2 * min(enough, most).bit_length() + 2


@given(st.integers(1, 200), st.integers(-1, 200), st.integers(0, 10))
def test_what_is_found_keeps_the_contract_whatever_the_number_of_tries(enough: int, most: int, max_tries: int) -> None:
    found, tried = _fewest(enough, most, max_tries)
    assert found is None or enough <= found <= most
    assert len(tried) <= max_tries
