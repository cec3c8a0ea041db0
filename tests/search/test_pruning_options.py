"""Which options make sense together, and which ask for a search: said without a load of the model."""

from __future__ import annotations

from typing import Any

import pytest

from modelopt.commands.prune import PruneOptions
from modelopt.core.errors import InputError
from modelopt.recipe.dumping import dump
from modelopt.recipe.parsing import parse
from modelopt.recipe.recipe import Search
from tests.command_line import CALIB, EVAL, MLP


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (
            {"pattern": "channel", "sparsity": 0.5, "target_macs": 0.5},
            "--sparsity and --target-macs exclude each other",
        ),
        ({"target_speedup": 1.5}, "--target-speedup is not for --pattern unstructured"),
        ({"pattern": "2:4", "align": "auto"}, "--align is not for --pattern 2:4"),
        ({"pattern": "head", "scope": "global"}, "--scope is not for --pattern head"),
        ({"pattern": "channel", "align": "none", "target_macs": 0.5}, "--align none is no multiple"),
        ({"pattern": "channel", "target_macs": 50.0}, "--target-macs 50 is not between 0 and 1"),
        ({"pattern": "channel", "target_speedup": 0.5}, "--target-speedup 0.5 is not above 1"),
        ({"pattern": "channel", "target_speedup": 2, "bench": False}, "--target-speedup needs a benchmark"),
        ({"pattern": "channel", "importance": "wanda"}, "--importance wanda needs calibration data"),
        ({"pattern": "channel", "sparsity": 0.5, "align": "auto", "bench": False}, "--align auto needs a benchmark"),
        ({"pattern": "channel", "sparsity": 50.0, "align": "auto"}, "sparsity 50.0 is not"),
        ({"pattern": "channel", "sparsity": 50.0}, "sparsity 50.0 is not"),
        ({"pattern": "layer", "sparsity": 25.0}, "sparsity 25.0 is not"),
        ({"pattern": "layer", "align": 8, "target_macs": 0.5}, "--align is not for --pattern layer"),
        ({"pattern": "layer", "scope": "global"}, "--scope is not for --pattern layer"),
        ({"pattern": "layer", "importance": "wanda"}, "--importance wanda is not for --pattern layer"),
        ({"pattern": "layer", "importance": "influence"}, "--importance influence needs calibration data"),
        ({"pattern": "channel", "importance": "influence"}, "--importance influence is not for --pattern channel"),
        ({"pattern": "layer", "sparsity": 0.5, "target_macs": 0.5}, "--sparsity and --target-macs exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(options: dict[str, Any], fact: str) -> None:
    with pytest.raises(InputError) as caught:
        PruneOptions("none.onnx", **options).plan()
    assert fact in caught.value.fact


@pytest.mark.parametrize(
    ("options", "searches"),
    [
        ({}, False),  # half of each group, as the pass says
        ({"sparsity": 0.3, "max_drop": 0.01, "eval": EVAL}, False),
        ({"calib": CALIB}, True),
        ({"eval": EVAL}, True),
        ({"calib": "random"}, False),
        ({"target_macs": 0.5}, True),
        ({"max_size": 10_000}, True),
    ],
)
def test_widths_are_searched_where_something_says_how_far_to_go(options: dict[str, Any], searches: bool) -> None:
    for pattern in ("channel", "layer"):
        _searches_or_not(pattern, options, searches)


def _searches_or_not(pattern: str, options: dict[str, Any], searches: bool) -> None:
    recipe = PruneOptions(MLP, pattern=pattern, **options).plan().recipe
    assert (recipe.search is Search.PRUNE) is searches
    assert parse(dump(recipe)) == recipe
    if searches and ("calib" in options or "eval" in options):
        assert recipe.gates.max_drop == 0.01
