"""Right or wrong: labels from lm-eval's logged samples or from a table, joined to records by key.

lm-eval writes ``OUT/<model>/results_<time>.json`` and, with ``--log_samples``, one ``samples_<task>_<time>.jsonl`` a
task beside it. hf-store puts the store's path into the first.
"""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from metrics.manifest import read_manifest
from metrics.record import Key


class LabelName(NamedTuple):
    """Which verdict: lm-eval's metric and the filter that picked the scored text."""

    metric: str
    filter: str

    def __str__(self) -> str:
        return f"{self.metric}@{self.filter}"


@dataclass(frozen=True)
class Verdict:
    """One document's label: 1.0 right, 0.0 wrong, or a grade in between or beyond."""

    task: str
    doc_id: int
    name: LabelName
    value: float
    doc_hash: str = ""
    prompt_hash: str = ""
    requests: int = 0
    """How many requests the document made, where the log says so."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The document's own scalar fields, for strata such as a cause of error."""
    document: Mapping[str, Any] = field(default_factory=dict)
    """The whole document."""
    filtered: Any = None
    """What the filter made of the first request's response; None where the log does not say."""


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


@dataclass
class Labels:
    """Verdicts joined to records.

    `values` maps a label name to (task, doc_id) to value; `unused` counts verdicts without a record, by reason, and
    `skipped` names lm-eval metrics that are not one number a document.
    """

    values: dict[LabelName, dict[tuple[str, int], float]]
    fields: dict[tuple[str, int], Mapping[str, Any]]
    unused: Counter[str]
    skipped: Counter[str]
    settings: Settings = field(default_factory=lambda: Settings())
    documents: dict[tuple[str, int], Mapping[str, Any]] = field(default_factory=dict)
    """The documents themselves, by (task, doc_id)."""
    filtered: dict[tuple[str, str], dict[int, Any]] = field(default_factory=dict)
    """What lm-eval logged as filtered answers, by (task, filter), then doc_id."""


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


def read_samples(paths: Iterable[Path]) -> Iterator[Verdict | LabelName]:
    """Verdicts of lm-eval sample files; a metric that is not one number a document comes as its bare name.

    A last line that is broken off, as after a full disk, is left out with a warning.
    """
    for path in paths:
        task = path.stem.removeprefix("samples_").rsplit("_", 1)[0]
        for number, line in enumerate(_lines(path), 1):
            if line.strip():
                try:
                    sample = json.loads(line)
                except ValueError as problem:
                    if not line.endswith("\n"):
                        warnings.warn(f"{path}: the last line is broken off and left out", stacklevel=2)
                        break
                    raise ValueError(f"{path}, line {number}: not a logged sample of lm-eval ({problem})") from None
                yield from _verdicts(task, sample, f"{path}, line {number}")


def read_results(results: Mapping[str, Any]) -> Iterator[Verdict | LabelName]:
    """Verdicts of what `lm_eval.simple_evaluate` returns.

    Raises:
        NoSamples: it was called with log_samples=False.
    """
    if not results.get("samples"):
        raise NoSamples("the results hold no samples; call simple_evaluate with log_samples=True")
    for task, samples in results["samples"].items():
        for number, sample in enumerate(samples):
            yield from _verdicts(task, sample, f"samples of {task}, number {number}")


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not a UTF-8 text ({problem}); give lm-eval's samples, a jsonl or a csv") from None


def _verdicts(task: str, sample: Any, where: str) -> Iterator[Verdict | LabelName]:
    try:
        doc_id, metrics = int(sample["doc_id"]), list(sample.get("metrics", ()))
        requests = len(sample.get("arguments", ()))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"{where}: not a logged sample of lm-eval ({problem})") from None
    document = sample["doc"] if isinstance(sample.get("doc"), dict) else {}
    fields = {k: v for k, v in document.items() if isinstance(v, (str, int, float, bool))}
    hashes = sample.get("doc_hash", ""), sample.get("prompt_hash", "")
    logged = sample.get("filtered_resps")
    filtered = logged[0] if isinstance(logged, list) and logged else None
    for metric in metrics:
        name = LabelName(metric, sample.get("filter", "none"))
        value = sample.get(metric)
        if isinstance(value, (bool, int, float)):
            yield Verdict(task, doc_id, name, float(value), *hashes, requests, fields, document, filtered)
        else:
            yield name


def read_table(path: Path) -> Iterator[Verdict]:
    """Verdicts of a jsonl or csv file with columns ``doc_id`` and ``correct`` (or ``label``), and ``task`` if several.

    With a column ``doc_hash``, lm-eval's, a label is only taken for the document of that hash.

    Raises:
        ValueError: a column is missing, or a value is no number.
    """
    rows = list(csv.DictReader(_lines(path))) if path.suffix == ".csv" else list(_json_rows(path))
    for number, row in enumerate(rows, 1):
        column = next((c for c in ("correct", "label") if c in row), None)
        if column is None or "doc_id" not in row:
            raise ValueError(
                f"{path}, row {number}: columns doc_id and correct are needed; found {', '.join(map(str, row))}"
            )
        value = {"true": 1.0, "false": 0.0}.get(str(row[column]).strip().lower(), row[column])
        try:
            number_ = float(value)
            doc_id = int(str(row["doc_id"]))
        except (TypeError, ValueError):
            raise ValueError(
                f"{path}, row {number}: doc_id={row['doc_id']!r}, {column}={row[column]!r}: not numbers"
            ) from None
        if not math.isfinite(number_):
            raise ValueError(
                f"{path}, row {number}: {column} is {number_}; leave the row out when the label is unknown"
            )
        hashed = str(row.get("doc_hash") or "")
        yield Verdict(str(row.get("task") or ""), doc_id, LabelName(column, path.name), number_, hashed)


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as problem:
                raise ValueError(
                    f"{path}, line {number}: not JSON ({problem}); give a jsonl or csv of labels"
                ) from None
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not an object with doc_id and correct")
            yield row


def join(
    verdicts: Iterable[Verdict | LabelName],
    entries: Mapping[Key, Mapping[str, Any]],
    settings: Settings | None = None,
) -> Labels:
    """Match verdicts to recorded documents.

    By task and document number when the document's hash agrees; otherwise by hash, where it names one document of the
    task (with lm-eval's ``--samples`` the log and the requests number documents differently). The logged prompt has to
    be the recorded one, and as many requests have to be recorded as the log shows. What matches nothing is counted, not
    dropped in silence.
    """
    recorded: dict[tuple[str, int], dict[str, Any]] = {}
    by_hash: dict[tuple[str, str], set[int]] = defaultdict(set)
    for key, entry in entries.items():
        document = recorded.setdefault((key.task, key.doc_id), {"doc": entry["doc_hash"], "prompts": set(), "n": set()})
        by_hash[key.task, entry["doc_hash"]].add(key.doc_id)
        document["n"].add((key.kind, key.request))
        if key.request == 0:
            document["prompts"].add(entry["prompt_hash"])
    tasks = {task for task, _ in recorded}
    labels = Labels({}, {}, Counter(), Counter(), settings or Settings())
    for verdict in verdicts:
        if isinstance(verdict, LabelName):
            labels.skipped[str(verdict)] += 1
            continue
        task = verdict.task or (next(iter(tasks)) if len(tasks) == 1 else "")
        doc_id = _document(task, verdict, recorded, by_hash)
        why = _why(task, verdict, doc_id, tasks, recorded)
        if why:
            labels.unused[why] += 1
        else:
            assert doc_id is not None
            labels.values.setdefault(verdict.name, {})[task, doc_id] = verdict.value
            labels.fields[task, doc_id] = verdict.fields
            labels.documents[task, doc_id] = verdict.document
            if verdict.filtered is not None:
                labels.filtered.setdefault((task, verdict.name.filter), {})[doc_id] = verdict.filtered
    return labels


def _document(
    task: str,
    verdict: Verdict,
    recorded: Mapping[tuple[str, int], Mapping[str, Any]],
    by_hash: Mapping[tuple[str, str], set[int]],
) -> int | None:
    at = recorded.get((task, verdict.doc_id))
    if at is not None and (not verdict.doc_hash or at["doc"] == verdict.doc_hash):
        return verdict.doc_id
    same = by_hash.get((task, verdict.doc_hash), set()) if verdict.doc_hash else set()
    return next(iter(same)) if len(same) == 1 else None


def _why(
    task: str,
    verdict: Verdict,
    doc_id: int | None,
    tasks: set[str],
    recorded: Mapping[tuple[str, int], Mapping[str, Any]],
) -> str:
    """Why a verdict cannot be used; empty when it can."""
    if not task:
        return "no task column, and the store holds several tasks"
    if task not in tasks:
        return f"task '{task}' is not in the store"
    if doc_id is None:
        if (task, verdict.doc_id) in recorded:
            return f"{task}: another document was recorded under that number"
        return (
            f"{task}: never reached the model (a harness cache hit), or recording had stopped, or its shard is damaged"
        )
    document = recorded[task, doc_id]
    if verdict.prompt_hash and document["prompts"] and verdict.prompt_hash not in document["prompts"]:
        return f"{task}: recorded with another prompt (few-shot, system prompt or chat template)"
    if len(document["n"]) < verdict.requests:
        return f"{task}: not every option was recorded"
    if math.isnan(verdict.value):
        return f"{task}: the label is NaN"
    return ""


def linked_results(manifest: Mapping[str, Any]) -> list[Path]:
    """The result files that a store's manifest points at and that are still there, oldest first."""
    named = [path for run in manifest["runs"] for path in run.get("results", ())]
    return [path for path in map(Path, dict.fromkeys(named)) if path.is_file()]
