"""One pass is one module here and one golden file in tests/golden; this module is the registry of passes.

A pass never prints, saves, times or measures: the engine does. Modules are imported when their pass is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from modelopt.core.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from modelopt.passes.base import Pass

_MODULES = (
    "fold_constants",
    "simplify_reshape",
    "eliminate_identity",
    "eliminate_common",
    "eliminate_dead",
    "dedup_initializers",
    "freeze_dims",
    "freeze_weights",
    "upgrade_opset",
    "raise_opset",
    "onnxsim",
    "fuse_conv_bn",
    "fuse_conv_affine",
    "fuse_conv_branches",
    "fuse_pad",
    "fuse_padded_affine",
    "fuse_hardswish",
    "fuse_matmul_add",
    "fuse_layer_norm",
    "fuse_rms_norm",
    "fuse_instance_norm",
    "reduce_mean_pool",
    "fuse_gelu",
    "fuse_mish",
    "fuse_attention",
    "fuse_rotary",
    "fuse_skip_layer_norm",
    "fuse_bias_gelu",
    "fuse_silu",
    "fuse_gemm_bn",
    "fuse_gemm_gemm",
    "merge_transpose",
    "sink_transpose",
    "merge_cast",
    "merge_reshape",
    "merge_clip",
    "merge_slice",
    "merge_concat",
    "cancel_concat",
    "fold_gather",
    "drop_zero_states",
    "prune_dead_channels",
    "shield_layer_norm",
    "equalize_layers",
    "smooth_activations",
    "prune_magnitude",
    "prune_channels",
    "prune_layers",
    "quantize_static",
    "quantize_dynamic",
    "quantize_weights",
    "store_weights",
    "convert_half",
    "convert_float",
)

NAMES = tuple(module.replace("_", "-") for module in _MODULES)
"""The passes' names in the order in which `modelopt passes` lists them."""


def find(name: str) -> type[Pass]:
    """The pass called `name`.

    Raises:
        InputError: No pass has that name.
    """
    if name not in NAMES:
        raise InputError(
            f"unknown pass '{name}'",
            note=f"passes: {', '.join(NAMES)}",
            hint=did_you_mean(name, NAMES) or "modelopt passes",
        )
    module = name.replace("-", "_")
    class_name = "".join(word.capitalize() for word in module.split("_"))
    found: type[Pass] = getattr(importlib.import_module(f"modelopt.passes.{module}"), class_name)
    return found
