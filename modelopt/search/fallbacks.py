"""Ways to quantize that are tried when the one that was asked for costs too much accuracy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from modelopt.passes.base import Pass
from modelopt.passes.equalize_layers import EqualizeLayers
from modelopt.passes.quantize_dynamic import QuantizeDynamic
from modelopt.passes.quantize_static import QuantizeStatic
from modelopt.passes.quantize_weights import QuantizeWeights, WeightFormat
from modelopt.passes.smooth_activations import SmoothActivations
from modelopt.passes.store_weights import StoreWeights
from modelopt.quant.correction.gptq_rounding import WeightRounding
from modelopt.quant.numerics.range_methods import Method
from modelopt.quant.weight_only.rounding import BlockRounding

_SMALL_BLOCK = 16  # the smallest that MatMulNBits takes
_TABLE_BITS = 8


def repairs(asked: Pass, *, with_data: bool, with_tables: bool) -> Iterator[tuple[Pass | None, Pass]]:
    """The passes to try in place of `asked`, each with a pass to apply before it, if any; the cheapest come first.

    Args:
        asked: The pass that quantizes.
        with_data: There are calibration data.
        with_tables: The model looks rows of tables up.
    """
    if isinstance(asked, QuantizeStatic):
        yield from _of_static(asked)
    elif isinstance(asked, QuantizeWeights):
        yield from ((None, variant) for variant in _of_weights(asked, with_data=with_data, with_tables=with_tables))
    elif isinstance(asked, StoreWeights) and asked.symmetric:
        yield None, dataclasses.replace(asked, symmetric=False)


def smaller(asked: Pass) -> Iterator[Pass]:
    """Passes that make a smaller file than int8 where that pays, for a limit on the size; the largest file first.

    Args:
        asked: The pass that was asked for; nothing takes its place where it is for single nodes or a given type.
    """
    if not isinstance(asked, QuantizeStatic | QuantizeDynamic) or asked.include or asked.exclude:
        return
    if isinstance(asked, QuantizeStatic):
        if asked.override is not None or asked.integer_io:
            return
        yield dataclasses.replace(asked, everywhere=True)
    yield StoreWeights()
    yield QuantizeWeights()


def _of_weights(asked: QuantizeWeights, *, with_data: bool, with_tables: bool) -> Iterator[QuantizeWeights]:
    """Other ways to round; scales for fewer weights each; tables in 8 bits; then activations in float32.

    The last makes the model slower, so what keeps activations in int8 comes first.
    """
    methods = [BlockRounding.HQQ, *([BlockRounding.GPTQ] if with_data else [])]
    listed = [dataclasses.replace(asked, method=method) for method in methods if method is not asked.method]
    yield from listed
    best = listed[-1] if listed else asked
    if best.block_size is None or best.block_size > _SMALL_BLOCK:
        best = dataclasses.replace(best, block_size=_SMALL_BLOCK)
        yield best
    if with_tables and best.table_bits is None and best.bits < _TABLE_BITS:
        best = dataclasses.replace(best, table_bits=_TABLE_BITS)
        yield best
    if asked.int8_compute is None and asked.form is not WeightFormat.BLOCKED:
        for variant in dict.fromkeys((asked, best)):
            yield dataclasses.replace(variant, int8_compute=False)


def _of_static(asked: QuantizeStatic) -> Iterator[tuple[Pass | None, Pass]]:
    """Other ranges, corrected biases, ranges made alike, error feedback.

    Ranges by another method come from the same observations; exact rewrites that make ranges alike need their own.
    """
    for method in (Method.MINMAX, Method.MSE, Method.PERCENTILE):
        if method is not asked.method:
            yield None, dataclasses.replace(asked, method=method)
    corrected = dataclasses.replace(asked, correct_bias=True)
    yield None, corrected
    yield EqualizeLayers(), corrected
    yield SmoothActivations(), corrected
    yield None, dataclasses.replace(corrected, rounding=WeightRounding.GPTQ)
