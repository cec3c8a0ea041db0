"""What a run of a model takes at least: small models that ask for much are known without running them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelopt.consteval.run_needs import RunNeeds, run_needs
from modelopt.core.errors import Refused
from modelopt.engine import run_limits
from modelopt.io import serialize
from modelopt.runtime.limits import Limits
from tests.campaigns import bomb_models
from tests.io_tools import load
from tests.paths import SAMPLE_MODELS

_LARGE = (
    "range range_of_floats constant_of_shape constant_of_shape_huge tile tile_of_constant expand expand_huge resize "
    "upsample pad one_hot random_normal random_uniform_huge eye_like einsum outer_product broadcast gather convolution "
    "transposed_convolution depth_to_sequence concat_of_constants concat_of_inputs concat_of_integers tile_doubled "
    "many_large_outputs strings_doubled string_joined loop_that_doubles loop_that_collects"
)


def _needs(content: bytes) -> RunNeeds:
    return run_needs(serialize.from_bytes(content))


@pytest.mark.parametrize("name", _LARGE.split())
def test_what_takes_gigabytes_is_known(name: str) -> None:
    assert _needs(bomb_models.MODELS[name]()).memory_bytes >= 2**31


@pytest.mark.parametrize("name", ["loop_without_end", "loops_in_loops", "scan_over_much"])
def test_loops_of_many_turns_are_known(name: str) -> None:
    assert "would not end" in str(_needs(bomb_models.MODELS[name]()).endless)


@pytest.mark.parametrize("name", ["ifs_in_ifs", "deep_bodies", "huge_declared_shape", "doc_string"])
def test_other_models_need_little(name: str) -> None:
    found = _needs(bomb_models.MODELS[name]())
    assert found.memory_bytes < 1000
    assert found.endless is None


def test_a_function_is_looked_into() -> None:
    nodes = [
        helper.make_node("Constant", [], ["s"], value_ints=[2**30]),
        helper.make_node("Expand", ["a", "s"], ["e"]),
        helper.make_node("ReduceSum", ["e"], ["b"]),
    ]
    function = helper.make_function("d", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("f", ["x"], ["y"], domain="d")], "g", [x], [y])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("d", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=10)
    assert _needs(model.SerializeToString()).memory_bytes == 2**32


@pytest.mark.parametrize("path", sorted(SAMPLE_MODELS.glob("*/model.onnx")), ids=lambda path: path.parent.name)
def test_the_sample_models_may_run(path: Path, tmp_path: Path) -> None:
    loaded = load(path)
    limits, needs = run_limits.for_model(Limits(2**40, 600, is_default=True), loaded.model, loaded.size_bytes)
    run_limits.require(limits, needs, "it")
    assert needs.endless is None
    assert needs.memory_bytes < 2**28


def _on_large_pictures() -> bytes:
    """A convolution of a megabyte with 64 channels on a picture of 2048 × 2048."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 2048, 2048])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "v"], ["y"], pads=[1, 1, 1, 1]),
    ]
    stored = {"w": np.zeros((64, 3, 3, 3), np.float32), "v": np.zeros((64, 64, 3, 3), np.float32)}
    weights = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_large_activations_of_large_inputs_are_allowed() -> None:
    content = _on_large_pictures()
    limits, needs = run_limits.for_model(
        Limits(2**40, 600, is_default=True), serialize.from_bytes(content), len(content)
    )
    assert needs.memory_bytes == 64 * 2048 * 2048 * 4
    assert needs.input_bytes == 3 * 2048 * 2048 * 4
    run_limits.require(limits, needs, "it")
    assert (limits.growth(needs.input_bytes) or 0) > 3 * needs.memory_bytes


def test_the_users_limit_wins() -> None:
    model = serialize.from_bytes(bomb_models.MODELS["expand"]())
    limits, needs = run_limits.for_model(Limits(3 * 2**30, 600), model, 200)
    run_limits.require(limits, needs, "it")
    limits, needs = run_limits.for_model(Limits(2**30, 600), model, 200)
    with pytest.raises(Refused, match=r"needs at least 2\.0 GiB of memory, and may use 1\.0 GiB"):
        run_limits.require(limits, needs, "it")


def test_every_operator_with_a_rule_gives_the_shape_that_onnx_infers(tmp_path: Path) -> None:
    """The models above, made small, are inferred by onnx; a rule must give what it says."""
    for name in ("tile", "expand", "resize", "pad", "einsum", "convolution", "transposed_convolution", "gather"):
        proto = onnx.ModelProto.FromString(bomb_models.MODELS[name]())
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        shape = next(info for info in inferred.graph.value_info if info.name == "big").type.tensor_type.shape
        expected = int(np.prod([dim.dim_value for dim in shape.dim], dtype=object)) * 4
        assert _needs(proto.SerializeToString()).memory_bytes == expected, name


def test_axes_that_are_given_twice_say_nothing() -> None:
    """A model that is no model, found by a mutant: the rule ended in a traceback."""
    axes = numpy_helper.from_array(np.array([0, 2], np.int64), "axes")
    node = helper.make_node("Unsqueeze", ["x", "axes"], ["y"])
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", []), ("y", None))]
    for given in (axes, numpy_helper.from_array(np.array([1, 1, 1], np.int64), "axes")):
        graph = helper.make_graph([node], "g", values[:1], values[1:], [given])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])
        assert _needs(model.SerializeToString()).endless is None
