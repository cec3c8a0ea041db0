"""Evaluates constant nodes, and folds constants, in numpy within a budget of bytes.

It trusts no size that a model declares. Ask `output_bytes` before `evaluate`: a 164-byte model can ask for 2^62
elements. Kernels follow the ONNX operator specification: https://onnx.ai/onnx/operators/

`onnx.reference` evaluates the same operators and would save these kernels. It was tried in their place, behind the
same `output_bytes`, with onnx 1.23.2; the kernels stayed for these reasons:

- Folding takes 1.5 to 4.3 times as long: BERT-base as exported 1.74 s against 0.41 s, with its sizes fixed 1.13 s
  against 0.78 s, 540 constant nodes in 24 layers 0.73 s against 0.34 s (least of five interleaved runs).
- Of the 151 cases in tests/consteval/test_folding.py it agrees with onnxruntime in 143, the kernels in all. Clip
  without bounds lets infinity pass there; some GatherElements, Pad and OneHot fail or differ.
- Of the onnx package's 625 node tests for these operators it passes all. The kernels pass 530 and give no wrong
  result: they leave the other 95, most of them casts to types of 4 bits and less, to onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import onnx_ir as ir

from modelopt import graph
from modelopt.consteval import elementwise, generation, movement, reduction
from modelopt.consteval.call import Call, Kernel, LeftToRuntime, NotEvaluable

__all__ = ["MIN_OPSET", "OPERATORS", "NotEvaluable", "evaluate", "is_foldable", "kernel_of", "output_bytes"]

_VIEW_BYTES = 2**20

_T = TypeVar("_T")

MIN_OPSET = 7
"""Before opset 7 arithmetic broadcast by attributes of its own; nothing is evaluated there."""

_KERNELS: dict[str, Kernel] = {
    **elementwise.KERNELS,
    **movement.KERNELS,
    **generation.KERNELS,
    **reduction.KERNELS,
}

OPERATORS = frozenset(_KERNELS)
"""The standard operators that have a kernel."""

# Folding the first three would undo a quantization. The others are random; Dropout is in training mode.
_NEVER = frozenset(
    {
        "DequantizeLinear",
        "QuantizeLinear",
        "DynamicQuantizeLinear",
        "Bernoulli",
        "Dropout",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)


def is_foldable(node: ir.Node) -> bool:
    """Whether `node` always gives the same for the same inputs and may be replaced by what it gives.

    False for other domains, for Constant (it is folded already), for whatever holds a body or takes an attribute from
    a function's caller, for randomness, and for QuantizeLinear and DequantizeLinear.
    """
    if node.domain not in graph.STANDARD_DOMAINS or node.op_type == "Constant" or node.op_type in _NEVER:
        return False
    held = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
    return not any(attribute.is_ref() or attribute.type in held for attribute in node.attributes.values())


def kernel_of(node: ir.Node, opset: int) -> Kernel | None:
    """The kernel for `node`, or None."""
    if opset < MIN_OPSET or not is_foldable(node):
        return None
    return _KERNELS.get(node.op_type)


def output_bytes(node: ir.Node, inputs: Sequence[np.ndarray | None], opset: int) -> int | None:
    """An upper bound on the bytes of all outputs of `node`, computed without allocating them.

    Args:
        node: A node.
        inputs: One array for each input, any dtype that onnx_ir has; None for an omitted optional input.
        opset: The version of the standard operator set.

    Returns:
        The bound, or None when no kernel evaluates `node`.

    Raises:
        NotEvaluable: The inputs are invalid for the operator, or the specification leaves the result open.
    """
    kernel = kernel_of(node, opset)
    return None if kernel is None else _guarded(kernel.size, Call(node, inputs, opset))


def evaluate(node: ir.Node, inputs: Sequence[np.ndarray | None], opset: int) -> list[np.ndarray] | None:
    """The outputs of `node`, or None when no kernel evaluates it.

    Each has the dtype of the specification; scalars stay 0-d. An output of 1 MiB or more may be a view of an input,
    and must not be written into; smaller ones are C-contiguous arrays of their own. Floating-point results agree with
    onnxruntime's up to the rounding of elementary functions and sums.

    Args:
        node: A node.
        inputs: As for `output_bytes`, which says whether the result is small enough to ask for.
        opset: The version of the standard operator set.

    Raises:
        NotEvaluable: The inputs are invalid for the operator, or the specification leaves the result open.
    """
    kernel = kernel_of(node, opset)
    outputs = None if kernel is None else _guarded(kernel.run, Call(node, inputs, opset))
    return None if outputs is None else [_own(output) for output in outputs]


def _own(array: np.ndarray) -> np.ndarray:
    """A C-contiguous copy. A large weight that is only transposed stays a view, copied when the file is written."""
    permuted = array.base is not None and 0 not in array.strides
    return array if permuted and array.nbytes >= _VIEW_BYTES else np.array(array, order="C")


def _guarded(function: Callable[[Call], _T], call: Call) -> _T | None:
    if any(array is not None and array.dtype.kind in "OSU" for array in call.inputs):
        raise NotEvaluable("an input holds strings")
    try:
        with np.errstate(all="ignore"):
            return function(call)
    except LeftToRuntime:
        return None
    except (ValueError, IndexError, TypeError, OverflowError) as error:
        clause = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise NotEvaluable(f"its inputs are invalid: {clause}") from error
