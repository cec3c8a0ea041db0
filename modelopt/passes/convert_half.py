"""See `ConvertHalf`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect, Fact, Skip
from modelopt.core.errors import InputError
from modelopt.core.signature import Signature, TensorSpec
from modelopt.core.targets import ACCELERATORS
from modelopt.graph import node_filters
from modelopt.graph.opset_conversion import upgraded
from modelopt.passes.base import Pass, option
from modelopt.quant.float16 import planning, sensitive_operators
from modelopt.quant.float16.operator_types import Elements, HalfType
from modelopt.quant.float16.ranges import ObservedRanges, judge, observe
from modelopt.quant.float16.writer import HalfWriter

_LEAST_ELEMENTS = 256  # of a constant: a smaller one saves less than its Cast costs (an estimate)
_FIRST_BF16_OPSET = 13
_OPSET = 17


class Compute(Enum):
    """What nodes compute in.

    Attributes:
        AUTO: The half type; float32 for bfloat16 on a CPU, where onnxruntime has no bfloat16 arithmetic.
        HALF: The half type, where its range and the operators allow it.
        FLOAT: float32: only weights are stored in half, and cast back when the model is loaded.
    """

    AUTO = "auto"
    HALF = "half"
    FLOAT = "float"


@dataclass(frozen=True, kw_only=True)
class ConvertHalf(Pass):
    """Compute and store in float16 or bfloat16, except where numbers would leave the range.

    Accelerators compute faster in half precision. onnxruntime's CPU provider adds Casts around most operators, so there
    only the file becomes smaller. Calibration data are optional. They show which activations leave the range, and
    operators that often do so are then converted where they do not.
    """

    effect: ClassVar[Effect] = Effect.APPROXIMATE
    keeps_signature: ClassVar[bool] = False
    shrinks: ClassVar[bool] = True

    type: HalfType = option(HalfType.FP16, "fp16 or bf16")  # noqa: RUF009 - it is dataclasses.field
    compute: Compute = option(  # noqa: RUF009 - it is dataclasses.field
        Compute.AUTO, "half; float: weights are stored in half, computed with in float32; auto: by type and target"
    )
    margin: float = option(0.5, "the largest share of float16's range that an activation may use in calibration")
    keep_io_types: bool = option(default=True, text="inputs and outputs of the model stay float32")
    include: tuple[str, ...] = option((), "only these nodes: globs over node names, re:EXPRESSION or op:TYPE")
    exclude: tuple[str, ...] = option((), "leave these nodes in float32: globs, re:EXPRESSION or op:TYPE")

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """See `Pass.apply`.

        Raises:
            InputError: A pattern names no node, the margin is not a share, or inputs and outputs cannot be half.
            Refused: bfloat16 is wanted, and the model's opset is below 13 and cannot be converted.
        """
        if not 0 < self.margin <= 1:
            raise InputError(f"margin {self.margin} is not a share", hint="such as margin: 0.5")
        refused = planning.why_not_model(model)
        if refused:
            return Changes(skipped=(Skip("model", refused),))
        node_filters.check_used((*self.include, *self.exclude), graph.all_nodes(model))
        if self.type is HalfType.BF16 and graph.opset(model) < _FIRST_BF16_OPSET:
            graph.replace_contents(model, upgraded(model, _OPSET, ctx.runner))
        storing = self._only_stores(ctx)
        if not self.keep_io_types and (storing or self.type is HalfType.BF16):
            reason = "only weights are stored in half" if storing else "onnxruntime takes no bfloat16 from numpy"
            raise InputError(f"inputs and outputs stay float32: {reason}", hint="keep-io-types: true, or type: fp16")
        if storing:
            return self._store(model)
        return self._convert(model, ctx)

    def calibrates(self) -> bool:
        """Float16 needs the ranges of activations: they can overflow."""
        return self.type is HalfType.FP16 and self.compute is not Compute.FLOAT

    def signature_after(self, signature: Signature) -> Signature:
        """Outputs are half where that is asked for; data stay float32, and are rounded for inputs in half."""
        return signature if self.keep_io_types else replace(signature, outputs=_halved(signature.outputs))

    def declared_after(self, signature: Signature) -> Signature:
        """See `Pass.declared_after`."""
        after = self.signature_after(signature)
        return after if self.keep_io_types else replace(after, inputs=_halved(after.inputs))

    def converts(self, model: ir.Model, ctx: Context) -> tuple[str, ...]:
        """The names of the nodes that would compute in half, in graph order; none where only weights are stored."""
        if planning.why_not_model(model) is not None or self._only_stores(ctx):
            return ()
        return tuple(map(graph.name_of, self._plan(model, Elements(model), ctx)[0].chosen))

    def _only_stores(self, ctx: Context) -> bool:
        on_cpu = ctx.target.kind not in ACCELERATORS
        return self.compute is Compute.FLOAT or (self.compute is Compute.AUTO and self.type is HalfType.BF16 and on_cpu)

    def _plan(self, model: ir.Model, elements: Elements, ctx: Context) -> tuple[planning.HalfPlan, ObservedRanges]:
        seen = ObservedRanges({}, 0)
        if ctx.calibration is not None and self.type is HalfType.FP16:
            seen = observe(model, _activations(model, elements), ctx)
        rules = planning.HalfRules(self.type, self.include, self.exclude, self.margin * self.type.largest, seen)
        return planning.decide(model, elements, rules), seen

    def _convert(self, model: ir.Model, ctx: Context) -> Changes:
        elements = Elements(model)
        plan, seen = self._plan(model, elements, ctx)
        limit = self.margin * self.type.largest
        writer = HalfWriter(model, elements, self.type, limit, half_io=not self.keep_io_types)
        if plan.chosen:
            writer.write(plan)
        facts: dict[str, Fact] = {
            "type": self.type.title,
            "nodes_half": len(plan.chosen),
            "nodes_kept_float32": len(plan.skipped),
            "ranges": f"seen on {seen.samples} samples"
            if seen.samples
            else "not seen: risky operators stay in float32",
        }
        return Changes(len(plan.chosen), plan.skipped, facts | _figures(writer))

    def _store(self, model: ir.Model) -> Changes:
        elements = Elements(model)
        writer = HalfWriter(model, elements, self.type, self.margin * self.type.largest)
        skipped: list[Skip] = []
        for value in _constants(model, elements):
            reason = self._why_not_stored(value)
            if reason is None:
                writer.store(value)
            else:
                skipped.append(Skip(value.name or "", reason))
        facts: dict[str, Fact] = {"type": self.type.title, "compute": "float32: only weights are stored in half"}
        return Changes(writer.figures.constants, tuple(skipped), facts | _figures(writer))

    def _why_not_stored(self, value: ir.Value) -> str | None:
        users = [use.node for use in value.uses()]
        if self.include and not any(
            node_filters.names_node(pattern, user) for pattern in self.include for user in users
        ):
            return "not included"
        if any(node_filters.names_node(pattern, user) for pattern in self.exclude for user in users):
            return "excluded"
        if any(sensitive_operators.is_training(user) for user in users):
            return sensitive_operators.STATISTICS
        found = judge(value, self.type)
        if found.beyond:
            return f"it reaches {found.largest:.3g}, and {self.type.title} ends at {self.type.largest:.5g}"
        return None


def _halved(specs: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
    return tuple(replace(one, dtype="float16") if one.dtype == "float32" else one for one in specs)


def _figures(writer: HalfWriter) -> dict[str, Fact]:
    figures = writer.figures
    found: dict[str, Fact] = {"constants_half": figures.constants, "casts": figures.casts}
    found |= {"numbers_clamped": figures.clamped} if figures.clamped else {}
    found |= {"weights_that_became_0": figures.vanished} if figures.vanished else {}
    return found


def _activations(model: ir.Model, elements: Elements) -> list[str]:
    """Names of the float32 values outside functions that are no constants."""
    found: dict[str, None] = {}
    for scope, _, inside in graph.scopes(model):
        made = (out for node in scope if not graph.is_standard(node, "Constant") for out in node.outputs)
        for value in () if inside else (*scope.inputs, *made):
            if value.name and elements.is_float(value):
                found[value.name] = None
    return list(found)


def _constants(model: ir.Model, elements: Elements) -> list[ir.Value]:
    """float32 constants outside functions with at least `_LEAST_ELEMENTS` elements."""
    found: list[ir.Value] = []
    for scope, _, inside in graph.scopes(model):
        if inside or not isinstance(scope, ir.Graph):
            continue
        made = (node.outputs[0] for node in scope if graph.is_standard(node, "Constant"))
        for value in (*scope.initializers.values(), *made):
            tensor = graph.constant_tensor(value)
            if tensor is not None and elements.is_float(value) and tensor.size >= _LEAST_ELEMENTS and value.uses():
                found.append(value)
    return found
