"""Which machine this is, read from what operating systems report."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import archspec.cpu
import pytest

from modelopt.runtime import cpu
from modelopt.runtime.cpu import TargetKind

SKYLAKE = "flags\t\t: fpu avx avx2 avx512f avx512bw avx512vl"
CASCADE_LAKE = f"{SKYLAKE} avx512_vnni"
ALDER_LAKE = "flags\t\t: fpu avx avx2 avx_vnni"
SAPPHIRE_RAPIDS = f"{CASCADE_LAKE} avx_vnni amx_bf16 amx_tile amx_int8"
CORTEX_A72 = "Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
NEOVERSE_N1 = f"{CORTEX_A72} atomics fphp asimdhp asimdrdm asimddp"
NEOVERSE_V1 = f"{NEOVERSE_N1} sve i8mm bf16"


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    cpu.detect.cache_clear()
    yield
    cpu.detect.cache_clear()


@pytest.mark.parametrize(
    ("machine", "line", "kind", "features"),
    [
        ("x86_64", SKYLAKE, TargetKind.X86_AVX2, ("no VNNI",)),
        ("x86_64", CASCADE_LAKE, TargetKind.X86_VNNI, ("avx512_vnni",)),
        ("AMD64", ALDER_LAKE, TargetKind.X86_VNNI, ("avx_vnni",)),
        ("x86_64", SAPPHIRE_RAPIDS, TargetKind.X86_VNNI, ("amx_int8", "avx512_vnni", "avx_vnni")),
        ("aarch64", CORTEX_A72, TargetKind.ARM64, ("aarch64",)),
        ("aarch64", NEOVERSE_N1, TargetKind.ARM64, ("aarch64", "asimddp")),
        ("aarch64", NEOVERSE_V1, TargetKind.ARM64, ("aarch64", "asimddp", "i8mm")),
    ],
)
def test_linux(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    line: str,
    kind: TargetKind,
    features: tuple[str, ...],
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\n{line}\nbogomips\t: 50.00\n")
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    found = cpu.detect()
    assert (found.kind, found.detected, found.features) == (kind, True, features)


@pytest.mark.parametrize(
    ("machine", "name", "kind", "features"),
    [
        ("arm64", "m1", TargetKind.ARM64, ("arm64", "asimddp")),
        ("arm64", "neoverse_v1", TargetKind.ARM64, ("arm64", "asimddp", "i8mm")),
        ("x86_64", "skylake", TargetKind.X86_AVX2, ("no VNNI",)),
        ("x86_64", "icelake", TargetKind.X86_VNNI, ("avx512_vnni",)),
    ],
)
def test_where_there_is_no_cpuinfo(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: str,
    name: str,
    kind: TargetKind,
    features: tuple[str, ...],
) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "missing")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    host = SimpleNamespace(features=archspec.cpu.TARGETS[name].features)
    monkeypatch.setattr(archspec.cpu, "host", lambda: host)
    found = cpu.detect()
    assert (found.kind, found.features) == (kind, features)


@pytest.mark.parametrize(
    ("target", "provider", "words"),
    [
        ("auto", "cpu", None),
        ("x86-vnni", "cpu", None),
        ("tensorrt", "tensorrt", None),
        ("x86-avx2", "cpu", "not measured for {target} (this machine is x86-vnni)"),
        ("arm64", "cpu", "not measured for {target} (this machine is x86-vnni)"),
        ("auto", "openvino", None),
        ("x86-vnni", "openvino", None),
        ("tensorrt", "TensorrtExecutionProvider", None),
        ("x86-vnni", "cuda", "not measured for {target} (the provider is cuda)"),
        ("x86-avx2", "openvino", "not measured for {target} (this machine is x86-vnni)"),
        ("cuda", "cpu", "not measured for {target} (the provider is cpu)"),
    ],
)
def test_a_foreign_target(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, provider: str, words: str | None
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"{CASCADE_LAKE}\n")
    monkeypatch.setattr(cpu, "_CPUINFO", cpuinfo)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    found = cpu.why_not_timed(cpu.resolve(target), provider)
    assert found == (None if words is None else words.format(target=target))
