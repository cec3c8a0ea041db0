"""The folding passes on whole models: equal outputs, bounded growth, bounded memory and time."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.calibration.histogram import Observed
from modelopt.consteval.folding import GREW_KEY, MIN_GROWTH_BYTES
from modelopt.core import targets
from modelopt.core.errors import Refused
from modelopt.graph import invariants
from modelopt.io import serialize
from modelopt.passes.base import Pass
from modelopt.passes.dedup_initializers import DedupInitializers
from modelopt.passes.eliminate_dead import EliminateDead
from modelopt.passes.eliminate_identity import EliminateIdentity
from modelopt.passes.fold_constants import FoldConstants
from tests.kernel_tools import F32, Array
from tests.paths import LIGHT_MODELS, SAMPLE_MODELS
from tests.runtime_tools import session


class Silent:
    """A runner that refuses to run anything."""

    def run(self, *_: Any, **__: Any) -> Iterator[list[Array]]:
        raise Refused("not here", note="no runtime")

    def infer_shapes(self, model: ir.Model) -> None:
        raise AssertionError

    def observe(self, *_: Any, **__: Any) -> Observed:
        raise AssertionError

    def convert_opset(self, model: ir.Model, version: int) -> ir.Model:
        raise AssertionError

    def simplify(self, model: ir.Model) -> ir.Model:
        raise AssertionError


CONTEXT = Context(runner=Silent(), target=targets.resolve("x86-vnni"))


def fold(text: str, **options: Any) -> tuple[ir.Model, Any]:
    model = ir.from_onnx_text(text)
    return model, FoldConstants(**options).apply(model, CONTEXT)


def test_a_doubling_chain_stops_at_the_limit() -> None:
    steps = "\n".join(f"c{i + 1} = Concat <axis = 0> (c{i}, c{i})" for i in range(40))
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[1] x) => (float y) <float[4] c0 = {{1, 2, 3, 4}}> {{
      {steps} s = ReduceSum <keepdims = 0> (c40) y = Add (x, s) }}"""
    tracemalloc.start()
    _, changes = fold(text, max_tensor_bytes=2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert any("more than max-tensor-bytes" in skip.reason for skip in changes.skipped)
    assert peak < 8 * 2**20


def test_a_huge_fill_is_refused_and_its_shape_still_folds() -> None:
    model, changes = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (int64[1] x) => (int64[1] y) <int64[1] n = {4611686018427387904}, int64[1] one = {1}> {
          many = Add (n, one) huge = ConstantOfShape (many) few = NonZero (huge) s = Shape (few) y = Add (x, s) }"""
    )
    assert any("more than max-tensor-bytes" in skip.reason for skip in changes.skipped)
    assert model.graph[0].op_type == "ConstantOfShape"


def test_a_runtime_that_refuses_is_a_reason() -> None:
    _, changes = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2, 2] x) => (float[2, 2] y) <float[2, 2] w = {1, 2, 3, 4}, float[2, 2] v> {
          v = MatMul (w, w) y = Add (x, v) }"""
    )
    assert changes.rewrites == 0
    assert changes.skipped[0].reason == "onnxruntime did not evaluate it: no runtime"


def test_growth_is_bounded_for_good_and_only_what_is_read_counts() -> None:
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[2000] x) => (float[2000] y) <float zero = {{0}}, float end = {{2000}}, float one = {{1}}> {{
      {" ".join(f"r{i} = Range (zero, end, one) t{i} = Sqrt (r{i})" for i in range(4))}
      a = Add (x, t0) b = Add (a, t1) c = Add (b, t2) y = Add (c, t3) }}"""
    model, changes = fold(text)
    assert changes.rewrites == 2
    assert changes.facts["grown_bytes"] <= MIN_GROWTH_BYTES
    assert model.metadata_props[GREW_KEY] == "8000"
    reread = ir.from_proto(ir.to_proto(model))
    assert FoldConstants().apply(reread, CONTEXT).rewrites == 0


def test_transposing_a_large_weight_is_no_growth_unless_it_is_shared() -> None:
    weight = np.arange(200 * 300, dtype=F32).reshape(200, 300)
    for shared in (False, True):
        model = ir.from_onnx_text(
            f"""<ir_version: 10, opset_import: ["" : 20]>
            g (float[N, 300] x) => (float[N, 200] y{", float[N, 300] z" if shared else ""}) <float[200, 300] w = {{{
                ", ".join(str(v) for v in weight.reshape(-1))
            }}}> {{ t = Transpose (w) y = MatMul (x, t) {"z = MatMul (y, w)" if shared else ""} }}"""
        )
        changes = FoldConstants().apply(model, CONTEXT)
        assert changes.rewrites == (0 if shared else 1)
        assert graph.weight_bytes(model) == weight.nbytes


def test_a_weight_that_is_cut_and_joined_in_another_order_is_no_growth() -> None:
    """What exporters do to the gates of an LSTM: three readers of one tensor, all of which go."""
    weight = ", ".join(str(number) for number in range(300 * 200))
    model, changes = fold(
        f"""<ir_version: 10, opset_import: ["" : 20]>
        g (float[N, 200] x) => (float[N, 300] y) <float[300, 200] w = {{{weight}}}, int64[1] a = {{0}},
            int64[1] b = {{100}}, int64[1] c = {{200}}, int64[1] d = {{300}}> {{
          one = Slice (w, a, b) two = Slice (w, b, c) three = Slice (w, c, d)
          r = Concat <axis = 0> (two, one, three) t = Transpose (r) y = MatMul (x, t) }}"""
    )
    assert changes.rewrites == 5
    assert changes.facts["grown_bytes"] <= 0
    assert [node.op_type for node in model.graph] == ["MatMul"]


def test_before_ir_version_4_results_are_constant_nodes() -> None:
    model, changes = fold(
        """<ir_version: 3, opset_import: ["" : 9]>
        g (float[2] x) => (float[2] y) { c = Constant <value = float[2] {1.0, 2.0}> () n = Neg (c) y = Add (x, n) }"""
    )
    assert changes.rewrites == 1
    assert not model.graph.initializers
    assert [node.op_type for node in model.graph] == ["Constant", "Add"]


def test_names_with_odd_characters_survive() -> None:
    model, _ = fold(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { n = Neg (w) y = Add (x, n) }"""
    )
    twin = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}> { n = Neg (w) y = Add (x, n) }"""
    )
    odd = "a:0/[red] \x1b[31m"
    twin.graph[0].outputs[0].name = odd
    FoldConstants().apply(twin, CONTEXT)
    assert list(twin.graph.initializers) == [odd]
    assert list(model.graph.initializers) == ["n"]


def test_a_dead_if_lets_go_of_what_it_captured() -> None:
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x, bool c) => (float[2] y) <float[2] w = {1, 2}> {
          n = Mul (x, w)
          d = If (c) <
            then_branch = t () => (float[2] a) { a = Neg (n) }, else_branch = e () => (float[2] b) { b = Abs (n) } >
          y = Relu (x) }"""
    )
    assert EliminateDead().apply(model, CONTEXT).rewrites > 0
    assert [node.op_type for node in model.graph] == ["Relu"]
    assert not model.graph.initializers


def test_tensors_like_no_other_are_not_read() -> None:
    class Unread(ir.LazyTensor):
        def numpy(self) -> Array:
            raise AssertionError("read")

    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["" : 20]>
        g (float[2] x) => (float[2] y) <float[2] w = {1, 2}, float v = {1}> { a = Mul (x, w) y = Add (a, v) }"""
    )
    model.graph.initializers["w"].const_value = Unread(
        lambda: ir.tensor([0.0, 0.0]), dtype=ir.DataType.FLOAT, shape=ir.Shape([2])
    )
    assert DedupInitializers().apply(model, CONTEXT).rewrites == 0


PASSES: tuple[Pass, ...] = (FoldConstants(), EliminateIdentity(), EliminateDead(), DedupInitializers())

SAMPLES = sorted(SAMPLE_MODELS.glob("*/model.onnx"))


def _feeds(loaded: ort.InferenceSession) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    kinds = {"float": np.float32, "double": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_}
    feeds: dict[str, Array] = {}
    for value in loaded.get_inputs():
        free = 4096 if len(value.shape) < 3 else 64
        shape = [dim if isinstance(dim, int) and dim > 0 else free if i else 1 for i, dim in enumerate(value.shape)]
        feeds[value.name] = rng.integers(0, 2, shape).astype(kinds[value.type.removeprefix("tensor(").rstrip(")")])
    return feeds


def _outputs_of(model: ir.Model, feeds: dict[str, Array] | None = None) -> tuple[list[Any], dict[str, Array]]:
    loaded = session(model, optimizer=False)
    given = _feeds(loaded) if feeds is None else feeds
    return list(loaded.run(None, given)), given


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.parent.name)
def test_real_models_keep_their_outputs_and_do_not_grow(path: Path) -> None:
    model = ir.from_proto(onnx.load(path))
    weights = graph.weight_bytes(model)
    signature = graph.signature(model)
    before, feeds = _outputs_of(model)
    for step in PASSES:
        step.apply(model, CONTEXT)
        assert invariants.check(model) == []
        assert step.apply(model, CONTEXT).rewrites == 0
    assert graph.signature(model) == signature
    assert graph.weight_bytes(model) <= weights + max(MIN_GROWTH_BYTES, weights // 10) + 4096
    after, _ = _outputs_of(model, feeds)
    for ours, theirs in zip(after, before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("path", LIGHT_MODELS, ids=lambda path: path.stem)
@pytest.mark.parametrize("modern", [False, True])
def test_light_models_do_not_grow(path: Path, modern: bool) -> None:
    model = ir.from_proto(onnx.load(path))
    if modern:  # the same model as later exporters write it: initializers are no inputs, so that they are constant
        model.ir_version = 8
        for value in list(model.graph.inputs):
            if value.name in model.graph.initializers:
                model.graph.inputs.remove(value)
    size = len(serialize.to_bytes(model))
    FoldConstants().apply(model, CONTEXT)
    assert invariants.check(model) == []
    assert len(serialize.to_bytes(model)) <= size


def test_a_long_chain_is_one_walk() -> None:
    steps = "\n".join(f"c{i + 1} = Neg (c{i})" for i in range(2000))
    text = f"""<ir_version: 10, opset_import: ["" : 20]>
    g (float[1] x) => (float[1] y) <float[1] c0 = {{1}}> {{ {steps} y = Add (x, c2000) }}"""
    model, changes = fold(text)
    assert changes.rewrites == 2000
    assert list(model.graph.initializers) == ["c2000"]


def test_a_constant_that_does_not_fit_its_reader_makes_the_model_invalid() -> None:
    """A filter that is computed: that it has two dimensions shows once it is known. It counted as a bug of the pass."""
    node = onnx.helper.make_node
    filters = onnx.numpy_helper.from_array(np.ones((2, 3), F32), "stored")
    nodes = [node("Neg", ["stored"], ["w"]), node("Conv", ["x", "w"], ["y"])]
    info = onnx.helper.make_tensor_value_info
    x, y = (info(name, onnx.TensorProto.FLOAT, None) for name in ("x", "y"))
    proto = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, "g", [x], [y], [filters]), opset_imports=[onnx.helper.make_opsetid("", 20)]
    )
    model = serialize.from_bytes(proto.SerializeToString())
    with pytest.raises(Refused, match="the model is not valid") as caught:
        FoldConstants().apply(model, CONTEXT)
    assert "Conv has filters of 2 dimensions" in (caught.value.note or "")
