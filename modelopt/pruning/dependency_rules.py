"""The rules of all operators, as `dependencies.analyse` takes them."""

from __future__ import annotations

from collections.abc import Mapping

from modelopt.pruning import elementwise_rules, layout_rules, product_rules
from modelopt.pruning.dependencies import Rule

RULES: Mapping[tuple[str, str], Rule] = {**elementwise_rules.RULES, **layout_rules.RULES, **product_rules.RULES}
"""By domain ("" for ONNX's own) and operator."""
