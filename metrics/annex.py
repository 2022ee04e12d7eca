"""What other models made of a store's texts, kept beside its shards: embeddings, entailment, BERTScore, relevance.

::

    STORE/annex/
      clusters.json             how embeddings and entailment become clusters
      nli-00000.safetensors     a part: some documents, flat values end to end, their shapes, and a header

A part is written under a temporary name, flushed and renamed, so a run killed at any moment leaves whole parts only.
Its header, a JSON text among the file's metadata, says of which texts it was made and by what; it holds a checksum of
itself and one of each column. What is read of a part is one document at a time, from the mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from metrics.record import Key
from metrics.seal import intact, seal
from metrics.shard import BROKEN, crc32, replace, write_json

FOLDER = "annex"
SCHEMA = 1
KINDS = {"embedding": "record", "relevance": "record", "nli": "document", "bertscore": "document"}
"""What there is one of: a vector, or a number a token, of each record; a matrix over the samples of each document."""

CLUSTERS: dict[str, dict[str, Any]] = {
    "embedding": {"threshold": 0.9, "rule": "components"},
    "nli": {"equivalence": "strict", "rule": "components"},
}
"""How embeddings and entailment become clusters, unless ``clusters.json`` says otherwise."""


class DamagedPart(ValueError):
    """A part that cannot be read; the message names the file and what to do."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(f"{path} cannot be read ({problem}), so what it holds is left out; run eval-ext samples again")


@dataclass(frozen=True)
class Made:
    """What was made of one document's samples.

    Attributes:
        task: with `doc_id`, the document.
        samples: occurrence of each sample and `digest` of its text, in order of occurrence.
        values: one tensor a sample, or a single one over all of them (`KINDS`).
    """

    task: str
    doc_id: int
    samples: tuple[tuple[int, str], ...]
    values: tuple[Tensor, ...]


def digest(entry: Mapping[str, Any]) -> str:
    """What tells a record's text from another: of its document, its prompt and its answer without outer white space."""
    told = "\x1f".join((entry["doc_hash"], entry["prompt_hash"], entry["answer"].strip()))
    return hashlib.sha256(told.encode(errors="surrogatepass")).hexdigest()[:16]


def samples_of(keys: Sequence[Key], entries: Mapping[Key, Mapping[str, Any]]) -> tuple[tuple[int, str], ...]:
    """The samples of a document as a part names them."""
    return tuple((key.occurrence, digest(entries[key])) for key in keys)


def write_part(
    store: Path, kind: str, made: Sequence[Made], facts: Mapping[str, Any], libraries: Mapping[str, Any] | None = None
) -> Path:
    """Write what was made of some documents as the next part of its kind.

    `facts` say what made it and agree between the parts of a kind; versions of libraries may differ.
    """
    folder = store / FOLDER
    folder.mkdir(exist_ok=True)
    values = [value for one in made for value in one.values]
    columns = {
        "values": torch.cat([value.reshape(-1).float() for value in values]),
        "shapes": torch.tensor([list(value.shape) for value in values], dtype=torch.int64),
    }
    header = {
        "schema": SCHEMA,
        "kind": kind,
        "facts": facts,
        "libraries": libraries or {},
        "documents": [[one.task, one.doc_id, one.samples] for one in made],
        "columns_crc32": {name: crc32(name, column) for name, column in columns.items()},
    }
    numbers = [int(path.stem.rsplit("-", 1)[1]) for path in parts_of(store, kind)]
    path = folder / f"{kind}-{max(numbers, default=-1) + 1:05d}.safetensors"
    replace(path, save(columns, metadata={FOLDER: json.dumps(seal(header))}))
    return path


def parts_of(store: Path, kind: str) -> list[Path]:
    """The files of one kind, in the order in which they were written."""
    found = (store / FOLDER).glob(f"{kind}-*.safetensors")
    return sorted((path for path in found if path.stem.rsplit("-", 1)[1].isdecimal()), key=lambda p: (len(p.name), p))


class Part:
    """A part that is open: its header at once, its values when asked for.

    Raises:
        DamagedPart: it cannot be read, is not what was written, or was written by a newer version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        try:
            with safe_open(path, framework="pt") as file:
                header = json.loads((file.metadata() or {}).get(FOLDER, "{}"))
            if not isinstance(header, dict) or not intact(header):
                raise ValueError("its header differs from its checksum")
            if header["schema"] > SCHEMA:
                raise ValueError("it was written by a newer version of eval-ext")
        except (*BROKEN, RecursionError) as problem:
            raise DamagedPart(path, problem) from None
        self.kind: str = header["kind"]
        self.facts: dict[str, Any] = header["facts"]
        self.documents: list[tuple[str, int, tuple[tuple[int, str], ...]]] = [
            (task, doc_id, tuple((occurrence, told) for occurrence, told in samples))
            for task, doc_id, samples in header["documents"]
        ]
        self._sums: dict[str, int] = header["columns_crc32"]
        counts = [len(samples) if KINDS[self.kind] == "record" else 1 for _, _, samples in self.documents]
        self._ends = torch.tensor(counts).cumsum(0).tolist()

    def values(self, number: int) -> list[Tensor]:
        """The tensors of the document with this number.

        Raises:
            DamagedPart: the values are not what was written.
        """
        try:
            self._open()
            first, last = self._ends[number - 1] if number else 0, self._ends[number]
            flat = self._file.get_slice("values")[self._starts[first] : self._starts[last]]
            sizes = [self._starts[row + 1] - self._starts[row] for row in range(first, last)]
            return [value.reshape(shape) for value, shape in zip(flat.split(sizes), self._shapes[first:last])]
        except BROKEN as problem:
            raise DamagedPart(self.path, problem) from None

    def check(self) -> None:
        """Compare the values with their checksums.

        Raises:
            DamagedPart: they are not what was written.
        """
        try:
            self._open()
        except BROKEN as problem:
            raise DamagedPart(self.path, problem) from None
        self.close()

    def _open(self) -> None:
        """Map the file, and compare its columns with their checksums, unless that was done."""
        if self._file is not None:
            return
        file: Any = safe_open(self.path, framework="pt")
        for name, expected in self._sums.items():
            if crc32(name, file.get_tensor(name)) != expected:
                raise ValueError(f"{name} differs from its checksum")
        shapes = file.get_tensor("shapes")
        self._shapes: list[list[int]] = shapes.tolist()
        self._starts = [0, *shapes.prod(-1).cumsum(0).tolist()]
        self._file = file

    def close(self) -> None:
        """Let go of the file."""
        self._file = None


def whole_part(path: Path) -> Part | None:
    """A part with all its values checked; None where it is damaged."""
    try:
        part = Part(path)
        part.check()
    except DamagedPart:
        return None
    return part


def read_clusters(store: Path) -> dict[str, dict[str, Any]]:
    """How clusters are made, by kind.

    Raises:
        ValueError: ``clusters.json`` is damaged.
    """
    file = store / FOLDER / "clusters.json"
    if not file.is_file():
        return CLUSTERS
    try:
        given = json.loads(file.read_bytes().decode())
        if not isinstance(given, dict) or not intact(given):
            raise ValueError("its checksum differs")
    except (OSError, ValueError, RecursionError) as problem:
        raise ValueError(f"{file} is damaged ({problem}); delete it, and run eval-ext samples again") from None
    return {kind: {**settings, **given.get(kind, {})} for kind, settings in CLUSTERS.items()}


def write_clusters(store: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
    """Note how clusters are made."""
    (store / FOLDER).mkdir(exist_ok=True)
    write_json(store / FOLDER / "clusters.json", settings)
