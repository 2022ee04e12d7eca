"""Notes under a ranking of layers: how to read its numbers."""

from __future__ import annotations

from collections import Counter

from metrics.stats.arms import FEW
from mteb_ext.item_ranking import Items, item_draws
from mteb_ext.long_table import listed
from mteb_ext.ranking import Options
from mteb_ext.series import Series, common_tasks

FULL = 3
"""With more series than this the report shows one row a series instead of one a layer."""


def notes_on(found: list[Series], options: Options, items: Items | None, by: str) -> list[str]:
    """What the intervals, shares and gaps of a table or, where `by` is empty, of the report mean."""
    kind = "tasks within types" if options.stratify else "tasks"
    said = [
        f"intervals and P(best): {options.draws} resamples of {kind}, seed {options.seed}; gaps are in-sample, since "
        "the best layer is chosen on the same tasks; 'out of sample' chooses it on one resample of the tasks and "
        "measures it on the tasks left out"
    ]
    if any(min(Counter(s.types).values()) < FEW for s in found) and by in ("", "type"):
        said.append(f"intervals over fewer than {FEW} tasks are too narrow, and over one there is none")
    elif any(len(s.tasks) < FEW for s in found):
        said.append(f"fewer than {FEW} tasks: intervals over them are too narrow, and over one there is none")
    if by == "overall" or (not by and len(found) <= FULL):
        said.append("'told apart' compares all layers at once, so it asks for more than an interval that leaves out 0")
    if items is not None:
        drawn = [item_draws(s, items) for s in found]
        used = max(len(d.tasks) if d else 0 for d in drawn)
        have = "1 task has" if used == 1 else f"{used} tasks have"
        said.append(f"'items': items drawn again within each task, tasks as they are; {have} predictions of all layers")
    return said


def shared_notes(found: list[Series]) -> list[str]:
    """On which tasks several models are compared, unless on all."""
    tasks, every = common_tasks(found), {t for s in found for t in s.tasks}
    if not tasks:
        return ["the models have no task in common, so they are not compared"]
    if len(tasks) == len(every):
        return []
    said = [f"models are compared on the {len(tasks)} of {len(every)} tasks that all have"]
    other = sorted(set.intersection(*(set(s.tasks) for s in found)) - set(tasks))
    if other:
        said.append(f"the models hold different subsets or splits of {listed(other)}, left out of the comparison")
    return said


def depth_notes(found: list[Series]) -> list[str]:
    """How to read a table by depth."""
    return [*shared_notes(found), "depth is layer / blocks; scores between two layers are interpolated linearly"]
