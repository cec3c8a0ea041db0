"""What widths save: work and size without making the model, times of layers from a clock that is made up."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from modelopt import graph
from modelopt.graph import macs
from modelopt.pruning import channel_removal, latency_table, measured_layers
from modelopt.pruning.channel_groups import Channels, channels_of
from modelopt.pruning.channel_work import ChannelWork
from modelopt.pruning.dependencies import Dependencies, analyse
from modelopt.pruning.dependency_rules import RULES
from modelopt.pruning.latency_table import LayerTimes
from modelopt.pruning.measured_layers import MeasuredLayer
from tests.runtime_tools import session

NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[1, 3, 8, 8] x, float[16, 3, 3, 3] w0, float[16, 1, 3, 3] w1, float[24, 16, 1, 1] w2, float[24, 10] w3)
  => (float[1, 10] y)
{
  [a] c0 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, w0)
  r0 = Relu (c0)
  [b] c1 = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1], group = 16> (r0, w1)
  [c] c2 = Conv <kernel_shape = [1, 1]> (c1, w2)
  p = GlobalAveragePool (c2)
  f = Flatten (p)
  [d] y = Gemm (f, w3)
}
"""

SHAPES = {
    "c0": (1, 16, 8, 8),
    "r0": (1, 16, 8, 8),
    "c1": (1, 16, 8, 8),
    "c2": (1, 24, 8, 8),
    "p": (1, 24, 1, 1),
    "f": (1, 24),
}
CONV = MeasuredLayer("Conv", (("kernel_shape", (1, 1)),), (1, 32, 4, 4), (64, 32, 1, 1))


def _net() -> tuple[ir.Model, Dependencies, Channels]:
    model = ir.from_onnx_text(NET)
    rng = np.random.default_rng(0)
    for value in list(model.graph.inputs)[1:]:
        shape = graph.static_shape(value)
        assert shape is not None
        value.const_value = ir.tensor(rng.standard_normal(shape, np.float32), name=value.name)
        model.graph.inputs.remove(value)
        model.graph.register_initializer(value)
    for node in model.graph:
        for value in node.outputs:
            value.shape = ir.Shape(SHAPES.get(str(value.name), (1, 10)))
            value.type = ir.TensorType(ir.DataType.FLOAT)
    found = analyse(model, RULES)
    return model, found, channels_of(found)


def _macs(model: ir.Model) -> int:
    return sum(macs.macs(node) or 0 for node in model.graph)


def test_work_without_the_model_is_that_of_the_model() -> None:
    model, found, channels = _net()
    work = ChannelWork(model, found, channels)
    assert work.widths == {"a": 16, "c": 24}
    before = sum(tensor.nbytes for value in model.graph.initializers.values() if (tensor := value.const_value))
    kept = {"a": 12, "c": 6}
    predicted, saved = work.macs(kept), work.bytes_saved(kept)
    gone = [atom for group in channels.groups for atom in group.channels[kept[group.name] :]]
    channel_removal.remove(model, found, gone)
    after = sum(tensor.nbytes for value in model.graph.initializers.values() if (tensor := value.const_value))
    assert predicted == _macs(model)
    assert saved == before - after


def _clock(layers: Sequence[MeasuredLayer]) -> list[float]:
    """A machine whose kernels take channels eight by eight."""
    padded = [-(-layer.weight[0] // 8) * -(-layer.weight[1] // 8) for layer in layers]
    return [100.0 * each for each in padded]


def test_times_of_a_model_follow_those_of_its_layers() -> None:
    model, found, channels = _net()
    work = ChannelWork(model, found, channels)
    times = {"a": 1000.0, "b": 200.0, "c": 600.0, "d": 100.0, "p": 50.0, "other": 7.0}
    table = latency_table.measure(work, times, {"a": (12, 8), "c": (16, 8)}, _clock)
    assert table.ns({}) == table.whole_ns == sum(times.values())
    # a: 16 to 8 filters is half; b reads them one by one; c sums over half of them.
    assert table.saved_ns({}, "a", 8) == pytest.approx(500 + 100 + 300)
    # 12 filters take as long as 16.
    assert table.saved_ns({}, "a", 12) == pytest.approx(0)
    # c: 24 to 8 filters is a third; pooling is in proportion to its data; d sums over a third.
    assert table.saved_ns({}, "c", 8) == pytest.approx(400 + 2 / 3 * 100 + 2 / 3 * 50)
    both = {"a": 8, "c": 8}
    assert table.whole_ns - table.ns(both) == pytest.approx(
        table.saved_ns({}, "a", 8) + table.saved_ns({"a": 8}, "c", 8)
    )


def test_a_width_beyond_what_was_measured_is_in_proportion() -> None:
    model, found, channels = _net()
    table = latency_table.measure(ChannelWork(model, found, channels), {"a": 1000.0}, {"a": (8,)}, _clock)
    assert table.ns({"a": 4}) == pytest.approx(250)


@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_the_multiple_is_that_of_the_steps_in_time(step: int) -> None:
    def clock(layers: Sequence[MeasuredLayer]) -> list[float]:
        return [float(-(-layer.weight[0] // step) * step * -(-layer.weight[1] // step) * step) for layer in layers]

    assert latency_table.alignment([CONV], clock) == step


def test_no_layer_asks_for_no_multiple() -> None:
    assert latency_table.alignment([], _clock) == 1
    assert latency_table.alignment([CONV], lambda layers: [0.0 for _ in layers]) == 1


def test_a_layer_is_measured_once_on_a_machine(tmp_path: Path) -> None:
    asked: list[int] = []

    def clock(layers: Sequence[MeasuredLayer]) -> list[float]:
        asked.append(len(layers))
        return [7.0 for _ in layers]

    file = tmp_path / "cache" / "layers.json"
    other = CONV.at(0, 16)
    assert LayerTimes("this", clock, file)([CONV]) == [7.0]
    assert LayerTimes("this", clock, file)([CONV, other]) == [7.0, 7.0]
    assert asked == [1, 1]
    LayerTimes("that", clock, file)([CONV])
    assert asked == [1, 1, 1]


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"this": {"x": "y"}}', b"\xff"])
def test_a_broken_cache_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "layers.json"
    file.write_bytes(content)
    assert LayerTimes("this", _clock, file)([CONV]) == _clock([CONV])


def test_layers_run_side_by_side_at_other_widths() -> None:
    model, _, _ = _net()
    layers = [layer for node in model.graph if (layer := measured_layers.layer_of(node)) is not None]
    assert [layer.depthwise for layer in layers] == [False, True, False, False]
    layers += [layers[0].at(0, 5), layers[1].at(0, 6), layers[2].at(1, 7), layers[3].at(0, 9)]
    layers += [MeasuredLayer("MatMul", (), (2, 3, 8), (8, 4)).at(0, 6)]
    layers += [MeasuredLayer("Gemm", (("transB", 1),), (2, 8), (4, 8)).at(1, 6)]
    layers += [MeasuredLayer("ConvTranspose", (), (1, 4, 3, 3), (4, 2, 2, 2)).at(0, 3)]
    ((made, feeds),) = measured_layers.models(layers)
    outputs = session(made).run(None, feeds)
    assert [output.shape[1] for output in outputs] == [16, 16, 24, 10, 5, 6, 24, 10, 3, 4, 2]


def test_many_layers_become_several_models() -> None:
    wide = MeasuredLayer("MatMul", (), (1, 2048), (2048, 4000))  # 31 MiB
    made = list(measured_layers.models([wide.at(1, 4000 - step) for step in range(4)]))
    assert [len(list(model.graph)) for model, _ in made] == [2, 2]
    assert [graph.name_of(node) for model, _ in made for node in model.graph] == ["L0L", "L1L", "L2L", "L3L"]
