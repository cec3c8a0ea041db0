"""A count and its noun."""

from __future__ import annotations

from modelopt.core.plural import counted


def test_a_noun_agrees_with_its_count() -> None:
    assert [counted(n, "node") for n in (0, 1, 2, 1200)] == ["0 nodes", "1 node", "2 nodes", "1,200 nodes"]
    assert [counted(n, "fresh process") for n in (1, 3)] == ["1 fresh process", "3 fresh processes"]
