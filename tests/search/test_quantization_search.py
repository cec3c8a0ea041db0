"""The search for a recipe that keeps the contract: what it tries, what it finds, what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.report import Outcome
from modelopt.search import exclusions
from modelopt.search.accuracy import Judgement
from modelopt.search.attempts import within_contract
from modelopt.search.fallbacks import repairs
from tests.command_line import CALIB, CNN, EVAL, MLP, modelopt, sample

VIT = sample("digits_vit")
BRIEFLY = ("--budget", "0.3", "--warmup", "0.1", "--rounds", "3")


# The contract


@pytest.mark.parametrize(
    ("judgement", "outcome", "reason"),
    [
        (Judgement(0.01), Outcome.SURPASSED, "it keeps the contract; fewer nodes in float do too"),
        (Judgement(0.01 + 1e-12), Outcome.SURPASSED, "it keeps the contract; fewer nodes in float do too"),
        (Judgement(-0.02), Outcome.SURPASSED, "it keeps the contract; fewer nodes in float do too"),
        (Judgement(0.0101), Outcome.INACCURATE, "accuracy fell by 1.01%: 1.00% is allowed"),
        (Judgement(math.inf), Outcome.INACCURATE, "accuracy is lost: 1.00% is allowed"),
        (Judgement(0.0, no_evidence="chance"), Outcome.NO_EVIDENCE, "accuracy cannot be judged: chance"),
        (Judgement(math.inf, does_not_run="SIGSEGV"), Outcome.FAILED, "it does not run: SIGSEGV"),
    ],
)
def test_when_a_model_keeps_the_contract(judgement: Judgement, outcome: Outcome, reason: str) -> None:
    assert within_contract(judgement, 0.01) == (outcome, reason)


# The command


FOR_VNNI = ("--target", "x86-vnni")
"""Where int8 is estimated to pay for the models here; on which machine it is tried does not matter."""


def _tried(tmp_path: Path, *words: str | Path) -> dict[str, Any]:
    done = modelopt("quantize", *words, "-o", "x.onnx", "--json", *BRIEFLY, cwd=tmp_path).succeeded()
    report: dict[str, Any] = json.loads(done.out)
    return report


def test_the_result_is_never_slower_or_less_accurate(tmp_path: Path) -> None:
    data = ("--calib", CNN.with_name("calib.npz"), "--eval", CNN.with_name("eval.npz"))
    report = _tried(tmp_path, CNN, *data, "--calib-limit", "16", "--eval-limit", "100")
    assert report["trials"]
    gates = {gate["gate"]: gate["outcome"] for gate in report["gates"]}
    assert gates["max-drop"] != "failed"
    assert gates.get("must-gain") != "failed"  # where nothing is shown to gain, the input takes its place


def test_an_integer_model_that_loses_accuracy_is_repaired_or_left_out(tmp_path: Path) -> None:
    flags = ("--calib", CALIB, "--eval", EVAL, "--max-drop", "0%", "--no-bench", "--activation", "s8", "--per-tensor")
    report = _tried(tmp_path, MLP, *flags)
    assert not report["gates"][0]["stops"]
    for trial in report["trials"]:
        assert not trial["kept"] or trial["drop"] <= 0


def test_without_labels_samples_are_held_out(tmp_path: Path) -> None:
    flags = ("--calib", VIT.with_name("calib.npz"), "-o", "x.onnx", "--no-bench", *FOR_VNNI)
    done = modelopt("quantize", VIT, *flags, cwd=tmp_path).succeeded()
    assert "of the calibration samples are held out" in done.err
    assert "classes that differ from the original's" in done.err


def test_no_search_does_as_told(tmp_path: Path) -> None:
    flags = ("--calib", CALIB, "--no-search", "--no-bench", "--everywhere")
    report = _tried(tmp_path, MLP, *flags)
    assert report["trials"] == []
    assert any(node.op_type == "DequantizeLinear" for node in onnx.load(tmp_path / "x.onnx").graph.node)


def test_a_size_that_was_asked_for_is_kept_at_any_speed(tmp_path: Path) -> None:
    report = _tried(tmp_path, MLP, "--calib", CALIB, "--calib-limit", "16", "--max-size", "60%")
    assert (tmp_path / "x.onnx").stat().st_size <= 0.6 * MLP.stat().st_size
    assert "must-gain" not in {gate["gate"] for gate in report["gates"]}


def test_a_model_on_stdin_can_be_tried(tmp_path: Path) -> None:
    flags = ("--calib", CNN.with_name("calib.npz"), "-o", "x.onnx", "--no-bench")
    modelopt("quantize", "-", *flags, cwd=tmp_path, stdin=CNN.read_bytes()).succeeded()
    onnx.checker.check_model(tmp_path / "x.onnx", full_check=True)


@pytest.mark.parametrize(("metric", "said"), [("cosine", "1 - cosine"), ("sqnr", "error relative to")])
def test_the_metric_of_the_contract_can_be_chosen_without_labels(tmp_path: Path, metric: str, said: str) -> None:
    flags = ("--calib", VIT.with_name("calib.npz"), "--metric", metric, "--max-drop", "10%", "--no-bench", *FOR_VNNI)
    done = modelopt("quantize", VIT, *flags, "-o", "x.onnx", cwd=tmp_path).succeeded()
    assert said in done.err


def test_weights_of_few_bits_are_rounded_in_other_ways_until_the_contract_holds(tmp_path: Path) -> None:
    data = ("--calib", VIT.with_name("calib.npz"), "--eval", VIT.with_name("eval.npz"))
    brief = ("--max-drop", "0.5%", "--no-bench", "--calib-limit", "32", "--eval-limit", "200")
    report = _tried(tmp_path, VIT, "--mode", "weights", "--bits", "2", *data, *brief)
    first, *others = report["trials"]
    assert first["drop"] > 0.005
    assert [trial["kept"] for trial in others][-1]
    assert not report["gates"][0]["stops"]
    assert any(node.op_type == "MatMulNBits" for node in onnx.load(tmp_path / "x.onnx").graph.node)


def test_worst_nodes_stay_in_float_where_rounding_does_not_help(tmp_path: Path) -> None:
    flags = ("--mode", "weights", "--bits", "2", "--block-size", "256", "--eval", VIT.with_name("eval.npz"))
    report = _tried(tmp_path, VIT, *flags, "--max-drop", "0%", "--no-bench", "--eval-limit", "60")
    assert not report["gates"][0]["stops"]
    assert report["offenders"]
    assert report["offenders"][0]["gain"] is not None
    labels = [trial["group"] for trial in report["trials"]]
    (in_float, *_) = (i for i, label in enumerate(labels) if label.endswith("in float"))
    assert any("int8-compute=False" in label for label in labels[:in_float])


def test_tables_get_more_bits_and_products_float32_before_nodes_are_given_back() -> None:
    def tried(asked: QuantizeWeights, *, tables: bool) -> list[QuantizeWeights]:
        return [
            made for _, made in repairs(asked, with_data=False, with_tables=tables) if isinstance(made, type(asked))
        ]

    computed = [made.int8_compute for made in tried(QuantizeWeights(), tables=False)]
    assert computed == [None, None, False, False]  # the slower ones last
    assert [made.table_bits for made in tried(QuantizeWeights(), tables=True)] == [None, None, 8, None, 8]
    assert not any(made.int8_compute is False for made in tried(QuantizeWeights(int8_compute=True), tables=True))
    assert not any(
        made.int8_compute is False for made in tried(QuantizeWeights(form=WeightFormat.BLOCKED), tables=True)
    )


def test_a_table_can_be_what_costs_accuracy() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17]>
    net (int64[n] i) => (float[n,2] y) <float[3,2] t = {1, 2, 3, 4, 5, 6}, float[2,2] w = {1, 2, 3, 4}>
    { [look] e = Gather (t, i)  [product] y = MatMul (e, w) }
    """
    before, after = ir.from_onnx_text(text), ir.from_onnx_text(text)
    for node in after.graph:
        node.op_type, node.domain = f"{node.op_type}InFewBits", "test"
    assert exclusions.changed(before, after) == ["product"]
    assert exclusions.changed(before, after, tables=True) == ["look", "product"]
    assert exclusions.has_tables(before)
    assert not exclusions.has_tables(after)


def test_half_precision_keeps_a_contract_where_there_are_data(tmp_path: Path) -> None:
    report = _tried(tmp_path, VIT, "--mode", "fp16", "--eval", VIT.with_name("eval.npz"), "--no-bench")
    assert [gate["gate"] for gate in report["gates"]] == ["max-drop"]
    assert report["output"]["size_bytes"] < 0.6 * report["input"]["size_bytes"]
