"""Export torch models and find what Torch-Pruning and onnxsim remove; pruning_groups.py runs it in their environment.

    python pruning_groups_peer.py FOLDER

For each model it writes ``NAME.onnx`` and ``NAME.json``: ``torch_pruning`` lists the groups found, each with the
``layers`` that make its channels, its ``width``, and the ``problem`` where the model does not run without half of it;
``onnxsim`` has by layer how many channels there were and are left, at a sparsity of one half.
"""

from __future__ import annotations

import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxsim
import torch  # type: ignore[import-not-found,unused-ignore]
import torch_pruning as tp  # type: ignore[import-not-found]
import torchvision  # type: ignore[import-not-found]
from torch import nn  # type: ignore[import-not-found,unused-ignore]

_SIZE = 64
_TOKENS, _WIDTH, _HEADS, _CLASSES = 12, 32, 4, 10


class _Attention(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (nn.Linear(_WIDTH, _WIDTH) for _ in range(4))

    def _in_heads(self, x: Any) -> Any:
        return x.view(x.shape[0], _TOKENS, _HEADS, -1).transpose(1, 2)

    def forward(self, x: Any) -> Any:
        query, key, value = (self._in_heads(each(x)) for each in (self.query, self.key, self.value))
        scores = (query @ key.transpose(2, 3) * (_HEADS / _WIDTH) ** 0.5).softmax(-1)
        return self.out((scores @ value).transpose(1, 2).flatten(2))


class _Layer(nn.Module):  # type: ignore[misc,unused-ignore]
    def __init__(self) -> None:
        super().__init__()
        self.attention = _Attention()
        self.norm1, self.norm2 = nn.LayerNorm(_WIDTH), nn.LayerNorm(_WIDTH)
        self.up, self.down = nn.Linear(_WIDTH, 4 * _WIDTH), nn.Linear(4 * _WIDTH, _WIDTH)

    def forward(self, x: Any) -> Any:
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(nn.functional.gelu(self.up(x))))


class Encoder(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two layers of a transformer behind an embedding, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(16, _WIDTH)
        self.layers = nn.Sequential(_Layer(), _Layer())
        self.head = nn.Linear(_WIDTH, _CLASSES)

    def forward(self, x: Any) -> Any:
        """Tokens (B, 12, 16) to classes."""
        return self.head(self.layers(self.embed(x)).mean(1))


class UNet(nn.Module):  # type: ignore[misc,unused-ignore]
    """Two levels, with a transposed convolution and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _twice(3, 16), _twice(16, 32)
        self.up = nn.ConvTranspose2d(32, 16, 2, stride=2)
        self.merge, self.head = _twice(32, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Any) -> Any:
        """An image to a map of two classes."""
        first = self.down1(x)
        second = self.down2(nn.functional.max_pool2d(first, 2))
        return self.head(self.merge(torch.cat([first, self.up(second)], 1)))


def _twice(before: int, after: int) -> Any:
    layers = [[nn.Conv2d(width, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()] for width in (before, after)]
    return nn.Sequential(*layers[0], *layers[1])


def _densenet() -> Any:
    return torchvision.models.DenseNet(
        growth_rate=8, block_config=(3, 3, 3), num_init_features=16, num_classes=_CLASSES
    )


MODELS: dict[str, tuple[Callable[[], Any], tuple[int, ...], str]] = {
    "resnet18": (torchvision.models.resnet18, (1, 3, _SIZE, _SIZE), "fc"),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, (1, 3, _SIZE, _SIZE), "classifier.1"),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, (1, 3, _SIZE, _SIZE), "classifier.1"),
    "densenet": (_densenet, (1, 3, _SIZE, _SIZE), "classifier"),
    "unet": (UNet, (1, 3, _SIZE, _SIZE), "head"),
    "encoder": (Encoder, (1, _TOKENS, 16), "head"),
}
"""By name how to make a model, the shape of its input, and the layer that makes its output."""


def by_torch_pruning(model: Any, example: Any, last: str) -> list[dict[str, Any]]:
    """Its groups. Half of each goes, one group after the other; one that breaks the model is put back."""
    found: list[dict[str, Any]] = []
    for group in _groups(model, example, last)[1]:
        names = sorted({_layer(dep.target.name) for dep, _ in group if _makes_channels(dep)})
        found.append({"layers": names, "width": len(group[0].idxs), "problem": None})
    pruned, graph, groups = model, None, list[Any]()
    for number, told in enumerate(found):
        if graph is None:
            pruned = copy.deepcopy(model)
            graph, groups = _groups(pruned, example, last)
        try:
            root = groups[number][0]
            group = graph.get_pruning_group(root.dep.target.module, root.dep.handler, list(range(told["width"] // 2)))
            group.prune()
            with torch.no_grad():
                pruned(example)
        except Exception as error:  # noqa: BLE001 - whatever torch and Torch-Pruning raise is the finding
            told["problem"] = " ".join(str(error).split())[:120] or type(error).__name__
            graph = None
    return found


def _groups(model: Any, example: Any, last: str) -> tuple[Any, list[Any]]:
    graph = tp.DependencyGraph().build_dependency(model, example_inputs=example)
    kinds = [nn.Conv2d, nn.ConvTranspose2d, nn.Linear]
    return graph, list(graph.get_all_groups([model.get_submodule(last)], kinds))


def _makes_channels(dep: Any) -> bool:
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return isinstance(dep.target.module, kinds) and "out_channels" in dep.handler.__name__


def _layer(name: str) -> str:
    return name.split(" ")[0]


def by_onnxsim(model: onnx.ModelProto) -> dict[str, list[int]]:
    """By node how many channels it made, and makes at a sparsity of one half."""
    before, after = (_widths(each) for each in (model, onnxsim.apply_structured_pruning(model, 0.5)))
    return {name: [before[name], after[name]] for name in before if after.get(name, before[name]) < before[name]}


def _widths(model: onnx.ModelProto) -> dict[str, int]:
    stored = {each.name: list(each.dims) for each in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        shape = stored.get(node.input[1]) if len(node.input) > 1 else None
        if shape is None or node.op_type not in {"Conv", "ConvTranspose", "Gemm", "MatMul"}:
            continue
        turned = any(each.name == "transB" and each.i for each in node.attribute)
        found[node.name] = shape[0] if node.op_type == "Conv" or turned else shape[1]
    return found


def main(folder: Path) -> None:
    """Write all models and what is found in them."""
    for name, (make, shape, last) in MODELS.items():
        torch.manual_seed(0)
        model, example = make().eval(), torch.randn(shape)
        with torch.no_grad():
            for each in (*model.parameters(), *model.buffers()):
                if each.is_floating_point():
                    each.copy_(torch.rand_like(each) + 0.1)  # so that the exporter shares none
        path = folder / f"{name}.onnx"
        torch.onnx.export(model, (example,), str(path), dynamo=False, opset_version=17, input_names=["x"])
        told: dict[str, Any] = {
            "torch_pruning": by_torch_pruning(model, example, last),
            "onnxsim": {},
            "onnxsim_problem": None,
        }
        try:
            told["onnxsim"] = by_onnxsim(onnx.load(str(path)))
        except Exception as error:  # noqa: BLE001 - as above
            told["onnxsim_problem"] = re.sub(r"\s+", " ", str(error))[:120]
        path.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
