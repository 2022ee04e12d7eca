"""Sentence embeddings of sampled answers, read from a file of arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from metrics.fitted.rows import Rows

NAMES = ("task", "doc_id", "embedding")

Vectors = Mapping[tuple[str, int], np.ndarray]
"""Embeddings (samples, width) of each document, by task and number."""


def read_embeddings(file: Path) -> Vectors:
    """Embeddings of an npz with ``task`` (m,), ``doc_id`` (m,) and ``embedding`` (m, width), one row a sample.

    Raises:
        OSError: there is no such file.
        ValueError: it is no npz of plain arrays, or lacks one of them, or their lengths differ.
    """
    try:
        with np.load(file, allow_pickle=False) as data:
            missing = [name for name in NAMES if name not in data]
            if missing:
                raise ValueError(f"no array '{missing[0]}'; {', '.join(NAMES)} are needed")
            task, doc_id, embedding = (data[name] for name in NAMES)
    except (zipfile.BadZipFile, ValueError, AttributeError) as problem:
        raise ValueError(f"{file}: {problem}") from None
    if embedding.ndim != 2 or not len(task) == len(doc_id) == len(embedding):
        shapes = ", ".join(f"{n} {a.shape}" for n, a in zip(NAMES, (task, doc_id, embedding)))
        raise ValueError(f"{file}: shapes {shapes}; give one task, one doc_id and one row a sample")
    found: dict[tuple[str, int], list[np.ndarray]] = {}
    for name, doc, vector in zip(task.tolist(), doc_id.tolist(), embedding.astype(np.float64)):
        found.setdefault((str(name), int(doc)), []).append(vector)
    return {key: np.stack(vectors) for key, vectors in found.items()}


def attach(rows: Rows, vectors: Vectors) -> Rows:
    """The rows with the embeddings of their documents (n, samples, width); NaN where a document has fewer or none.

    Raises:
        ValueError: none of the documents has any.
    """
    keys = list(zip(rows.task.tolist(), (int(d) for d in rows.doc_id)))
    known = [vectors[key] for key in keys if key in vectors]
    if not known:
        raise ValueError(
            f"{rows.name}: none of the {len(rows)} documents has an embedding; tasks and doc_id must agree"
        )
    made = np.full((len(rows), max(map(len, known)), known[0].shape[1]), np.nan)
    for row, key in enumerate(keys):
        if key in vectors:
            made[row, : len(vectors[key])] = vectors[key]
    return replace(rows, embeddings=made)
