"""Times by operator and by layer: they add up to the whole run, in whichever table."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from modelopt.report.layer_tables import BETWEEN, by_layer, by_operator
from modelopt.runtime.coverage import Kind, NodeCost, NodeTimes
from tests.command_line import CNN, FAST, QUICK, modelopt, sample

RECORDED = NodeTimes(
    layers=(
        NodeCost(node="a", op_type="Conv", kind=Kind.FLOAT, kernel="Conv", runs_ns=(400, 40, 41, 900)),
        NodeCost(node="b", op_type="Conv", kind=Kind.FLOAT, kernel="Conv", runs_ns=(300, 30, 31, 900)),
        NodeCost(node="r", op_type="ReorderInput", kind=Kind.OVERHEAD, kernel="ReorderInput", runs_ns=(50, 10, 11, 90)),
    ),
    run_ns=(900, 100, 105, 5000),
)


def test_the_fastest_runs_count() -> None:
    assert RECORDED.whole_ns == 100
    assert by_operator(RECORDED) == {"Conv": 70, "ReorderInput": 10, BETWEEN: 20}
    assert by_layer(RECORDED) == {"a (Conv)": 40, "b (Conv)": 30, "r (ReorderInput)": 10, BETWEEN: 20}
    for sums in (by_operator(RECORDED), by_layer(RECORDED)):
        assert sum(sums.values()) == RECORDED.whole_ns


@pytest.mark.parametrize("name", ["digits_cnn", "digits_vit", "digits_mlp", "digits_rnn", "ppocr_cls"])
def test_real_profiles_add_up(name: str, tmp_path: Path) -> None:
    done = modelopt("bench", sample(name), "--by-layer", *FAST, "--processes", "1", "--json", cwd=tmp_path).succeeded()

    (found,) = msgspec.convert(json.loads(done.out)["layers"], list[NodeTimes])
    kernels = sum(map(found.layer_ns, found.layers))
    assert found.layers
    assert kernels <= 1.1 * found.whole_ns
    assert sum(by_layer(found).values()) == pytest.approx(max(found.whole_ns, kernels))


def test_two_models_side_by_side(tmp_path: Path) -> None:
    modelopt("fuse", CNN, "-o", "x.onnx", *QUICK, cwd=tmp_path).succeeded()
    shown = modelopt("compare", CNN, "x.onnx", "--no-bench", "--by-layer", cwd=tmp_path).succeeded().out.decode()
    assert "time by operator" in shown
    assert "BatchNormalization" in shown or "Conv" in shown
    assert "of the time quantizes, dequantizes or changes the layout" in shown
