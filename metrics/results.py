"""lm-eval's result files: which one is meant, what belongs to it, and what it says of its tasks.

lm-eval writes ``OUT/<model>/results_<time>.json`` and, with ``--log_samples``, one ``samples_<task>_<time>.jsonl`` a
task beside it. hf-store puts the store's path into the first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics.manifest import read_manifest


class NoSamples(ValueError):
    """No label source; the message says how to get one."""


def find_results(path: Path, run_id: str | None = None) -> Path:
    """The lm-eval result file meant by `path`: itself, or the newest below a folder.

    Among several, the run `run_id`'s when given, else one that names a store before one that does not. Newest is what
    the names say, whose times are a clock's; among the results of one store it is what the store says, which numbers
    its runs. An ``--output_path`` that ends in ``.json`` stands for the files that lm-eval named after it.

    Raises:
        FileNotFoundError: none there.
    """
    if path.is_file():
        return path
    if path.suffix == ".json":
        found = list(path.parent.glob(f"{path.stem}_*.json"))
    else:
        found = list(path.rglob("results_*.json"))
    found.sort(key=lambda p: (_stamp(p), str(p)))
    if run_id is not None:
        found = [p for p in found if _link_of(p).get("run_id") == run_id]
    if not found:
        raise FileNotFoundError(f"{path} holds no lm-eval result file; give the --output_path of the run")
    recorded = [p for p in found if _link_of(p)]
    return _last_run(recorded) if recorded else found[-1]


def _last_run(found: list[Path]) -> Path:
    """Among the results that name the same store as the last, the one of the store's last run."""
    store = _link_of(found[-1])["store"]
    try:
        runs = read_manifest(Path(store))["runs"]
    except (OSError, ValueError):  # moved or damaged: whoever opens it says so
        return found[-1]
    number = {run["run_id"]: i for i, run in enumerate(runs)}
    same = [p for p in found if _link_of(p)["store"] == store]
    return max(same, key=lambda p: (number.get(_link_of(p).get("run_id", ""), -1), _stamp(p)))


def _stamp(results: Path) -> str:
    """The time that lm-eval puts at the end of a result file's name, and of its samples'."""
    return results.stem.rsplit("_", 1)[-1]


def _link_of(results: Path) -> dict[str, str]:
    """As `store_of`; empty for a damaged file among others, which is not the one looked for."""
    try:
        return store_of(results)
    except ValueError:
        return {}


def store_of(results: Path) -> dict[str, str]:
    """What hf-store wrote into a result file: ``store`` (path) and ``run_id``; empty for another model's result."""
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{results} is not a JSON file ({problem})") from None
    config = content.get("config") if isinstance(content, dict) else None
    linked = config.get("hf_store") if isinstance(config, dict) else None
    return linked if isinstance(linked, dict) and "store" in linked else {}


def linked_results(manifest: Mapping[str, Any]) -> list[Path]:
    """The result files that a store's manifest points at and that are still there, oldest first."""
    named = [path for run in manifest["runs"] for path in run.get("results", ())]
    return [path for path in map(Path, dict.fromkeys(named)) if path.is_file()]


COUNTS_CHOSEN = (0, 4, 13)
"""The first lm-eval that is known to count only the documents that `--samples` chose."""


def _minor(written: Any) -> tuple[int, ...]:
    """The version of lm-eval that a result file names; the first known to count rightly where it names none."""
    parts = str(written.get("lm_eval_version") or "0.4.13").split(".")[:3]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)


def say_missing(samples: Path, task: str, held: int) -> None:
    """Warn where a file of samples has fewer documents than the result file beside it says were evaluated."""
    results = samples.with_name(f"results_{_stamp(samples)}.json")
    try:
        written = json.loads(results.read_text(encoding="utf-8"))
        if (written.get("config") or {}).get("samples") or _minor(written) < COUNTS_CHOSEN:
            return
        wanted = int((written.get("n-samples") or {})[task]["effective"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError):  # no result file, or one that does not say
        return
    if held < wanted:
        warnings.warn(
            f"{samples}: holds {held} of the {wanted} documents that {results.name} counts; the rest are left out",
            stacklevel=3,
        )


def samples_of(results: Path) -> list[Path]:
    """The sample files that belong to a result file, by lm-eval's common time stamp.

    Raises:
        NoSamples: there are none.
    """
    found = sorted(results.parent.glob(f"samples_*_{_stamp(results)}.jsonl"))
    if not found:
        raise NoSamples(
            f"{results} has no samples beside it, so right and wrong are not known; run lm_eval with --log_samples, "
            "or pass --labels FILE"
        )
    return found


Steps = Sequence[Mapping[str, Any]]
"""One of lm-eval's filters: its functions in order, each with its arguments."""


@dataclass(frozen=True)
class Settings:
    """What a result file says of its tasks.

    Attributes:
        lower_is_better: (task, metric) of which less is better.
        delimiters: by task, what stands before a choice.
        filters: by task, its filters by name, in the task's order.
        exact_match: by task, the options of its metric exact_match, where it has that.
    """

    lower_is_better: frozenset[tuple[str, str]] = frozenset()
    delimiters: Mapping[str, str] = field(default_factory=dict)
    filters: Mapping[str, Mapping[str, Steps]] = field(default_factory=dict)
    exact_match: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def merge(self, later: Settings) -> Settings:
        """Both, the later one where they differ."""
        return Settings(
            self.lower_is_better | later.lower_is_better,
            {**self.delimiters, **later.delimiters},
            {**self.filters, **later.filters},
            {**self.exact_match, **later.exact_match},
        )


UNFILTERED: Mapping[str, Steps] = {"none": ({"function": "take_first"},)}
"""The filter of a task that names none."""


LOGGED_AS_LOGLIKELIHOOD = ("perplexity",)
"""Metrics of which less is better on the whole, but whose logged value a document is a log-likelihood."""


def settings_of(results: Path) -> Settings:
    """Directions of the metrics and delimiters of the tasks, as lm-eval wrote them into a result file."""
    return settings_in(json.loads(results.read_text(encoding="utf-8")))


def settings_in(content: Mapping[str, Any]) -> Settings:
    """The same from the content of a result file, or from what `simple_evaluate` returned."""
    lower = {
        (task, metric)
        for task, directions in (content.get("higher_is_better") or {}).items()
        for metric, better in (directions or {}).items()
        if better is False and metric not in LOGGED_AS_LOGLIKELIHOOD
    }
    configs = content.get("configs") or {}
    delimiters = {task: config.get("target_delimiter", " ") for task, config in configs.items()}
    return Settings(
        frozenset(lower),
        {t: d for t, d in delimiters.items() if isinstance(d, str)},
        {task: _filters(config.get("filter_list")) for task, config in configs.items()},
        {task: dict(m) for task, config in configs.items() for m in _exact_match(config.get("metric_list"))},
    )


def _filters(listed: Any) -> Mapping[str, Steps]:
    """Filters by name; the default one where lm-eval would take it."""
    named = [f for f in listed or () if isinstance(f, Mapping) and {"name", "filter"} <= set(f)]
    return {f["name"]: tuple(f["filter"]) for f in named} or UNFILTERED


def _exact_match(listed: Any) -> list[Mapping[str, Any]]:
    return [m for m in listed or () if isinstance(m, Mapping) and m.get("metric") == "exact_match"][:1]
