"""Other tools on the models of `bombs`, in an environment of their own: what each takes of time and memory.

They are ended where they take more than `LIMIT_BYTES`, or longer than `LIMIT_SECONDS`: nothing else would bound them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from tests.bench import peers
from tests.campaigns.bombs import Cost, cost

LIMIT_BYTES = 4 * 10**9
LIMIT_SECONDS = 30.0

_LOAD_AND_SAVE = "import onnx; onnx.save(onnx.load('model.onnx'), 'out.onnx')"


def command_lines() -> dict[str, list[str]]:
    """By name the command that each peer is run with; the first call makes their environment."""
    tools = peers.install("simplifiers")
    return {
        "onnx.load/save": [str(tools / "python"), "-c", _LOAD_AND_SAVE],
        "onnxsim": [str(tools / "onnxsim"), "model.onnx", "out.onnx"],
        "OnnxSlim": [str(tools / "onnxslim"), "model.onnx", "out.onnx"],
    }


def measure(
    build: Callable[[], bytes], commands: Mapping[str, list[str]], folder: Path
) -> Iterator[tuple[str, Cost, int]]:
    """Put one model through the peers: (name, cost, bytes of the model)."""
    content = build()
    for number, (name, command) in enumerate(commands.items()):
        place = folder / f"peer-{number}"
        place.mkdir(parents=True)
        (place / "model.onnx").write_bytes(content)
        yield name, cost(command, place, LIMIT_SECONDS, LIMIT_BYTES), len(content)


def ended(found: Cost) -> str:
    """How a run of a peer ended, where it did not end well; empty where it did."""
    if found.code is None:
        over = found.peak_bytes > LIMIT_BYTES
        return f"killed at {LIMIT_BYTES / 1e9:.0f} GB" if over else f"killed after {LIMIT_SECONDS:.0f} s"
    if found.code < 0:
        return f"signal {-found.code}"
    return "traceback" if "Traceback" in found.err else "" if found.code == 0 else "refused"
