"""The error where a model runs on none of the inputs that were made for it, and how to give it one that it runs on."""

from __future__ import annotations

from modelopt.core.errors import InputError, ModeloptError, Refused
from modelopt.core.signature import Signature, TensorSpec, is_free
from modelopt.data.synthetic import DEFAULT_FREE_DIM

GIVE_DATA = "give it real ones with --eval DATA, or write --no-verify --no-bench"


class NothingRuns(InputError):
    """A model runs on none of the inputs that were made for it.

    Args:
        kind: The kind of inputs: ``constructed`` or ``random``.
        why: The message of onnxruntime for the first of them.
        hint: What helps.
        feed: The flag with an example of an input that the model may run on.
    """

    def __init__(self, kind: str, why: str | None, *, hint: str, feed: str) -> None:
        super().__init__(f"the model does not run on {kind} inputs", note=why, hint=hint)
        self.feed = feed


def nothing_runs(kind: str, why: str | None, signature: Signature, *, hint: str) -> ModeloptError:
    """The error where a model runs on none of the inputs that were made for it.

    Args:
        kind: The kind of inputs: ``constructed`` or ``random``.
        why: The message of onnxruntime for the first of them.
        signature: The model's.
        hint: What helps, unless the signature itself is at fault.
    """
    if why and "allocate memory" in why:
        return Refused(
            "the model needs more memory than it may use", note=why, hint="--memory-limit sets what it may use"
        )
    empty = next((spec for spec in signature.inputs if 0 in (spec.shape or ())), None)
    if empty is not None:
        fault = f"the model declares {empty}, which holds no element: export it with free dimensions in place of 0"
        return NothingRuns(kind, why, hint=fault, feed=fault)
    example = give_one(signature)
    return NothingRuns(kind, why, hint=f"{hint}; DATA may be {example}", feed=f"--eval {example}")


def give_one(signature: Signature) -> str:
    """How to write a feed that a model like this runs on."""
    arrays = ", ".join(f"{spec.name!r}: {_example(spec)}" for spec in signature.inputs)
    asked = "; ".join(map(str, signature.inputs))
    written = f"np.savez('feed.npz', **{{{arrays}}})"
    return f"feed.npz, written with numpy: {written}, with real values and sizes ({asked})"


def _example(spec: TensorSpec) -> str:
    """An array of an input's dtype and shape as numpy text; free dimensions by name, as far as they have one."""
    dims = [
        "1" if not axis and is_free(dim) else str(DEFAULT_FREE_DIM if is_free(dim) else dim)
        for axis, dim in enumerate(spec.shape or ())
    ]
    shape = f"({dims[0]},)" if len(dims) == 1 else f"({', '.join(dims)})"
    return f"np.zeros({shape}, {'str' if spec.dtype == 'string' else repr(spec.dtype)})"
