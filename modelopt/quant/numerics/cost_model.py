"""What kernels cost in int8 and in float on each kind of machine: the constants of all estimates, and their source.

`quant.static.region_gain` and `quant.dynamic.product_gain` compute with them. tests/bench/fit_costs.py fits them again:
it times each shape in float and in int8 by turns on one thread, and fits the differences by least squares.

- With VNNI: the mean of a Xeon (Sapphire Rapids) and an EPYC (Zen 4), onnxruntime 1.32. The two differ by up to a
  factor of two.
- Without VNNI: the EPYC with AVX-512, VNNI and VEX-VNNI hidden from onnxruntime.
- 64-bit Arm with dot products: taken to be as with VNNI. No machine was at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelopt.core.targets import TargetKind


@dataclass(frozen=True)
class StaticCosts:
    """Nanoseconds on one core; only their ratios matter.

    Attributes:
        saved_per_mac: A float multiply-add less an integer one, in products.
        saved_in_conv: The same in dense convolutions, whose float kernels are faster.
        product_rescale: Scaling each element that a product writes.
        rescale: Scaling each element that a convolution writes.
        depthwise: The loss for each element of a depthwise convolution.
        gather: Gathering the input, for each output pixel and kernel position of a convolution larger than 1 × 1.
        unaligned_saved_in_conv: `saved_in_conv` where channels are no multiple of four: the fast kernels need that.
        unaligned_rescale: `rescale` there.
        unaligned_gather: `gather` there.
        convert: Each element that is quantized, and each that is dequantized, per reader.
        launch: Each Q or DQ that runs, whatever its size.
    """

    saved_per_mac: float
    product_rescale: float
    saved_in_conv: float
    rescale: float
    depthwise: float
    gather: float
    unaligned_saved_in_conv: float
    unaligned_rescale: float
    unaligned_gather: float
    convert: float
    launch: float


# Fitted to 16 products, 24 convolutions with multiples of four channels, 18 with others, and 18 depthwise ones.
_STATIC_VNNI = StaticCosts(
    saved_per_mac=0.014,
    product_rescale=0.24,
    saved_in_conv=0.011,
    rescale=0.06,
    depthwise=0.2,
    gather=0.8,
    unaligned_saved_in_conv=0.0125,
    unaligned_rescale=0.75,
    unaligned_gather=2.0,
    convert=0.16,
    launch=700.0,
)
_STATIC_AVX2 = StaticCosts(
    saved_per_mac=0.0117,
    product_rescale=0.47,
    saved_in_conv=0.0098,
    rescale=0.0,
    depthwise=0.17,
    gather=0.0,
    unaligned_saved_in_conv=0.0136,
    unaligned_rescale=1.19,
    unaligned_gather=1.9,
    convert=0.14,
    launch=500.0,
)
_STATIC: Mapping[TargetKind, StaticCosts] = {
    TargetKind.X86_VNNI: _STATIC_VNNI,
    TargetKind.X86_AVX2: _STATIC_AVX2,
    TargetKind.ARM64: _STATIC_VNNI,
}


def static_costs(kind: TargetKind) -> StaticCosts | None:
    """The estimate for a target; None where the compiler of the target decides by itself (TensorRT)."""
    return _STATIC.get(kind)


@dataclass(frozen=True)
class DynamicCosts:
    """Nanoseconds on one core; only their ratios matter.

    Attributes:
        saved_per_mac: A float multiply-add less an integer one.
        convert: Each element that is quantized, with its part in finding the range.
        rescale: Each element that is written.
        launch: Each activation that is quantized, whatever its size.
        step: Each step of a recurrent operator, which quantizes its state.
    """

    saved_per_mac: float
    convert: float
    rescale: float
    launch: float
    step: float


# Fitted to 30 products (1 to 197 rows, 32² to 768·3072 weights) and to LSTMs of 16 to 512 units.
_DYNAMIC_VNNI = DynamicCosts(saved_per_mac=0.012, convert=0.26, rescale=0.26, launch=700.0, step=200.0)
_DYNAMIC_AVX2 = DynamicCosts(saved_per_mac=0.011, convert=0.49, rescale=0.165, launch=300.0, step=150.0)
_DYNAMIC: Mapping[TargetKind, DynamicCosts] = {
    TargetKind.X86_VNNI: _DYNAMIC_VNNI,
    TargetKind.X86_AVX2: _DYNAMIC_AVX2,
    TargetKind.ARM64: _DYNAMIC_VNNI,
}


def dynamic_costs(kind: TargetKind) -> DynamicCosts | None:
    """The estimate for a target; None where it has no kernel that quantizes activations at run time."""
    return _DYNAMIC.get(kind)
