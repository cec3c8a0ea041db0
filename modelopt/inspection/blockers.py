"""What quantization meets in a model: one function per finding, each readable alone.

No weights are read: `quant.static.selection` decides node by node when it quantizes, and ``--explain`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

from modelopt import graph
from modelopt.inspection.data import Blocker
from modelopt.inspection.foldable import constant_nodes
from modelopt.quant.static import existing_qdq
from modelopt.quant.static.kernels import KERNELS, channel_axis
from modelopt.quant.static.selection import why_already_quantized

_FIRST_PER_CHANNEL_OPSET = 13
_CONTRIB_DOMAINS = (
    graph.CONTRIB_DOMAIN,
    "ai.onnx.ml",
    "ai.onnx.preview",
    "ai.onnx.training",
    "com.ms.",
    "org.pytorch.aten",
)
_SHOWN = 3
_ORDER = {"stops": 0, "hampers": 1, "note": 2}


@dataclass(frozen=True)
class _Subject:
    """The model, and what several findings ask about it.

    Attributes:
        kernels: Conv, Gemm and MatMul in all scopes.
        computed: Nodes that compute from constants alone.
    """

    model: ir.Model
    kernels: tuple[ir.Node, ...]
    computed: frozenset[ir.Node]


def blockers(model: ir.Model) -> tuple[Blocker, ...]:
    """All findings, the worst first."""
    kernels = tuple(node for node in graph.all_nodes(model) if _is_kernel(node))
    subject = _Subject(model, kernels, frozenset(constant_nodes(model)))
    found = [blocker for find in _FINDINGS if (blocker := find(subject)) is not None]
    return tuple(sorted(found, key=lambda blocker: _ORDER[blocker.severity]))


def _is_kernel(node: ir.Node) -> bool:
    return node.op_type in KERNELS and node.domain in graph.STANDARD_DOMAINS and len(node.inputs) > 1


def _blocker(
    code: str, severity: Literal["stops", "hampers", "note"], text: str, places: Sequence[ir.Node | str]
) -> Blocker | None:
    """The finding, None when there are no places."""
    if not places:
        return None
    names = [place if isinstance(place, str) else graph.label(place) for place in places[:_SHOWN]]
    return Blocker(code=code, severity=severity, count=len(places), text=text, examples=tuple(names))


def _weight(node: ir.Node) -> ir.TensorProtocol | None:
    return graph.constant_tensor(node.inputs[1])


def _already_quantized(subject: _Subject) -> Blocker | None:
    reason = why_already_quantized(subject.model)
    if reason is None:
        return None
    return Blocker(code="already-quantized", severity="stops", count=1, text=reason)


def _no_kernels(subject: _Subject) -> Blocker | None:
    if any(_weight(node) is not None or _computed(node, subject) for node in subject.kernels):
        return None
    text = "no Conv, Gemm or MatMul has a constant weight: there is nothing that int8 could make faster"
    return Blocker(code="no-constant-weights", severity="stops", count=0, text=text)


def _not_float32(subject: _Subject) -> Blocker | None:
    stored = [(node, tensor) for node in subject.kernels if (tensor := _weight(node)) is not None]
    others = [node for node, tensor in stored if tensor.dtype != ir.DataType.FLOAT]
    dtypes = sorted({tensor.dtype.name.lower() for _, tensor in stored if tensor.dtype != ir.DataType.FLOAT})
    severity: Literal["stops", "hampers"] = "stops" if len(others) == len(stored) else "hampers"
    text = f"weights are {', '.join(dtypes)}: quantization starts from float32"
    return _blocker("not-float32", severity, text, others)


def _in_bodies(subject: _Subject) -> Blocker | None:
    bodies = {scope for scope, _, in_function in graph.scopes(subject.model) if not in_function} - {subject.model.graph}
    places = [node for node in subject.kernels if node.graph in bodies]
    text = "Conv, Gemm or MatMul inside If, Loop or Scan bodies: static quantization needs samples that execute them"
    return _blocker("in-bodies", "note", text, places)


def _in_functions(subject: _Subject) -> Blocker | None:
    inside = {scope for scope, _, in_function in graph.scopes(subject.model) if in_function}
    places = [node for node in subject.kernels if node.graph in inside]
    return _blocker("in-functions", "hampers", "Conv, Gemm or MatMul inside functions: they stay in float", places)


def _partly_quantized(subject: _Subject) -> Blocker | None:
    places = [node for node in subject.kernels if existing_qdq.has_integer_weight(node)]
    return _blocker("partly-quantized", "note", "their weights are in integers already: they stay as they are", places)


def _dynamic_weights(subject: _Subject) -> Blocker | None:
    places = [node for node in subject.kernels if _weight(node) is None and not _computed(node, subject)]
    places = [node for node in places if not existing_qdq.has_integer_weight(node)]
    text = "their second operand is an activation, as in attention, or a caller may replace it: they stay in float"
    return _blocker("dynamic-weights", "hampers", text, places)


def _computed_weights(subject: _Subject) -> Blocker | None:
    places = [node for node in subject.kernels if _weight(node) is None and _computed(node, subject)]
    text = "their weights are computed from constants: modelopt quantize folds them first, unless told not to"
    return _blocker("computed-weights", "note", text, places)


def _computed(node: ir.Node, subject: _Subject) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.producer() in subject.computed


def _overridable(subject: _Subject) -> Blocker | None:
    initializers = subject.model.graph.initializers
    names = [value.name or "" for value in initializers.values() if graph.is_overridable(value)]
    text = "initializers are also inputs, which the caller may replace: they do not count as constants"
    return _blocker("overridable-weights", "hampers", text, names)


def _shared_weights(subject: _Subject) -> Blocker | None:
    axes: dict[ir.Value, set[int | None]] = {}
    for node in subject.kernels:
        weight = node.inputs[1]
        if weight is not None and _weight(node) is not None:
            axes.setdefault(weight, set()).add(channel_axis(node, weight))
    names = [weight.name or "" for weight, used in axes.items() if len(used) > 1]
    text = "weights are used along different axes: one scale per output channel does not fit all of their users"
    return _blocker("shared-weights", "hampers", text, names)


def _tied_weights(subject: _Subject) -> Blocker | None:
    names: dict[str, None] = {}
    for node in subject.kernels:
        weight = node.inputs[1]
        if weight is None or _weight(node) is None:
            continue
        if any(not _is_kernel(user) for user in weight.consumers()):
            names[weight.name or ""] = None
    text = "weights are also read by other operators: a float copy stays in the file beside the int8 one"
    return _blocker("tied-weights", "hampers", text, tuple(names))


def _transposed(subject: _Subject) -> Blocker | None:
    places = [node for node in graph.all_nodes(subject.model) if graph.is_standard(node, "ConvTranspose")]
    return _blocker("conv-transpose", "hampers", "onnxruntime has no integer kernel for ConvTranspose", places)


def _contrib(subject: _Subject) -> Blocker | None:
    places = [node for node in graph.all_nodes(subject.model) if node.domain.startswith(_CONTRIB_DOMAINS)]
    text = (
        "operators of ai.onnx.ml or of onnxruntime's domains: they stay in float, and shapes behind them may be unknown"
    )
    return _blocker("contrib-domain", "hampers", text, places)


def _custom(subject: _Subject) -> Blocker | None:
    functions = subject.model.functions
    places = [
        node
        for node in graph.all_nodes(subject.model)
        if node.domain not in graph.STANDARD_DOMAINS
        and not node.domain.startswith(_CONTRIB_DOMAINS)
        and node.op_identifier() not in functions
    ]
    text = "operators of custom domains: onnxruntime needs their library to run the model and calibrate it"
    return _blocker("custom-domain", "stops", text, places)


def _old_opset(subject: _Subject) -> Blocker | None:
    version = graph.opset(subject.model)
    if version >= _FIRST_PER_CHANNEL_OPSET:
        return None
    text = f"opset {version}: the model will be converted to a newer one, per-channel scales need opset 13"
    return Blocker(code="old-opset", severity="note", count=1, text=text)


_FINDINGS: tuple[Callable[[_Subject], Blocker | None], ...] = (
    _already_quantized,
    _no_kernels,
    _custom,
    _not_float32,
    _overridable,
    _computed_weights,
    _in_bodies,
    _in_functions,
    _partly_quantized,
    _dynamic_weights,
    _shared_weights,
    _tied_weights,
    _transposed,
    _contrib,
    _old_opset,
)
