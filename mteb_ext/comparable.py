"""What can be compared: the layers and tasks of a run without holes, and scores of one revision of the data."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd

from mteb_ext.long_table import describe, listed


def complete(label: str, rows: Any) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Table of the layers of one run: one row a layer, one column a task, without holes; and the tasks left out.

    A score that is NaN, for MTEB could not score the layer, leaves out the layer, unless more than half of the layers
    have none on that task: then the task. A score that is not there, for it was not evaluated, leaves out the task;
    where no task is common to all layers, first the layers with the fewest. Whatever is left out is a warning.

    Raises:
        ValueError: a layer has two variants, or no two layers share a task.
    """
    twice = rows[rows.duplicated(["layer", "task"], keep=False)].sort_values(["layer", "task"])
    if len(twice):
        one, two = twice.iloc[0], twice.iloc[1]
        raise ValueError(
            f"{label}: layer {one['layer']} has two scores on {one['task']}, of the variants {one['variant']!r} and "
            f"{two['variant']!r}; tell them apart in the column settings, pooling or norm, or keep one"
        )
    table = rows.pivot(index="layer", columns="task", values="main_score").sort_index()
    there = rows.assign(there=True).pivot(index="layer", columns="task", values="there").notna()
    whole = list(table.columns)
    table = _defined(label, table, there.sort_index().reindex_like(table))
    table = _evaluated(label, table, len(whole))
    return table, tuple(task for task in whole if task not in table)


def _defined(label: str, table: pd.DataFrame, there: pd.DataFrame) -> pd.DataFrame:
    """Leave out layers and tasks until no score that was taken is NaN."""
    while True:
        holes = table.isna() & there.loc[table.index, table.columns]
        if not holes.any().any():
            return table
        most = holes.sum() * 2 > there.loc[table.index, table.columns].sum()
        if most.any():
            gone = holes.columns[most]
            warnings.warn(
                f"{label}: {len(gone)} of {table.shape[1]} tasks are left out, for their scores are not finite at most "
                f"layers: {listed(list(gone))}",
                stacklevel=5,
            )
            table = table.drop(columns=gone)
            continue
        worst = holes.sum(axis=1).idxmax()
        tasks = holes.columns[holes.loc[worst]]
        warnings.warn(
            f"{label}: layer {worst} is left out, for its scores are not finite on {len(tasks)} of {table.shape[1]} "
            f"tasks: {listed(list(tasks))}; equal embeddings, as at layer 0 by pooling=cls, have no correlation",
            stacklevel=5,
        )
        table = table.drop(index=worst)


def _evaluated(label: str, table: pd.DataFrame, tasks: int) -> pd.DataFrame:
    """Leave out tasks, and before them layers, until every layer has every task."""
    while table.shape[1] and not table.notna().all().any():
        count = table.notna().sum(axis=1)
        fewest = table.index[count == count.min()]
        if len(fewest) == len(table):
            raise ValueError(f"{label}: no task is common to its layers {listed(list(fewest), 6)}; finish the sweep")
        warnings.warn(
            f"{label}: left out layers {listed(list(fewest), 6)} with {count.min()} of {tasks} tasks",
            stacklevel=5,
        )
        table = table.drop(index=fewest)
    lacking = table.columns[table.isna().any()]
    if len(lacking):
        layers = table.index[table[lacking].isna().any(axis=1)]
        warnings.warn(
            f"{label}: {len(lacking)} of {tasks} tasks are left out, for layers {listed(list(layers), 6)} lack some: "
            + listed(list(lacking)),
            stacklevel=5,
        )
    return table.drop(columns=lacking)


def warn_mixed(frame: Any) -> None:
    """Say which tasks have scores on different revisions of the data or by different versions of MTEB, and how many."""
    for column, what in (
        ("dataset_revision", "on different revisions of the data"),
        ("mteb_version", "by different versions of MTEB"),
    ):
        known = frame[frame[column] != ""]
        mixed = known[known.groupby("task")[column].transform("nunique") > 1]
        found = []
        for task, rows in mixed.groupby("task"):
            counts = rows[column].value_counts()
            rarest = rows[rows[column] == counts.index[-1]].iloc[0]
            each = ", ".join(f"{count} of {value}" for value, count in counts.items())
            found.append(f"{task} ({each}: {rarest['file'] or describe(rarest)})")
        if found:
            warnings.warn(f"scores {what} are compared: {listed(found)}; evaluate them again on one", stacklevel=3)
