"""The model that another is compared with: its outputs for each sample, and how the other's outputs match them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from modelopt.core.errors import InputError
from modelopt.data.dataset import Dataset, Sample
from modelopt.measure.heads import Head
from modelopt.measure.metric import Outputs
from modelopt.measure.stability import unstable
from modelopt.measure.structure import value_positions
from modelopt.runtime.worker_session import Session

_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(bfloat16)", "tensor(double)"})


class Reference:
    """What a model answers to each sample of a data set, computed once as far as memory allows.

    Args:
        session: The model, open.
        dataset: The samples.
        keep_bytes: How many bytes of outputs to keep for the next time; the model runs again for the rest.
        heads: How the model ends at each output; nothing is known of the others.
    """

    def __init__(
        self, session: Session, dataset: Dataset, keep_bytes: int = 0, *, heads: Mapping[str, Head] | None = None
    ) -> None:
        self.session = session
        self.dataset = dataset
        self.heads = heads or {}
        self._room = keep_bytes
        self._kept: dict[int, list[np.ndarray]] = {}
        self._unstable: frozenset[int] | None = None

    def __iter__(self) -> Iterator[tuple[Sample, list[np.ndarray]]]:
        for position, sample in enumerate(self.dataset):
            outputs = self._kept.get(position)
            if outputs is None:
                outputs = self.session.run(sample.feeds)
                size = sum(output.nbytes for output in outputs)
                if size <= self._room:
                    self._kept[position] = outputs
                    self._room -= size
            yield sample, outputs

    def unstable(self, sample: Sample, outputs: Outputs) -> frozenset[int]:
        """Positions of values that differ from one run to the next on the same inputs, tried once.

        Args:
            sample: The inputs.
            outputs: What the session gave for them.
        """
        if self._unstable is None:
            found = unstable(lambda: self.session.run(sample.feeds), outputs)
            places = enumerate(value_positions(self.session.info.whole))
            self._unstable = frozenset(position for position, place in places if place in found)
        return self._unstable


def matched_outputs(before: Session, after: Session) -> list[str]:
    """The candidate's outputs in the reference's order."""
    inputs = {value.name for value in before.info.inputs}, {value.name for value in after.info.inputs}
    if inputs[0] != inputs[1]:
        raise InputError(
            "the two models take different inputs",
            note=f"{', '.join(sorted(inputs[0]))} and {', '.join(sorted(inputs[1]))}",
        )
    ours = [value.name for value in before.info.outputs]
    theirs = [value.name for value in after.info.outputs]
    counts = [len(value_positions(each.info.whole)) for each in (before, after)]
    if counts[0] != counts[1]:
        raise InputError(f"the two models have {counts[0]} and {counts[1]} outputs", note="they cannot be compared")
    if len(ours) != len(theirs):
        different = [name for name in (*ours, *theirs) if (name in ours) != (name in theirs)]
        raise InputError(
            "the two models have outputs of different kinds",
            note=f"in one of them only: {', '.join(different)}",
            hint="compare models that both give maps, both sequences, or both tensors",
        )
    others = iter([name for name in theirs if name not in ours])
    names = [name if name in theirs else next(others) for name in ours]
    types, types_before = after.info.output_types(), before.info.output_types()
    for name_before, name in zip(ours, names, strict=True):  # a model may list an output twice
        was = types_before[name_before]
        if was != types[name] and not {was, types[name]} <= _FLOATS:
            raise InputError(f"output '{name}' is {types[name]} in one model and {was} in the other")
    return names
