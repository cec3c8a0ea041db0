"""Small model files that ask for much memory or time, one builder for each kind; see `bombs`."""

from __future__ import annotations

from tests.campaigns import bomb_loops, bomb_structures, bomb_values
from tests.campaigns.bomb_parts import MODELS, Build, model_of, node_of

__all__ = ["MODELS", "Build", "bomb_loops", "bomb_structures", "bomb_values", "tiny"]  # each module adds to MODELS


def tiny() -> bytes:
    """The ordinary model that the limits are compared with."""
    return model_of([node_of("Relu", ["x"], ["z"])]).SerializeToString()
