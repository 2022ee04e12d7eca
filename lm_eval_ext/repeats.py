"""Several answers to one prompt: what a run notes of how they are generated, and which repeats serve nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from metrics.sampled import GREEDY, draws

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


def generations(requests: Sequence[Instance]) -> list[dict[str, Any]]:
    """How a list of requests is generated, for the manifest: each distinct setting, its tasks and their repeats."""
    found: list[dict[str, Any]] = []
    for request in requests:
        settings, repeats, task = _settings(request), request.repeats or 1, request.task_name or ""
        entry = next((e for e in found if e["settings"] == settings and e["repeats"] == repeats), None)
        if entry is None:
            entry = {"tasks": [], "repeats": repeats, "settings": settings}
            found.append(entry)
        if task not in entry["tasks"]:
            entry["tasks"].append(task)
    return found


def check_repeats(
    asked: Sequence[Mapping[str, Any]], own: Mapping[str, Any], *, samples: bool, tell: Callable[[str], None]
) -> None:
    """Refuse repeats that are one answer K times, where metrics compare samples; elsewhere say so, and go on.

    Args:
        asked: from `generations`.
        own: the model's own settings, which those of a request take the place of.
        samples: whether a metric that compares samples is asked for.
        tell: takes a line for the user.

    Raises:
        ValueError: a metric of samples is asked for, and a task repeats a greedy generation.
    """
    own = {name: own[name] for name in ("top_k", "top_p") if own.get(name) is not None}
    several = [entry for entry in asked if entry["repeats"] > 1]
    same = [entry for entry in several if not draws({**own, **entry["settings"]})]
    if same:
        repeats = ", ".join(str(k) for k in sorted({entry["repeats"] for entry in same}))
        line = f"{_tasks(same)}: repeats={repeats}, but {GREEDY}"
        if samples:
            raise ValueError(f"{line}, or leave out the metrics of samples")
        tell(line)
    if samples and not several:
        tell(
            f"{_tasks(asked)}: one answer a document (repeats: 1), so metrics of samples will be unscored; "
            "set repeats in the task's YAML file"
        )


def _settings(request: Instance) -> dict[str, Any]:
    arguments = request.args
    return dict(arguments[1]) if len(arguments) > 1 and isinstance(arguments[1], Mapping) else {}


def _tasks(entries: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(dict.fromkeys(task for entry in entries for task in entry["tasks"]))
