"""From a frame of scores to series: the layers of one model, revision and set of settings on the tasks they share."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from mteb_ext.comparable import complete, warn_mixed

PREFIX = "layer-wrapper/"


@dataclass(frozen=True)
class Series:
    """Scores of the layers of one model as it was run, without holes.

    `scores`: (layers, tasks). `parts`: splits and subsets of each task. `aggregates`: further arms of the same run,
    each with its scores on the same tasks. `keys`: (model, revision, variant) of each layer. `dropped`: tasks left out.
    """

    label: str
    model: str
    revision: str
    blocks: int
    layers: np.ndarray
    tasks: tuple[str, ...]
    types: tuple[str, ...]
    parts: tuple[tuple[str, str], ...]
    scores: np.ndarray
    keys: tuple[tuple[str, str, str], ...]
    aggregates: dict[str, np.ndarray]
    dropped: tuple[str, ...]

    @property
    def last(self) -> int | None:
        """The row of the last layer L, None if it was not evaluated."""
        return self.row(self.blocks)

    @property
    def middle(self) -> int | None:
        """The row of the layer round(L / 2), None if it was not evaluated."""
        return self.row(round(self.blocks / 2))

    @property
    def best(self) -> int:
        """The row of the layer with the highest mean, the lowest such layer in a tie."""
        means = self.scores.mean(axis=1)
        return int(np.flatnonzero(means >= means.max() - 1e-12)[0])

    def row(self, layer: int) -> int | None:
        """Where a layer stands in `scores`."""
        found = np.flatnonzero(self.layers == layer)
        return int(found[0]) if len(found) else None

    def on(self, columns: Sequence[int]) -> Series:
        """The same on some of the tasks."""
        at = list(columns)
        return replace(
            self,
            tasks=tuple(self.tasks[c] for c in at),
            types=tuple(self.types[c] for c in at),
            parts=tuple(self.parts[c] for c in at),
            scores=self.scores[:, at],
            aggregates={name: row[at] for name, row in self.aggregates.items()},
            dropped=(),
        )


def choose(frame: Any, *, models: Sequence[str], tasks: Sequence[str], types: Sequence[str]) -> pd.DataFrame:
    """Keep the rows that a pattern of each kind matches, in any case of letters; no pattern keeps all.

    A pattern of models matches the name with or without the leading `layer-wrapper/`, its last part, or NAME@REVISION.

    Raises:
        ValueError: a pattern matches nothing.
    """
    kept = np.ones(len(frame), dtype=bool)
    for what, patterns, texts in (
        ("model", models, [_names(m, r) for m, r in zip(frame["model"], frame["revision"])]),
        ("task", tasks, [(name,) for name in frame["task"]]),
        ("type", types, [(name,) for name in frame["type"]]),
    ):
        known = dict.fromkeys(texts)
        hits: set[tuple[str, ...]] = set()
        for pattern in patterns:
            hit = {names for names in known if any(fnmatchcase(n.lower(), pattern.lower()) for n in names)}
            if not hit:
                shown = sorted({names[-1] for names in known})
                more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
                raise ValueError(f"--{what} {pattern} matches nothing; there are {', '.join(shown[:8])}{more}")
            hits |= hit
        if patterns:
            kept &= np.array([names in hits for names in texts])
    if not kept.any():
        raise ValueError("no score matches --model, --task and --type together; loosen one of them")
    return frame[kept]


def _names(model: str, revision: str) -> tuple[str, ...]:
    short = model.removeprefix(PREFIX)
    names = dict.fromkeys((model, short, short.rsplit("/", 1)[-1]))
    return (*names, *(f"{name}@{revision}" for name in names))


def series(frame: Any) -> list[Series]:
    """Gather the layers of each model, revision and settings, in the order of their labels.

    Layers are compared on the tasks that all of them have, see `mteb_ext.comparable.complete`. What is left out is a
    warning, never filled; so are scores on different revisions of the data.

    Raises:
        ValueError: no row has a layer or a finite score, a layer has two scores, or layers share no task.
    """
    layered = frame[frame["layer"].notna()]
    if layered.empty:
        raise ValueError(
            f"none of the {len(frame)} scores is of a layer: `layer` is missing; evaluate layers by eval-ext sweep, "
            "or by mteb run -m layer-wrapper/MODEL:layer=K"
        )
    home = ["model", "revision", "settings"]
    groups = {key: rows for key, rows in frame.groupby(home, dropna=False) if rows["layer"].notna().any()}
    labels = _labels([tuple(map(str, key)) for key in groups])
    warn_mixed(frame)
    made = [s for label, rows in zip(labels, groups.values()) if (s := _gather(label, rows)).tasks]
    if not made:
        raise ValueError(f"no layer of {', '.join(labels[:4])} has a finite score; see what the evaluator said")
    return sorted(made, key=lambda s: (s.blocks, s.model, _natural(s.revision), s.label))


def plain(frame: Any) -> dict[str, pd.Series]:
    """Scores by (task, split, subset) of the models that have neither layer nor aggregate, by label."""
    rows = frame[frame["layer"].isna() & (frame["aggregate"] == "")]
    groups = {
        tuple(map(str, key)): group for key, group in rows.groupby(["model", "revision", "settings"], dropna=False)
    }
    found = zip(_labels(list(groups)), groups.values())
    part = ["task", "split", "subset"]
    return {label: group.drop_duplicates("task").set_index(part)["main_score"] for label, group in found}


def shared_tasks(series: Sequence[Series]) -> tuple[str, ...]:
    """The tasks that all series have on the same splits and subsets, in the order of the first.

    Raises:
        ValueError: there is none.
    """
    common = common_tasks(series)
    if not common:
        names = ", ".join(s.label for s in series[:4])
        raise ValueError(f"{names}: no task is common to all of them on the same subsets; compare some by --model")
    return common


def common_tasks(series: Sequence[Series]) -> tuple[str, ...]:
    """As `shared_tasks`, but empty if there is none."""
    common = set.intersection(*(set(zip(s.tasks, s.parts)) for s in series))
    return tuple(task for task, part in zip(series[0].tasks, series[0].parts) if (task, part) in common)


def _natural(text: str) -> tuple[int, int, str]:
    """Steps in their order, and names such as `main` after them."""
    digits = "".join(c for c in text if c.isdigit())
    return (0, int(digits), text) if text.startswith("step") and digits else (1, 0, text)


def _gather(label: str, rows: Any) -> Series:
    single = rows[rows["layer"].notna()]
    table, dropped = complete(label, single)
    first = single.drop_duplicates("layer").set_index("layer")
    of_task = single.drop_duplicates("task").set_index("task").loc[list(table.columns)]
    return Series(
        label,
        str(single["model"].iloc[0]),
        str(single["revision"].iloc[0]),
        int(single["blocks"].max()),
        table.index.to_numpy(dtype=int),
        tuple(table.columns),
        tuple(of_task["type"]),
        tuple(zip(of_task["split"], of_task["subset"])),
        table.to_numpy(dtype=float),
        tuple((first.loc[k, "model"], first.loc[k, "revision"], first.loc[k, "variant"]) for k in table.index),
        _aggregates(label, rows[rows["layer"].isna() & (rows["aggregate"] != "")], list(table.columns)),
        dropped,
    )


def _aggregates(label: str, rows: Any, tasks: list[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for (kind, layers, variant), group in rows.groupby(["aggregate", "layers", "variant"]):
        scores = group.set_index("task")["main_score"].reindex(tasks)
        name = f"{kind} {layers}".strip()
        name = name if name not in found else f"{name} ({variant})"
        if scores.isna().any():
            lacking = int(scores.isna().sum())
            warnings.warn(f"{label}: {name} lacks {lacking} of {len(tasks)} tasks and is left out", stacklevel=5)
        else:
            found[name] = scores.to_numpy(dtype=float)
    return found


def _labels(keys: Sequence[tuple[str, ...]]) -> list[str]:
    """Name each (model, revision, settings) by as little as tells it from the others."""
    short = {model: model.removeprefix(PREFIX) for model, _, _ in keys}
    if len(set(short.values())) < len(short):
        short = {model: model for model in short}
    labels = []
    for model, revision, settings in keys:
        revisions = {r for m, r, _ in keys if m == model}
        rivals = [set(s.split(", ")) for m, r, s in keys if (m, r) == (model, revision)]
        common = set.intersection(*rivals)
        own = [part for part in settings.split(", ") if part and part not in common]
        at = f"@{_brief(revision)}" if len(revisions) > 1 and revision else ""
        labels.append(short[model] + at + (f" {', '.join(own)}" if own else ""))
    return labels


def _brief(revision: str) -> str:
    """A commit hash by its first eight digits."""
    return revision[:8] if len(revision) >= 32 and all(c in "0123456789abcdef" for c in revision) else revision
