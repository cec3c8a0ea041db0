"""The rules of all operators, as `dependencies.analyse` takes them."""

from __future__ import annotations

from collections.abc import Mapping

from modelopt.pruning import (
    attention_rules,
    axis_sizes,
    einsum_rules,
    elementwise_rules,
    layout_rules,
    normalization_rules,
    product_rules,
    recurrent_rules,
    reshape_rules,
    selection_rules,
)
from modelopt.pruning.dependencies import Rule

RULES: Mapping[tuple[str, str], Rule] = {
    **axis_sizes.RULES,
    **elementwise_rules.RULES,
    **layout_rules.RULES,
    **reshape_rules.RULES,
    **selection_rules.RULES,
    **product_rules.RULES,
    **einsum_rules.RULES,
    **normalization_rules.RULES,
    **attention_rules.RULES,
    **recurrent_rules.RULES,
}
"""By domain ("" for ONNX's own) and operator."""
