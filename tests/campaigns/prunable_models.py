"""Seeded random models with channels, heads and hidden units that may go, and what makes that hard.

`model(seed)` puts 2 to 5 blocks of `prunable_images` or `prunable_sequences` one after another. The batch is open; the
length of a sequence is open in half of the models.
"""

from __future__ import annotations

import onnx

from tests.campaigns import prunable_images, prunable_sequences
from tests.campaigns.prunable_net import Net


def model(seed: int) -> onnx.ModelProto:
    """The model of this seed: always the same."""
    n = Net(seed)
    n.opset = n.pick([17, 17, 21, 23])
    if n.chance(0.5):
        x = n.add_input(prunable_images.feature_shape(n))
        for _ in range(n.pick([2, 3, 4, 5])):
            x = n.pick(prunable_images.BLOCKS)(n, x)
        return n.finished(prunable_images.image_head(n, x))
    steps: int | str = n.pick([prunable_sequences.STEPS, "steps"])
    x = n.add_input((1, steps, 8))
    for _ in range(n.pick([1, 2, 3])):
        x = n.pick(prunable_sequences.BLOCKS)(n, x)
    return n.finished(prunable_sequences.sequence_head(n, x))
