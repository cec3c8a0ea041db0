"""`fuse`: operators become fewer and faster ones."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.core.errors import InputError, Refused
from modelopt.recipe import pipelines
from modelopt.recipe.recipe import Recipe, Step, make_pass
from modelopt.search.fusion_search import keep_if_faster

_PROVIDERS = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class FuseOptions(OptimizeOptions):
    """Options of `fuse`.

    Attributes:
        portable: Only operators of the ONNX standard: the default.
        contrib: Fold, and use operators that only onnxruntime has, too.
        keep_if_faster: Use each kind of those only where it is faster here.
        opset: Convert to this opset first, if it is later.
        keep_opset: Do not convert to a later opset where a fusion needs one and it is verified.
    """

    portable: bool = False
    contrib: bool = False
    keep_if_faster: bool = False
    opset: int | None = None
    keep_opset: bool = False

    def plan(self) -> Plan:
        """The recipe, and with `keep_if_faster` the measurement of each kind of operator."""
        self._check()
        groups = [pipelines.contrib(name) for name in pipelines.CONTRIB]
        steps: list[Step] = [] if self.opset is None else [make_pass("upgrade-opset", {"version": self.opset})]
        raises = self.opset is None and not self.keep_opset
        steps.append(pipelines.fusing(folded=self.contrib or self.keep_if_faster, raises=raises))
        if self.keep_if_faster:
            recipe = make_recipe("fuse", steps, self, not_slower=True)
            return Plan(recipe, "fused", choose=lambda request: keep_if_faster(request, groups))
        return Plan(make_recipe("fuse", [*steps, *(groups if self.contrib else [])], self, not_slower=True), "fused")

    def printed_recipe(self) -> Recipe:
        """The recipe that ``--print-recipe`` shows."""
        recipe = super().printed_recipe()
        if self.keep_if_faster:
            raise InputError("what is kept is not known before it is measured", hint="modelopt log OUTPUT, afterwards")
        return recipe

    def _check(self) -> None:
        """Whether the options go together, and with the provider."""
        asked = (("--contrib", self.contrib), ("--keep-if-faster", self.keep_if_faster))
        given = [flag for flag, on in asked if on]
        if self.portable and given:
            note = "--portable keeps to standard operators"
            raise InputError(f"--portable and {given[0]} exclude each other", note=note)
        if len(given) == 2:
            raise InputError("--contrib and --keep-if-faster exclude each other", note="one keeps all, one what pays")
        if self.opset is not None and self.keep_opset:
            raise InputError("--opset and --keep-opset exclude each other", note="one converts, one does not")
        if given and self.provider not in {None, *_PROVIDERS}:
            raise Refused(
                f"{given[0]} is for onnxruntime's own kernels, not for the provider {self.provider}",
                hint=f"--provider {' or '.join(_PROVIDERS)}",
            )
