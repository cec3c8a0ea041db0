"""What the runtime executes for each node of a model, and what the profiles say of integers that do not pay."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from modelopt.io import serialize
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.quant.static import measured_cost as measured
from modelopt.quant.static.measured_cost import IntegerRegion, losing
from modelopt.runtime.coverage import Coverage, Kind, NodeCost, coverage_of
from modelopt.runtime.placement import coverage
from modelopt.runtime.profiling import read_events
from modelopt.runtime.session import NodeRun, SessionSpec
from modelopt.runtime.worker import Worker
from modelopt.runtime.worker_runner import WorkerRunner
from tests.quant_tools import context, model

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n,4,12,12] x) => (float[n,16,12,12] y)
{
  [first] c1 = Conv <pads = [1,1,1,1]> (x, w1, b1)
  [second] r1 = Relu (c1)
  [third] c2 = Conv <pads = [1,1,1,1]> (r1, w2, b1)
  [fourth] s = Softplus (c2)
  [fifth] t = Exp (s)
  [sixth] y = Sub (t, s)
}
"""
SPEC = SessionSpec(threads=1, spin=False)


def net() -> ir.Model:
    rng = np.random.default_rng(0)
    return model(
        NET,
        w1=rng.standard_normal((16, 4, 3, 3)).astype(np.float32),
        w2=rng.standard_normal((16, 16, 3, 3)).astype(np.float32) / 12,
        b1=rng.standard_normal(16).astype(np.float32),
    )


FEEDS = {"x": np.linspace(-1, 1, 576, dtype=np.float32).reshape(1, 4, 12, 12)}


@pytest.fixture(scope="module")
def profiles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Coverage, Coverage, ir.Model]:
    folder = tmp_path_factory.mktemp("placement")
    quantized = net()
    runner = WorkerRunner()
    QuantizeStatic(everywhere=True).apply(quantized, context(runner, [FEEDS]))
    runner.close()
    with Worker() as worker:
        found = []
        for name, each in (("float", net()), ("int8", quantized)):
            path = folder / f"{name}.onnx"
            path.write_bytes(serialize.to_bytes(each))
            found.append(coverage(worker, path, each, FEEDS, spec=SPEC, runs=3))
    return found[0], found[1], quantized


def by_name(found: Coverage) -> dict[str, NodeCost]:
    return {cost.node: cost for cost in found.nodes}


def test_a_float_model_has_float_kernels(profiles: tuple[Coverage, Coverage, ir.Model]) -> None:
    found = by_name(profiles[0])
    assert {found[name].kind for name in ("first", "second", "third", "fourth", "fifth", "sixth")} == {Kind.FLOAT}
    assert profiles[0].executed["integer"] == 0
    assert (found["second"].within, found["second"].runs_ns) == ("first", ())
    assert len(found["first"].runs_ns) == 3


def test_integer_kernels_and_conversions_are_told_apart(profiles: tuple[Coverage, Coverage, ir.Model]) -> None:
    found = by_name(profiles[1])
    assert [found[name].kernel for name in ("first", "third")] == ["QLinearConv", "QLinearConv"]
    assert found["second"] == NodeCost(
        node="second", op_type="Relu", kind=Kind.INTEGER, kernel="QLinearConv", within="first"
    )
    assert {found[name].kind for name in ("fourth", "fifth", "sixth")} == {Kind.FLOAT}
    conversions = [cost.op_type for cost in profiles[1].nodes if cost.kind is Kind.OVERHEAD]
    assert sorted(conversions) == ["DequantizeLinear", "QuantizeLinear"]
    assert sum(profiles[1].median_ns.values()) == sum(cost.median_ns for cost in profiles[1].nodes)
    assert sum(profiles[1].share(kind) for kind in Kind) == pytest.approx(1.0)


def test_the_same_nodes_carry_the_time_in_both(profiles: tuple[Coverage, Coverage, ir.Model]) -> None:
    before, after, quantized = profiles
    (region,) = measured.regions(before, after, quantized)
    assert region.kernels == ("first", "third")
    assert 0 < region.float_ns < sum(before.median_ns.values())
    assert 0 < region.integer_ns < sum(after.median_ns.values())


def test_names_of_fused_kernels_lead_back_to_the_model() -> None:
    text = NET.replace("[sixth]", "").replace("[second]", "")
    runs = [
        ran("c1_token_7", "QLinearConv", "uint8"),
        ran("/third_nchwc", "Conv", writes=("c2",)),
        ran("fifth/SomeFusion/", "Gelu"),
        ran("", "ReorderOutput"),
    ]
    found = by_name(coverage_of(ir.from_onnx_text(text), runs))
    assert found["first"].kind is Kind.INTEGER
    assert found["third"].kernel == "Conv"
    assert found["fifth"].kernel == "Gelu"
    assert found["fourth"].within == "fifth"
    assert found["ReorderOutput"].kind is Kind.OVERHEAD


def ran(name: str, op_type: str, reads: str = "float", writes: tuple[str, ...] = ()) -> NodeRun:
    return NodeRun(name, op_type, "CPUExecutionProvider", 30, (10, 10, 10), (reads,), writes)


# Regions that do not pay, from profiles that are made up

TWO = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,4,8,8] x, float scale, uint8 zero) => (float[1,4,8,8] y)
{
  [q1] i1 = QuantizeLinear (x, scale, zero)
  [d1] f1 = DequantizeLinear (i1, scale, zero)
  [a] c1 = Conv (f1, w)
  [q2] i2 = QuantizeLinear (c1, scale, zero)
  [d2] f2 = DequantizeLinear (i2, scale, zero)
  [exp] e = Exp (f2)
  [q3] i3 = QuantizeLinear (e, scale, zero)
  [d3] f3 = DequantizeLinear (i3, scale, zero)
  [b] c2 = Conv (f3, w)
  [q4] i4 = QuantizeLinear (c2, scale, zero)
  [d4] y = DequantizeLinear (i4, scale, zero)
}
"""


def profile(times: Mapping[str, tuple[int, ...]], integers: str = "", within: dict[str, str] | None = None) -> Coverage:
    """Times in microseconds, per run."""
    nodes = [
        NodeCost(
            node=name,
            op_type="",
            kernel="",
            kind=Kind.INTEGER if name in integers.split() else Kind.FLOAT,
            runs_ns=tuple(each * 1000 for each in runs),
        )
        for name, runs in times.items()
    ]
    nodes += [
        NodeCost(node=name, op_type="", kernel="", kind=Kind.FLOAT, within=other)
        for name, other in (within or {}).items()
    ]
    return Coverage(nodes=tuple(nodes), executed={}, median_ns={})


def two() -> ir.Model:
    return model(TWO, w=np.zeros((4, 4, 1, 1), np.float32))


FLOAT = {"a": (100, 100, 100), "exp": (50, 50, 50), "b": (100, 100, 100)}


def test_a_region_is_charged_its_conversions() -> None:
    after = {"q1": (20, 20, 20), "a": (90, 90, 90), "d2": (20, 20, 20), "exp": (50, 50, 50), "b": (40, 40, 40)}
    assert losing(profile(FLOAT), profile(after, "a b"), two()) == ("a",)
    found = measured.regions(profile(FLOAT), profile(after, "a b"), two())
    assert found == (IntegerRegion(("a",), 100_000, 130_000), IntegerRegion(("b",), 100_000, 40_000))


def test_medians_decide_and_not_one_slow_run() -> None:
    after = {"q1": (1, 1, 1), "a": (50, 900, 50), "exp": (50, 50, 50), "b": (40, 40, 40)}
    assert losing(profile(FLOAT), profile(after, "a b"), two()) == ()


def test_a_tie_and_a_loss_within_the_margin_are_kept() -> None:
    assert losing(profile(FLOAT), profile(FLOAT, "a b"), two()) == ()
    after = FLOAT | {"a": (104, 104, 104)}
    assert losing(profile(FLOAT), profile(after, "a b"), two()) == ()
    after = FLOAT | {"a": (112, 112, 112)}
    assert losing(profile(FLOAT), profile(after, "a b"), two()) == ("a",)


def test_a_loss_below_what_the_profiler_resolves_is_kept() -> None:
    before = dict.fromkeys(FLOAT, (2, 2, 2))
    assert losing(profile(before), profile(before | {"a": (4, 4, 4)}, "a b"), two()) == ()


def test_what_the_runtime_added_is_paid_in_proportion() -> None:
    after = {"a": (90, 90, 90), "exp": (60, 60, 60), "b": (50, 50, 50), "Transpose": (100, 100, 100)}
    found = measured.regions(profile(FLOAT), profile(after, "a b"), two())
    assert [region.integer_ns for region in found] == [135_000, 75_000]


def test_a_float_node_that_lost_its_fusion_counts() -> None:
    before = profile({"a": (100, 100, 100), "b": (100, 100, 100)}, within={"exp": "a"})
    after = {"a": (60, 60, 60), "exp": (70, 70, 70), "b": (20, 20, 20)}
    found = measured.regions(before, profile(after, "a b"), two())
    assert [region.integer_ns for region in found] == [130_000, 90_000]


def test_a_node_that_stayed_in_float_is_in_no_region() -> None:
    after = FLOAT | {"q1": (80, 80, 80)}
    assert [region.kernels for region in measured.regions(profile(FLOAT), profile(after, "b"), two())] == [("b",)]


def test_a_part_of_a_profile_is_read_line_by_line() -> None:
    """A loop makes a million events: only the lines that are wanted are parsed, and all where a name breaks a line."""
    run = '{"cat" : "Session","name" :"model_run","ts" :1,"dur" :9},'
    node = '{"cat" : "Node","name" :"NAME_kernel_time","ts" :2,"dur" :1}'
    events = [node.replace("NAME", name) for name in ("mine_0", "other")]
    text = "[\n" + "\n".join([run, events[0] + ",", events[1]]) + "\n]\n"
    assert [event["name"] for event in read_events(text)] == ["model_run", "mine_0_kernel_time", "other_kernel_time"]
    assert [event["name"] for event in read_events(text, "mine_")] == ["model_run", "mine_0_kernel_time"]
    broken = text.replace("mine_0", "mine_\n0")
    assert len(read_events(broken, "mine_")) == 3
