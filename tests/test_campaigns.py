"""The campaigns in small: `make conformance` and `make fuzz` run them whole."""

from __future__ import annotations

import pytest

from modelopt import passes
from modelopt.core.changes import Effect
from tests.campaigns import cases, conformance, fuzz, generate, lab, planted, planted_bugs, planted_reach

CHANGING = ["upgrade-opset", "freeze-dims"]


def test_every_exact_pass_has_a_row() -> None:
    exact = {name for name in passes.NAMES if passes.find(name).effect is Effect.EXACT}
    assert {*lab.EXACT_PASSES} == exact - {"onnxsim"}
    assert {*lab.LEFT_OUT} == {"onnxsim"}
    assert all(reason in "\n".join(conformance.Table().lines()) for reason in lab.LEFT_OUT.values())


def test_file_models_through_the_default_pipeline() -> None:
    chosen = [case for case in cases.file_cases() if case.size_bytes < 2**20 and not case.is_light][::2]
    table = conformance.campaign(chosen, ["EXACT", *CHANGING, "freeze-weights"], jobs=0)
    assert len(chosen) > 50
    assert table.failures == []
    assert table.lowest_share >= 0.99
    assert table.rows["EXACT"].preserved >= 45
    assert table.rows["upgrade-opset"].changed >= 50
    assert table.rows["freeze-weights"].changed > 5


@pytest.mark.filterwarnings("ignore")  # onnx's generators of cases warn
def test_some_node_cases_through_the_default_pipeline() -> None:
    table = conformance.campaign(cases.node_cases(every=6)[::5], ["EXACT", *CHANGING], jobs=0)
    assert table.failures == []
    assert table.lowest_share >= 0.95
    assert table.rows["EXACT"].preserved > 12
    assert table.rows["EXACT"].changed > 1
    assert table.rows["upgrade-opset"].changed > 1


def test_generated_models_keep_their_outputs() -> None:
    tally = fuzz.campaign(range(40), ["FUSE", "EXACT"], jobs=0)
    assert tally.failures == []
    assert tally.ran > 36
    assert tally.rewrites["EXACT"] > 120


def test_generated_models_keep_their_outputs_in_a_later_opset_and_in_one_shape() -> None:
    tally = fuzz.campaign(range(30), CHANGING, jobs=0)
    assert tally.failures == []
    assert tally.rewrites["upgrade-opset"] > 6
    assert tally.rewrites["freeze-dims"] > 7


def test_a_seed_is_a_model() -> None:
    assert generate.model(5).proto == generate.model(5).proto
    assert generate.model(5).proto != generate.model(6).proto


def test_the_shrinker_drops_what_is_not_needed() -> None:
    generated = generate.model(3)
    smaller = generate.without(generated, len(generated.proto.graph.node) - 1)
    assert smaller is None or len(smaller.proto.graph.node) == len(generated.proto.graph.node) - 1


def test_planted_bugs_are_caught_and_named() -> None:
    chosen = [
        "bn-epsilon-tenfold",
        "bn-mean-sign",
        "bn-fold-across-fan-out",
        "conv-bias-dropped",
        "conv-pads-order",
        "affine-sub-operands",
        "affine-one-channel",
        "hardsigmoid-alpha-rounded",
        "gemm-transposed",
        "transposes-in-the-wrong-order",
        "reshape-zero-as-copy",
        "fold-thousand-ulps",
        "fold-wrong-dtype",
        "dedup-of-unequal-tensors",
        "dead-code-that-is-captured",
        "output-name-lost",
    ]
    assert [catch.bug for catch in planted.campaign(chosen) if not catch.named] == []


def test_bugs_that_show_only_on_feeds_that_reach_them_are_caught_and_named() -> None:
    escaped = [catch.bug for catch in planted.campaign(list(planted_reach.REACH)) if not catch.named]
    assert escaped == []


def test_there_are_enough_planted_bugs() -> None:
    assert len(planted_bugs.BUGS) >= 50
    assert len(planted_reach.REACH) >= 21
