"""Symbolic dimensions frozen, by pass and by the flags of `modelopt fold`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from modelopt import graph, io
from modelopt.calibration.context import Context
from modelopt.core.errors import InputError
from modelopt.core.signature import known_equal, symbol_of
from modelopt.passes.freeze_dims import FROZEN_KEY, FreezeDims
from modelopt.passes.merge_reshape import MergeReshape
from modelopt.recipe.recipe import DataSpec, EvaluateSpec
from tests.command_line import MLP, modelopt
from tests.consteval.folding_command import fold
from tests.helpers import WITHOUT_RUNNER
from tests.paths import SAMPLE_MODELS
from tests.runtime_tools import session


def test_a_frozen_model_folds_further_and_is_verified_on_its_new_shape(tmp_path: Path) -> None:
    source = SAMPLE_MODELS / "digits_vit" / "model.onnx"
    fold(source, tmp_path / "free.onnx")
    report = fold(source, tmp_path / "frozen.onnx", FreezeDims(dims=("batch=3",)))
    assert report.verification is not None
    assert report.verification.exact_segments == 1
    frozen = onnx.load(tmp_path / "frozen.onnx")
    assert len(frozen.graph.node) < len(onnx.load(tmp_path / "free.onnx").graph.node)
    assert not any(node.op_type == "Shape" for node in frozen.graph.node)
    loaded = session(tmp_path / "frozen.onnx")
    assert [value.shape[0] for value in (*loaded.get_inputs(), *loaded.get_outputs())] == [3, 3]


def test_a_second_run_changes_nothing_and_another_size_is_refused(tmp_path: Path) -> None:
    source = SAMPLE_MODELS / "digits_mlp" / "model.onnx"
    first, second = tmp_path / "1.onnx", tmp_path / "2.onnx"
    fold(source, first, FreezeDims(dims=("batch=3",)))
    fold(first, second, FreezeDims(dims=("batch=3",)))
    assert first.read_bytes() == second.read_bytes()
    with pytest.raises(InputError, match="was set to 3 before and cannot become 4"):
        fold(first, tmp_path / "3.onnx", FreezeDims(dims=("batch=4",)))
    assert not (tmp_path / "3.onnx").exists()


def test_labelled_data_fill_the_frozen_batch(tmp_path: Path) -> None:
    folder = SAMPLE_MODELS / "digits_mlp"
    report = fold(
        folder / "model.onnx",
        tmp_path / "out.onnx",
        FreezeDims(shapes=("features:5,64",)),
        evaluate=EvaluateSpec(data=str(folder / "eval.npz"), limit=40),
        calibration=DataSpec(data=str(folder / "calib.npz"), limit=10),
    )
    assert report.accuracy is not None
    assert report.accuracy.tasks[0].candidate.n % 5 == 0


X = """<ir_version: 10, opset_import: ["" : 20]>
g (float[batch, n, ?, ?] x, float[4] k, float[-1, 2] m) => (float[a, b, c, d] y) { y = Neg (x) }"""


@pytest.mark.parametrize(
    ("options", "fact", "hint"),
    [
        ({"dims": ("batc=1",)}, "no input has a dimension 'batc'", "'batch'"),
        ({"dims": ("a=1",)}, "no input has a dimension 'a'", None),
        ({"dims": ("batch",)}, "'batch' is not the size of a dimension", "batch=1"),
        ({"dims": ("batch=0",)}, "'batch=0' is not the size of a dimension", "batch=1"),
        ({"dims": ("batch=-1",)}, "'batch=-1' is not the size of a dimension", "batch=1"),
        ({"shapes": ("z:1,2",)}, "the model has no input 'z'", None),
        ({"shapes": ("x:1,2",)}, "cannot have 2 dimensions", None),
        ({"shapes": ("k:5",)}, "cannot have 5 where it has 4", None),
        ({"shapes": ("x:1,2,b,4",)}, "'x:1,2,b,4' is not the shape of an input", "x:1,3,224,224"),
        ({"shapes": ("x",)}, "'x' is not the shape of an input", "x:1,3,224,224"),
        ({"dims": ("batch=2",), "shapes": ("x:1,2,3,4",)}, "'batch' cannot be both 2 and 1", None),
    ],
)
def test_what_does_not_fit_the_model_is_an_error(options: dict[str, Any], fact: str, hint: str | None) -> None:
    with pytest.raises(InputError) as caught:
        FreezeDims(**options).apply(ir.from_onnx_text(X), WITHOUT_RUNNER)
    assert fact in caught.value.fact
    assert hint is None or hint in (caught.value.hint or "")


def test_dimensions_without_a_name_of_their_own_are_set_one_by_one(context: Context) -> None:
    model = ir.from_onnx_text(X)
    FreezeDims(shapes=("x:1,2,3,4", "m:7,2")).apply(model, context)
    assert [spec.shape for spec in graph.signature(model).inputs] == [(1, 2, 3, 4), (4,), (7, 2)]
    assert graph.signature(model).outputs[0].shape == (1, 2, 3, 4)
    assert model.metadata_props[FROZEN_KEY + "batch"] == "1"
    assert FROZEN_KEY + "?" not in model.metadata_props


NAMELESS = ("*", "?", "-1", "None", "")


def nameless(name: str) -> onnx.ModelProto:
    """Two inputs that have nothing in common, not even where their dimensions are called alike."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 4] x, float[m, 3] z) => (float[n, 4] y, float[m, 3] w) { y = Relu (x) w = Relu (z) }"""
    )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = name
    return model


@pytest.mark.parametrize("name", NAMELESS)
def test_what_names_no_dimension_is_no_name_for_any_command(name: str, tmp_path: Path) -> None:
    onnx.save(nameless(name), tmp_path / "m.onnx")
    given = f"{name or 'x'}=2"
    for command in (("inspect", "m.onnx", "--dim"), ("bench", "m.onnx", "--dim"), ("fold", "m.onnx", "--freeze-dim")):
        failed = modelopt(*command, given, cwd=tmp_path).failed(2, f"dimension '{name or 'x'}'")
        assert "z" not in failed.err.splitlines()[0]


def test_a_dimension_without_a_name_is_called_by_its_place(tmp_path: Path) -> None:
    model = nameless("*")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "*"
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    onnx.save(model, tmp_path / "m.onnx")
    quick = ("--budget", "0.1", "--processes", "1", "--rounds", "2", "--warmup", "0")
    for command in (("inspect", "m.onnx", "--dim"), ("bench", "m.onnx", *quick, "--dim")):
        modelopt(*command, "x:1=6", cwd=tmp_path).succeeded()
        modelopt(*command, "x:3=6", cwd=tmp_path).failed(2, "no input has a dimension 'x:3'")


@pytest.mark.parametrize("name", NAMELESS)
def test_what_names_no_dimension_equates_none(name: str, tmp_path: Path) -> None:
    onnx.save(nameless(name), tmp_path / "m.onnx")
    flags = ("--input-shape", "x:1,4", "--input-shape", "z:2,3", "--no-bench", "-o", "out.onnx")
    modelopt("fold", "m.onnx", *flags, cwd=tmp_path).succeeded()
    frozen = graph.signature(io.load(tmp_path / "out.onnx", scratch=tmp_path).model)
    assert [spec.shape for spec in (*frozen.inputs, *frozen.outputs)] == [(1, 4), (2, 3), (1, 4), (2, 3)]
    dims = graph.signature(ir.from_proto(nameless(name))).inputs
    assert symbol_of((dims[0].shape or ())[0]) is None
    assert not known_equal((dims[0].shape or ())[0], (dims[1].shape or ())[0])


def test_a_name_equates_dimensions_and_so_does_a_size() -> None:
    assert known_equal("n", "n")
    assert known_equal(3, 3)
    for other in ("m", None, 3, -1):
        assert not known_equal("n", other)
    assert not known_equal(-1, -1)
    assert not known_equal(None, None)


@pytest.mark.parametrize(("name", "merged"), [("n", True), ("*", False), ("?", False), ("-1", False)])
def test_a_reshape_that_copies_a_dimension_is_merged_only_where_that_is_named(
    name: str, merged: bool, context: Context
) -> None:
    model = nameless(name)
    body = onnx.parser.parse_graph(
        """g (float[a, 4] x) => (float[a, 2, 2] y) <int64[2] s = {-1, 4}, int64[3] t = {0, 2, 2}>
        { r = Reshape (x, s) y = Reshape (r, t) }"""
    )
    body.value_info.append(onnx.helper.make_tensor_value_info("r", onnx.TensorProto.FLOAT, [name, 4]))
    body.input[0].type.tensor_type.shape.dim[0].dim_param = name
    model.graph.CopyFrom(body)
    assert bool(MergeReshape().apply(ir.from_proto(model), context).rewrites) is merged


# The flags of `modelopt fold`


def test_the_flags_are_passes_before_the_group(tmp_path: Path) -> None:
    flags = ("--freeze-dim", "batch=2", "--input-shape", "features:2,64", "--opset", "18", "--no-bench")
    ran = modelopt("fold", MLP, *flags, "-o", "out.onnx", cwd=tmp_path).succeeded()
    assert "freeze-dims(dims=['batch=2'], shapes=['features:2,64'])" in ran.err
    assert onnx.load(tmp_path / "out.onnx").opset_import[0].version == 18
    shown = modelopt("fold", MLP, *flags, "--print-recipe", cwd=tmp_path).succeeded().out.decode()
    assert shown.index("upgrade-opset") < shown.index("freeze-dims") < shown.index("pipeline: fold")


def test_a_misspelled_dimension_is_one_line(tmp_path: Path) -> None:
    modelopt("fold", MLP, "--freeze-dim", "bach=2", "--no-bench", cwd=tmp_path).failed(2, "'bach'", "'batch'")
