"""Set symbolic dimensions of the inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import onnx_ir as ir

from modelopt import graph
from modelopt.calibration.context import Context
from modelopt.core.changes import Changes, Effect
from modelopt.core.errors import InputError, Refused, WorkerDied, did_you_mean
from modelopt.core.runner import Runner
from modelopt.core.signature import Dim, Signature, TensorSpec, no_dimension, symbol_of, symbols_of
from modelopt.passes.base import Pass, option

FROZEN_KEY = "modelopt.frozen."
"""The start of metadata entries that remember what was frozen, so that a second run finds nothing to do."""

_SHAPES_INSTEAD = "dimensions without a name are set with the shape of their input, such as x:1,3,224,224"
"""The hint where a text such as ``*`` or ``?`` is given as the name of a dimension."""


@dataclass(frozen=True, kw_only=True)
class FreezeDims(Pass):
    """Set symbolic dimensions of the inputs, so that shapes fold. The signature changes: other sizes are refused.

    A symbol is set wherever it stands, in inputs, outputs and between; shape inference is run again. Exact for inputs
    of the new shape, which are what the result is compared on.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    keeps_signature: ClassVar[bool] = False

    dims: tuple[str, ...] = option((), "sizes of symbolic dimensions, such as batch=1")
    shapes: tuple[str, ...] = option((), "shapes of inputs, such as x:1,3,224,224")

    def check(self) -> None:
        """Refuse texts that are not a dimension and a size, or an input and a shape."""
        self._named()
        self._shapes()

    def apply(self, model: ir.Model, ctx: Context) -> Changes:
        """Set the dimensions, then infer shapes again.

        Raises:
            InputError: There is no such dimension or input, or a size contradicts the model.
        """
        before = graph.signature(model)
        sizes = self._sizes(before)
        _check_known(self._named(), before, model)
        after = self.signature_after(before)
        pairs = list(zip(before.inputs, after.inputs, strict=True))
        set_dims = sum(_count_changed(old, new) for old, new in pairs)
        if not set_dims:
            return Changes()
        fresh = {new.name: new.shape for old, new in pairs if old != new}
        for value in model.graph.inputs:
            if value.name in fresh:
                value.shape = ir.Shape(fresh[value.name] or ())
        _set_symbols(model, sizes)
        for name, size in sorted(sizes.items()):
            model.metadata_props[FROZEN_KEY + name] = str(size)
        _infer_again(model, ctx.runner)
        return Changes(set_dims, facts={"frozen_dims": set_dims})

    def signature_after(self, signature: Signature) -> Signature:
        """The signature with the sizes in place.

        Raises:
            InputError: An option makes no sense, or contradicts the signature.
        """
        sizes, shapes = self._sizes(signature), self._shapes()
        inputs = [replace(spec, shape=shapes.get(spec.name, spec.shape)) for spec in signature.inputs]
        return Signature(
            tuple(_with_sizes(spec, sizes) for spec in inputs),
            tuple(_with_sizes(spec, sizes) for spec in signature.outputs),
        )

    def declared_after(self, signature: Signature) -> Signature:
        """The same, but a symbol that only outputs have becomes a free size: it is computed from the inputs."""
        known, after = symbols_of(signature.inputs), self.signature_after(signature)
        return replace(after, outputs=tuple(_with_sizes_left_open(spec, known) for spec in after.outputs))

    def _named(self) -> dict[str, int]:
        return dict(_parse_dim(text) for text in self.dims)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        return dict(_parse_shape(text) for text in self.shapes)

    def _sizes(self, signature: Signature) -> dict[str, int]:
        """The size of each symbol, from both options."""
        sizes = self._named()
        inputs = {spec.name: spec for spec in signature.inputs}
        for name, shape in self._shapes().items():
            if name not in inputs:
                note = f"inputs: {', '.join(inputs)}"
                raise InputError(f"the model has no input '{name}'", note=note, hint=did_you_mean(name, inputs))
            _bind(inputs[name], shape, sizes)
        return sizes


def _parse_dim(text: str) -> tuple[str, int]:
    name, _, size = text.rpartition("=")
    if not name or not size.isdecimal() or int(size) < 1:
        raise InputError(f"'{text}' is not the size of a dimension", hint="such as batch=1")
    return name, int(size)


def _parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, dims = text.rpartition(":")  # names hold colons
    parts = [part.strip() for part in dims.split(",")]
    if not name or not all(part.isdecimal() and int(part) >= 1 for part in parts):
        raise InputError(f"'{text}' is not the shape of an input", hint="such as x:1,3,224,224")
    return name, tuple(int(part) for part in parts)


def _bind(spec: TensorSpec, shape: tuple[int, ...], sizes: dict[str, int]) -> None:
    """Note what each symbol of an input becomes when the input gets `shape`."""
    if spec.shape is None:
        return
    if len(spec.shape) != len(shape):
        raise InputError(f"the input {spec} cannot have {len(shape)} dimensions")
    for dim, size in zip(spec.shape, shape, strict=True):
        if isinstance(dim, int) and dim >= 0 and dim != size:  # -1 says nothing
            raise InputError(f"the input {spec} cannot have {size} where it has {dim}")
        symbol = symbol_of(dim)
        if symbol is not None and sizes.setdefault(symbol, size) != size:
            raise InputError(f"the dimension '{symbol}' cannot be both {sizes[symbol]} and {size}")


def _check_known(named: Mapping[str, int], signature: Signature, model: ir.Model) -> None:
    known = symbols_of(signature.inputs)
    for name, size in named.items():
        frozen = model.metadata_props.get(FROZEN_KEY + name)
        if name in known or frozen == str(size):
            continue
        if frozen is not None:
            raise InputError(f"the dimension '{name}' was set to {frozen} before and cannot become {size}")
        raise no_dimension(name, known, _SHAPES_INSTEAD)


def _count_changed(old: TensorSpec, new: TensorSpec) -> int:
    dims = new.shape or ()
    before: tuple[Dim, ...] = (None,) * len(dims) if old.shape is None else old.shape
    return sum(one != other for one, other in zip(before, dims, strict=True))


def _with_sizes(spec: TensorSpec, sizes: Mapping[str, int]) -> TensorSpec:
    if spec.shape is None:
        return spec
    return replace(spec, shape=tuple(_with_size(dim, sizes) for dim in spec.shape))


def _with_sizes_left_open(spec: TensorSpec, known: Collection[str]) -> TensorSpec:
    if spec.shape is None:
        return spec
    return replace(spec, shape=tuple(dim if isinstance(dim, int) or dim in known else None for dim in spec.shape))


def _with_size(dim: Dim, sizes: Mapping[str, int]) -> Dim:
    symbol = symbol_of(dim)
    return dim if symbol is None else sizes.get(symbol, dim)


def _set_symbols(model: ir.Model, sizes: Mapping[str, int]) -> None:
    """Set symbols in the main graph and its bodies; those of a function are its own."""
    for scope, _, in_function in graph.scopes(model):
        if in_function:
            continue
        for value in (*scope.inputs, *(out for node in scope for out in node.outputs)):
            if value.shape is not None and not value.shape.is_static():
                value.shape = ir.Shape([_sized(dim, sizes) for dim in value.shape])


def _sized(dim: int | ir.SymbolicDim, sizes: Mapping[str, int]) -> int | ir.SymbolicDim:
    symbol = None if isinstance(dim, int) else symbol_of(dim.value)
    return dim if symbol is None else sizes.get(symbol, dim)


def _infer_again(model: ir.Model, runner: Runner) -> None:
    """Infer shapes again, from the sizes; a shape that inference does not find stays as it was."""
    outdated = {
        value: value.shape
        for node in graph.all_nodes(model)
        for value in node.outputs
        if value.shape is not None and not value.shape.is_static()
    }
    for value in outdated:
        value.shape = None
    with contextlib.suppress(Refused, WorkerDied):
        runner.infer_shapes(model)
    for value, old in outdated.items():
        value.shape = _sharper(old, value.shape)


def _sharper(old: ir.Shape, new: ir.Shape | None) -> ir.Shape:
    if new is None or len(new) != len(old):
        return old
    return ir.Shape([fresh if isinstance(fresh, int) else dim for dim, fresh in zip(old, new, strict=True)])
