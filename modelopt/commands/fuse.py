"""`fuse`: constants are folded, and operators become fewer and faster ones."""

from __future__ import annotations

from dataclasses import dataclass

from modelopt.commands.execution import OptimizeOptions, Plan, make_recipe
from modelopt.core.errors import InputError, Refused
from modelopt.recipe import pipelines
from modelopt.recipe.pass_options import make_pass
from modelopt.recipe.recipe import Search, Step

_PROVIDERS = ("cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class FuseOptions(OptimizeOptions):
    """Options of `fuse`.

    Attributes:
        portable: Only operators of the ONNX standard: the default.
        contrib: Use operators that only onnxruntime has, too.
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
        """The recipe; with `keep_if_faster` its search measures each kind of operator of onnxruntime."""
        self._check()
        uses_contrib = self.contrib or self.keep_if_faster
        steps: list[Step] = [] if self.opset is None else [make_pass("upgrade-opset", {"version": self.opset})]
        keep_opset = self.opset is not None or self.keep_opset
        steps += pipelines.expand("exact", keep_opset=keep_opset)
        steps += pipelines.expand("contrib") if uses_contrib else ()
        search = Search.KEEP_IF_FASTER if self.keep_if_faster else None
        return Plan(make_recipe("fuse", steps, self, not_slower=True, search=search), "fused")

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
