"""Whatever numbers a file holds, the analysis ends: what does not fit is a reason for channels to stay."""

from __future__ import annotations

from collections import Counter

import pytest

from modelopt.pruning import channel_removal, interval_rules
from modelopt.pruning.channel_groups import channels_of
from modelopt.pruning.channel_macs import ChannelMacs
from modelopt.pruning.dead_channels import DeadChannels
from modelopt.pruning.dependencies import analyse
from modelopt.pruning.dependency_rules import RULES
from modelopt.pruning.value_intervals import value_bounds
from modelopt.runtime.worker_runner import WorkerRunner
from tests.campaigns.pruned import found_in
from tests.pruning.damaged_models import damaged
from tests.pruning.layers import SEQUENCE, layer

MISFIT = "do not fit each other"
LAYERS = {
    "groups that do not divide the channels read": layer(
        "c = Conv (x, w)  d = Conv <group = 3> (c, g)  y = Conv (d, v)",
        (),
        MISFIT,
        w=(4, 4, 1, 1),
        g=(6, 2, 1, 1),
        v=(2, 6, 1, 1),
    ),
    "groups that do not divide the channels made": layer(
        "c = Conv (x, w)  d = Conv <group = 2> (c, g)  y = Conv (d, v)",
        (),
        MISFIT,
        w=(4, 4, 1, 1),
        g=(5, 2, 1, 1),
        v=(2, 5, 1, 1),
    ),
    "no groups": layer(
        "c = Conv (x, w)  d = Conv <group = 0> (c, g)  y = Conv (d, v)",
        (),
        MISFIT,
        w=(4, 4, 1, 1),
        g=(4, 1, 1, 1),
        v=(2, 4, 1, 1),
    ),
    "blocks that do not divide the channels": layer(
        "c = Conv (x, w)  d = DepthToSpace <blocksize = 4> (c)  y = Conv (d, v)",
        (),
        MISFIT,
        w=(12, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "blocks of no pixels": layer(
        "c = Conv (x, w)  d = SpaceToDepth <blocksize = 0> (c)  y = Conv (d, v)",
        (),
        MISFIT,
        w=(4, 4, 1, 1),
        v=(2, 4, 1, 1),
    ),
    "a permutation of fewer axes": layer(
        "c = Conv (x, w)  t = Transpose <perm = [0, 2, 1]> (c)  y = MatMul (t, v)",
        (),
        "no order",
        w=(6, 4, 1, 1),
        v=(6, 2),
    ),
    "parts of another sum": layer(
        "c = Conv (x, w)  s, t = Split <axis = 1> (c, i)  u = Add (s, t)  y = Conv (u, v)",
        (),
        "of its parts",
        more="int64[2] i = {3, 4}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "an axis that is not there": layer(
        "c = Conv (x, w)  d = Concat <axis = 5> (c, c)  y = Conv (d, v)",
        (),
        "an axis that is not there",
        w=(6, 4, 1, 1),
        v=(2, 12, 1, 1),
    ),
    "an index that is not there": layer(
        "c = Conv (x, w)  s = Gather <axis = 1> (c, i)  y = Conv (s, v)",
        (),
        MISFIT,
        more="int64[3] i = {4, 9, 2}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "more bounds than axes": layer(
        "c = Conv (x, w)  s = Slice (c, i, j, k)  y = Conv (s, v)",
        (),
        MISFIT,
        more="int64[2] i = {1, 1}, int64[2] j = {4, 2}, int64[1] k = {1}",
        w=(6, 4, 1, 1),
        v=(2, 3, 1, 1),
    ),
    "heads that do not divide the width": layer(
        "a = com.microsoft.Attention <num_heads = 5> (x, w, b)  y = MatMul (a, v)",
        (),
        "not alike",
        x=SEQUENCE,
        w=(4, 18),
        b=(18,),
        v=(6, 2),
    ),
    "groups that do not divide what is normalized": layer(
        "c = Conv (x, w)  d = GroupNormalization <num_groups = 4> (c, s, b)  y = Conv (d, v)",
        (),
        "not alike",
        w=(6, 4, 1, 1),
        s=(6,),
        b=(6,),
        v=(2, 6, 1, 1),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_what_does_not_fit_stays_with_a_reason(name: str, runner: WorkerRunner) -> None:
    case = LAYERS[name]
    channels = found_in(case.model(), runner)[1]
    assert not channels.groups
    assert any(case.reason in why for why in channels.unproven), channels


@pytest.mark.parametrize("first", range(0, 320, 80))
def test_damaged_models_are_analysed_and_pruned(first: int) -> None:
    """Nothing is raised, and what is removed is removed from all that the analysis names."""
    totals: Counter[str] = Counter()
    for seed in range(first, first + 80):
        model = damaged(seed)
        if model is None:
            continue
        found = analyse(model, RULES)
        channels = channels_of(found)
        dead = DeadChannels(found, value_bounds(model, interval_rules.RULES), 1)
        dead.shares(dead.dead())
        removed = [atom for group in channels.groups for atom in group.channels[: group.width // 2]]
        counted = ChannelMacs.of(model, found)
        assert 0 <= counted.without(removed) <= counted.total
        channel_removal.remove(model, found, removed)
        totals.update(models=1, misfits=any("fit" in why for why in channels.unproven), removed=bool(removed))
    assert totals["models"] > 30
    assert totals["misfits"] > 3
    assert totals["removed"] > 20
