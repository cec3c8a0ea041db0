"""`fold`: constants are computed ahead of time, and what does nothing is removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.core.errors import InputError
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.pipelines import FOLD
from modelopt.recipe.recipe import Step, UntilStable


@dataclass(frozen=True, kw_only=True)
class FoldOptions(OptimizeOptions):
    """Options of `fold`.

    Attributes:
        engine: modelopt, or onnxsim on an in-memory model.
        max_growth: How much all weights may grow, as a fraction. None: 0.1.
        freeze_dim: Sizes of symbolic dimensions of the inputs: {"batch": 1}, or texts "batch=1".
        input_shape: Shapes of inputs: {"x": (1, 3, 224, 224)}, or texts "x:1,3,224,224".
        opset: Convert to this opset first, if it is later.
    """

    engine: str = "modelopt"
    max_growth: float | None = None
    freeze_dim: Mapping[str, int] | Sequence[str] = ()
    input_shape: Mapping[str, Sequence[int]] | Sequence[str] = ()
    opset: int | None = None

    def plan(self) -> Plan:
        """The recipe; nothing is tried beside it."""
        first: list[Step] = [] if self.opset is None else [make_pass("upgrade-opset", {"version": self.opset})]
        if self.freeze_dim or self.input_shape:
            first.append(
                make_pass("freeze-dims", {"dims": _dims(self.freeze_dim), "shapes": _shapes(self.input_shape)})
            )
        if self.engine not in {"modelopt", "onnxsim"}:
            raise InputError(f"unknown engine '{self.engine}'", note="engines: modelopt, onnxsim")
        if self.engine == "onnxsim":
            if self.max_growth is not None:
                raise InputError("--max-growth is for our own engine", hint="leave out --engine onnxsim")
            return Plan(make_recipe("fold", [*first, make_pass("onnxsim", {})], self), "folded")
        growth = {} if self.max_growth is None else {"max-growth": self.max_growth}
        group = UntilStable(tuple(make_pass(name, growth if name == "fold-constants" else {}) for name in FOLD))
        return Plan(make_recipe("fold", [*first, group], self), "folded")


def _dims(dims: Mapping[str, int] | Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}={size}" for name, size in dims.items()) if isinstance(dims, Mapping) else tuple(dims)


def _shapes(shapes: Mapping[str, Sequence[int]] | Sequence[str]) -> tuple[str, ...]:
    if not isinstance(shapes, Mapping):
        return tuple(shapes)
    return tuple(f"{name}:{','.join(map(str, sizes))}" for name, sizes in shapes.items())
