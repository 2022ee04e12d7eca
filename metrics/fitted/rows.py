"""Labelled documents as rows to fit on, and which of them belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from metrics.cases import Way
from metrics.fitted.folds import groups_of
from metrics.fitted.inputs import Inputs


@dataclass(frozen=True)
class Rows:
    """Labelled documents: inputs x (n, d), wrong (n,), and everything that a report says of them."""

    name: str
    x: np.ndarray
    wrong: np.ndarray
    task: np.ndarray
    doc_id: np.ndarray
    hashes: np.ndarray
    group: np.ndarray
    """Value of the field whose equals stay in one fold; empty for none."""
    scores: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Metrics beside the method, oriented so that high means uncertain."""
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)
    verdict: str = ""
    values: np.ndarray | None = None
    """The graded target (n,), where there is one."""
    embeddings: np.ndarray | None = None
    """Embeddings of the documents' samples (n, samples, width), NaN where missing, where a method learns from them."""
    lost: tuple[str, ...] = ()
    """Documents left out, in words."""
    way: Way = field(default_factory=Way)
    """How the verdict looks at documents."""

    def __len__(self) -> int:
        return len(self.wrong)

    def part(self, kept: np.ndarray, name: str = "", lost: tuple[str, ...] = ()) -> Rows:
        """Some of the documents; `kept` is a mask (n,)."""
        return replace(
            self,
            name=name or self.name,
            x=self.x[kept],
            wrong=self.wrong[kept],
            task=self.task[kept],
            doc_id=self.doc_id[kept],
            hashes=self.hashes[kept],
            group=self.group[kept],
            scores={k: v[kept] for k, v in self.scores.items()},
            fields={k: v[kept] for k, v in self.fields.items()},
            values=None if self.values is None else self.values[kept],
            embeddings=None if self.embeddings is None else self.embeddings[kept],
            lost=(*self.lost, *lost),
        )

    def groups(self) -> np.ndarray:
        """Group numbers (n,): documents of equal content, equal number or equal field are one group."""
        numbers = [f"{task} {doc}" for task, doc in zip(self.task, self.doc_id)]
        return groups_of(numbers, self.hashes.tolist(), self.group.tolist())


def pooled(parts: Sequence[Rows]) -> Rows:
    """All documents of several tasks together; fields that not all have are left out.

    Raises:
        ValueError: their verdicts are about options that were picked, or texts that were read, in different ways.
    """
    if len(parts) == 1:
        return parts[0]
    verdicts = list(dict.fromkeys(p.verdict for p in parts))
    norms, filters = {p.way.norm for p in parts}, {p.way.filter for p in parts}
    if len(norms) > 1:
        raise ValueError(f"verdicts {', '.join(verdicts)} judge differently picked options; choose one by --label")
    if len(filters) > 1 and len({verdict.partition("@")[2] for verdict in verdicts}) > 1:
        raise ValueError(f"verdicts {', '.join(verdicts)} judge what different filters read; choose one by --filter")
    values = [p.values for p in parts if p.values is not None]
    embeddings = [p.embeddings for p in parts if p.embeddings is not None]
    shared = [name for name in parts[0].fields if all(name in p.fields for p in parts)]
    return Rows(
        " + ".join(p.name for p in parts),
        np.concatenate([p.x for p in parts]),
        np.concatenate([p.wrong for p in parts]),
        np.concatenate([p.task for p in parts]),
        np.concatenate([p.doc_id for p in parts]),
        np.concatenate([p.hashes for p in parts]),
        np.concatenate([p.group for p in parts]),
        {name: np.concatenate([p.scores[name] for p in parts]) for name in parts[0].scores},
        {name: np.concatenate([p.fields[name] for p in parts]) for name in shared},
        ", ".join(verdicts),
        np.concatenate(values) if values else None,
        np.concatenate(embeddings) if embeddings else None,
        tuple(dict.fromkeys(note for p in parts for note in p.lost)),
        Way(norms.pop(), next((name for name in filters if name is not None), None)),
    )


def usable(parts: Sequence[Rows], inputs: Inputs) -> tuple[list[Rows], Inputs]:
    """The documents whose inputs (and target) are all finite, after metrics that none of a part has are left out.

    Raises:
        ValueError: a part has no such document, or the parts' inputs differ in width.
    """
    widths = {p.x.shape[1] for p in parts}
    if len(widths) > 1:
        sizes = " and ".join(map(str, sorted(widths)))
        raise ValueError(f"{', '.join(p.name for p in parts)}: inputs of {sizes} numbers; models differ in size")
    lead = widths.pop() - len(inputs.metrics)
    kept = [i for i, _ in enumerate(inputs.metrics) if all(np.isfinite(p.x[:, lead + i]).any() for p in parts)]
    dropped = [name for i, name in enumerate(inputs.metrics) if i not in kept]
    columns = [*range(lead), *(lead + i for i in kept)]
    if not columns:
        raise ValueError("no input has a value in every task")
    note = (f"Inputs without any value here, left out: {', '.join(dropped)}.",) if dropped else ()
    found = []
    for part in parts:
        whole = np.asarray(np.isfinite(part.x[:, columns]).all(axis=1))
        if part.values is not None:
            whole &= np.isfinite(part.values)
        if part.embeddings is not None:
            whole &= np.isfinite(part.embeddings).all(axis=2).sum(axis=1) > 0
        lost = int((~whole).sum())
        if lost == len(part):
            raise ValueError(f"{part.name}: an input or the target is undefined for each of {lost} documents")
        said = (f"{part.name}: {lost} of {len(part)} documents left out, an input or the target is undefined.",)
        one = replace(part, x=part.x[:, columns])
        found.append(one.part(whole, lost=(*note, *(said if lost else ()))))
    return found, replace(inputs, metrics=tuple(inputs.metrics[i] for i in kept))
