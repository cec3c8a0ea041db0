"""The campaigns in small: `make conformance` and `make fuzz` run them whole."""

from __future__ import annotations

import pytest

from tests.campaigns import conformance, fuzz, generate, planted


def test_file_models_through_the_default_pipeline() -> None:
    cases = [case for case in conformance.file_cases() if case.size_bytes < 2**20 and not case.is_light]
    table = conformance.campaign(cases, ["EXACT"], jobs=0)
    assert len(cases) > 100
    assert table.failures == []
    assert table.rows["EXACT"].preserved >= 100


@pytest.mark.filterwarnings("ignore")  # onnx's generators of cases warn
def test_some_node_cases_through_the_default_pipeline() -> None:
    table = conformance.campaign(conformance.node_cases()[::30], ["EXACT"], jobs=0)
    assert table.failures == []
    assert table.rows["EXACT"].preserved > 50
    assert table.rows["EXACT"].changed > 5


def test_generated_models_keep_their_outputs() -> None:
    tally = fuzz.campaign(range(100), ["FUSE", "EXACT"], jobs=0)
    assert tally.failures == []
    assert tally.ran > 95
    assert tally.rewrites["EXACT"] > 300


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


def test_there_are_enough_planted_bugs() -> None:
    assert len(planted.BUGS) >= 50
