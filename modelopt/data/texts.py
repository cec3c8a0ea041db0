"""Samples from text: token numbers, padded or cut to the sizes of the model's inputs."""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelopt.core.errors import InputError
from modelopt.core.signature import TensorSpec
from modelopt.data import user_files
from modelopt.data.check import checked_feeds, fixed_size
from modelopt.data.columns import Columns
from modelopt.data.dataset import Dataset, Sample
from modelopt.data.dtypes import numpy_dtype
from modelopt.data.labels import label_array, read_label_rows
from modelopt.data.text_rows import text_rows
from modelopt.data.tokenizer import DEFAULT_LENGTH, Tokenizer, open_tokenizer

MAX_TOKENS = 16_000_000
"""The most tokens of all texts together: they are kept in memory."""

_IDS, _MASK, _KINDS, _PLACES = "input_ids", "attention_mask", "token_type_ids", "position_ids"


@dataclass(frozen=True)
class _TextPlan:
    """Which input takes what, and how many tokens a row has: None where the longest text of a sample decides."""

    roles: tuple[tuple[TensorSpec, str], ...]
    length: int | None
    batch: int | None


@dataclass(frozen=True, kw_only=True, eq=False)
class TextDataset(Dataset):
    """Texts in their order, `step` of them per sample; their tokens are in memory."""

    plan: _TextPlan
    tokens: np.ndarray
    ends: np.ndarray
    labels: np.ndarray | None
    padding: int
    step: int
    path: Path

    def __len__(self) -> int:
        return math.ceil((len(self.ends) - self.dropped) / self.step)

    def select(self, indices: Iterable[int]) -> Iterator[Sample]:
        """Pad these texts to one length."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(index)
            rows = range(index * self.step, min((index + 1) * self.step, len(self.ends) - self.dropped))
            name = f"{self.path.name}[{index}]"
            feeds = checked_feeds([spec for spec, _ in self.plan.roles], self._feeds(rows), name, allow_nonfinite=False)
            label = None if self.labels is None else np.array(self.labels[rows.start : rows.stop], order="C")
            yield Sample(feeds, label, name, rows=len(rows))

    def digest(self) -> str:
        """SHA-256 (hex) over the tokens, the sizes of the inputs, the batch and the labels."""
        settings = [f"texts step={self.step} padding={self.padding}", repr(self.plan)]
        settings += [hashlib.sha256(each.tobytes()).hexdigest() for each in (self.tokens, self.ends)]
        if self.labels is not None:
            settings.append(user_files.array_digest(self.labels))
        return user_files.digest_of(settings)

    def _feeds(self, rows: range) -> dict[str, np.ndarray]:
        texts = [self.tokens[self.ends[row - 1] if row else 0 : self.ends[row]] for row in rows]
        length = self.plan.length or max(1, *map(len, texts))
        ids = np.full((len(texts), length), self.padding, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        made = {_IDS: ids, _MASK: mask, _KINDS: np.zeros_like(ids)}
        made[_PLACES] = np.broadcast_to(np.arange(length), ids.shape)
        return {spec.name: made[role].astype(numpy_dtype(spec)) for spec, role in self.plan.roles}


def open_texts(
    source: str,
    path: Path,
    inputs: Sequence[TensorSpec],
    *,
    tokenizer: Path,
    columns: Columns,
    labels: Path | None,
    batch: int,
) -> TextDataset:
    """The texts of a file as samples.

    Args:
        source: What the user wrote.
        path: Plain lines (``.txt``), JSON lines (``.jsonl``) or a ``.csv``: see `text_rows`.
        inputs: The model's inputs: token numbers, and as it asks for them ``attention_mask``, ``token_type_ids`` and
            ``position_ids``, each of integers or floats [n, tokens].
        tokenizer: A ``tokenizer.json``.
        columns: Which column holds the labels.
        labels: A file of labels; it outranks the column.
        batch: Texts per sample where the model leaves the batch free.

    Raises:
        EnvironmentLacks: The package that reads a tokenizer is not installed.
        InputError: A file is malformed or too large, holds no text, or does not fit the model.
    """
    plan = _plan(inputs)
    reader = open_tokenizer(tokenizer)
    length = plan.length or reader.most or DEFAULT_LENGTH
    tokens, ends = array("q"), array("q")
    words: list[str] = []
    n_cut = 0
    for where, text, label in text_rows(path, columns):
        found, is_cut = reader.encode(text, length)
        n_cut += is_cut
        tokens.extend(found)
        ends.append(len(tokens))
        if (label is None) == bool(words) and len(ends) > 1:
            raise InputError(f"{where}: some texts have a label, some have none")
        words += [] if label is None else [label]
        if len(tokens) > MAX_TOKENS or len(ends) > MAX_TOKENS // 8:
            raise InputError(f"{path} is too large", note=f"the limit is {MAX_TOKENS:,} tokens")
    if not ends:
        raise InputError(f"{path} holds no text")
    return _dataset(
        source, path, plan, reader, (tokens, ends), _labels(words, labels, len(ends)), batch, (n_cut, length)
    )


def _labels(words: list[str], labels: Path | None, n: int) -> np.ndarray | None:
    if labels is None:
        return label_array(words) if words else None
    found = read_label_rows(labels)
    if found.shape[:1] != (n,):
        raise InputError(f"{labels}: labels do not match: {len(np.atleast_1d(found))} labels for {n} texts")
    return found


def _dataset(
    source: str,
    path: Path,
    plan: _TextPlan,
    reader: Tokenizer,
    held: tuple[array[int], array[int]],
    labels: np.ndarray | None,
    batch: int,
    cut: tuple[int, int],
) -> TextDataset:
    n = len(held[1])
    step = plan.batch if plan.batch is not None else batch
    if plan.batch is not None and not 0 < step <= n:
        raise InputError(f"{source} holds {n} texts, the model wants {step} at a time")
    dropped = n % step if plan.batch is not None else 0
    notes = [f"{cut[0]} of {n} texts are cut after {cut[1]} tokens"] if cut[0] else []
    notes += [f"{dropped} texts at the end of {source} do not fill the model's fixed batch: dropped"] if dropped else []
    return TextDataset(
        source=source,
        has_labels=labels is not None,
        dropped=dropped,
        notes=tuple(notes),
        plan=plan,
        tokens=np.array(held[0], np.int64),
        ends=np.array(held[1], np.int64),
        labels=labels,
        padding=reader.padding,
        step=step,
        path=path,
    )


def _plan(inputs: Sequence[TensorSpec]) -> _TextPlan:
    roles = tuple((spec, _role(spec, alone=len(inputs) == 1)) for spec in inputs)
    if not any(role == _IDS for _, role in roles):
        raise InputError(f"no input of the model takes tokens: {'; '.join(map(str, inputs))}", hint="call it input_ids")
    lengths = {size for spec, _ in roles if spec.shape and (size := fixed_size(spec.shape[1])) is not None}
    batches = {size for spec, _ in roles if spec.shape and (size := fixed_size(spec.shape[0])) is not None}
    if len(lengths) > 1 or len(batches) > 1:
        raise InputError(f"the model's inputs differ in their sizes: {'; '.join(map(str, inputs))}")
    return _TextPlan(roles, next(iter(lengths), None), next(iter(batches), None))


def _role(spec: TensorSpec, *, alone: bool) -> str:
    role = next((known for known in (_IDS, _MASK, _KINDS, _PLACES) if spec.name.lower().endswith(known)), None)
    if role is None and alone:
        role = _IDS
    if role is None or spec.dtype == "string" or (spec.shape is not None and len(spec.shape) != 2):
        raise InputError(
            f"text does not feed the model's input {spec}",
            note=f"text feeds {_IDS}, {_MASK}, {_KINDS} and {_PLACES}, each [n, tokens]",
            hint="feed arrays from a .npz, or write a file.py:function",
        )
    return role
