"""Main scores of MTEB on resampled items, from the predictions of many arms and one file of gold answers per task.

A folder is MTEB's cache folder of a sweep:
    results/<model>/<revision>/[experiments/<experiment>/]<Task>.json       MTEB's result files
    predictions/<model>/<revision>/[<experiment>/]<Task>_predictions.json   a folder per arm: the file name has no arm
    predictions/gold/<Task>.json                                            see `mteb_ext.gold.save_gold`

MTEB reads a prediction file that is there, adds to it and writes it in place: one that a kill left damaged has to be
deleted before the task is run again, or MTEB stops at it.

A resample is a row of counts, how often each item is drawn. All arms see the same rows, so differences are paired.
"""

from __future__ import annotations

import json
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from metrics.stats.resample import resample_counts
from mteb_ext.gold import Gold, read_gold
from mteb_ext.gold import save_gold as save_gold
from mteb_ext.item_statistics import means, resampled_ap, resampled_f1, resampled_spearman, rounded_means
from mteb_ext.item_values import item_gold, item_values

Arm = tuple[str, str, str]
"""Folder names of the model, the revision and the experiment; the last is empty for a model without one."""

TOLERANCE = 2e-5
"""Largest difference to MTEB's own score that rounding explains: MTEB keeps 5 places of some."""


@dataclass(frozen=True)
class ItemPart:
    """One split and subset: gold answers (n,) and each arm's values (arms, k, n), see `mteb_ext.item_values`."""

    split: str
    subset: str
    gold: np.ndarray
    values: np.ndarray


@dataclass(frozen=True)
class Items:
    """What several arms predicted for the items of one task. Items are numbered through the parts, N in all."""

    task: str
    kind: str
    metric: str
    arms: tuple[Arm, ...]
    parts: tuple[ItemPart, ...]

    @property
    def sizes(self) -> list[int]:
        """Count the items of each part."""
        return [len(part.gold) for part in self.parts]

    def score(self, rows: np.ndarray) -> np.ndarray:
        """Main score of each arm, (arms,), on the items `rows`, which may repeat; `np.arange(N)` gives MTEB's own.

        See `scores`.

        Raises:
            ValueError: a row is outside 0..N-1.
        """
        total = sum(self.sizes)
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < total:
            raise ValueError(
                f"rows of task {self.task} run from {np.min(rows)} to {np.max(rows)}; it has 0..{total - 1}"
            )
        return self.scores(np.bincount(rows, minlength=total)[None])[0]

    def scores(self, counts: np.ndarray) -> np.ndarray:
        """Main score of each arm on each resample: counts (B, N) to (B, arms).

        score = mean over parts (split and subset), as MTEB's `TaskResult.get_score`. A part's score is, by kind,
        sts: Spearman's rho; pairs: average precision, for `max_ap` the largest over the similarities;
        classification: mean accuracy or macro F1 over the experiments, whose training sets stay as they are;
        clustering: mean V-measure over sets; retrieval: mean over queries, `mrr` excepted rounded to 5 places, for so
        does MTEB. NaN where a part has no score: nothing drawn, a constant variable, or one class of pairs alone.
        """
        bounds = np.cumsum([0, *self.sizes])
        strips = [counts[:, start:end] for start, end in pairwise(bounds)]
        return np.mean([self._part(part, strip) for part, strip in zip(self.parts, strips)], axis=0)

    def _part(self, part: ItemPart, counts: np.ndarray) -> np.ndarray:
        if self.kind == "sts":
            return resampled_spearman(part.values[:, 0], part.gold, counts)
        if self.kind == "pairs":
            return resampled_ap(part.values, part.gold == 1, counts)
        if self.metric == "f1":
            return resampled_f1(part.values, part.gold, counts)
        rounded = self.kind == "retrieval" and not self.metric.startswith("mrr_")
        return (rounded_means if rounded else means)(part.values[:, 0], counts)


def read_items(folder: Path) -> Iterator[Items]:
    """Read the items of each task that has gold answers, in order of its name, with the arms that can be used.

    An arm is left out of a task, with a warning that names the file, if its predictions are missing, damaged or of
    another number of items; if it has no result file, so its evaluation did not end; if that is of another revision of
    the data than the gold answers; or if its scores are not those which the predictions give.

    Raises:
        ValueError: a gold file is damaged; it is named.
    """
    for path in sorted((folder / "predictions" / "gold").glob("*.json")):
        gold = read_gold(path)
        answers = [item_gold(gold, part) for part in gold.parts]
        found: dict[Arm, list[np.ndarray]] = {}
        for arm in _arms(folder, gold.task):
            file = _prediction_file(folder, arm, gold.task)
            try:
                result = _result(folder, arm, gold)
                found[arm] = _values(gold, file)
                _check_scores(gold, answers, arm, found[arm], result)
            except ValueError as problem:
                found.pop(arm, None)
                warnings.warn(f"{file}: {problem}; this arm is left out of {gold.task}", stacklevel=2)
        if found:
            parts = tuple(
                ItemPart(part.split, part.subset, answers[i], np.stack([values[i] for values in found.values()]))
                for i, part in enumerate(gold.parts)
            )
            yield Items(gold.task, gold.kind, gold.metric, tuple(found), parts)


def resampled(folder: Path, draws: int, seed: int) -> dict[str, tuple[list[Arm], np.ndarray]]:
    """Bootstrap the main score over items: per task its arms and their scores (draws, arms).

    Within each part as many items are drawn with replacement as it has, the same for all arms; see `Items.scores` for
    the score and when it is NaN, `read_items` for the arms. A task's draws depend on the seed and its name alone. A
    task of which some part has one item, where all draws are alike, is left out with a warning.

    Raises:
        ValueError: `draws` < 1, or a gold file is damaged.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, ch. 13.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; give at least 1, and 1000 for a probability to two places")
    found = {}
    for items in read_items(folder):
        if min(items.sizes) < 2:
            warnings.warn(f"{items.task} has a part of one item: nothing to resample, left out", stacklevel=2)
            continue
        rng = np.random.default_rng([seed, zlib.crc32(items.task.encode())])
        strata = np.repeat(np.arange(len(items.parts)), items.sizes)
        chunks = resample_counts(rng, draws, strata, np.arange(len(strata)))
        found[items.task] = list(items.arms), np.concatenate([items.scores(counts) for counts in chunks])
    return found


def _arms(folder: Path, task: str) -> list[Arm]:
    """List the arms with a result or predictions of a task."""
    results = folder / "results"
    plain = [(*path.parts[-3:-1], "") for path in results.glob(f"*/*/{task}.json")]
    variants = [(*path.parts[-5:-3], path.parts[-2]) for path in results.glob(f"*/*/experiments/*/{task}.json")]
    predictions = folder / "predictions"
    plain += [(*path.parts[-3:-1], "") for path in predictions.glob(f"*/*/{task}_predictions.json")]
    variants += [path.parts[-4:-1] for path in predictions.glob(f"*/*/*/{task}_predictions.json")]
    return sorted({(model, revision, experiment) for model, revision, experiment in plain + variants})


def _prediction_file(folder: Path, arm: Arm, task: str) -> Path:
    return folder.joinpath("predictions", *arm) / f"{task}_predictions.json"


def _read_json(path: Path, remedy: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name} in {path.parent}; {remedy}") from None
    except ValueError as error:
        raise ValueError(f"{path.name} is damaged ({error}); delete it and {remedy}") from None


def _result(folder: Path, arm: Arm, gold: Gold) -> dict[tuple[str, str], float]:
    """Read MTEB's main scores per split and subset, if they are of the data of the gold answers."""
    model, revision, experiment = arm
    place = folder / "results" / model / revision
    path = (place / "experiments" / experiment if experiment else place) / f"{gold.task}.json"
    content = _read_json(path, "run the task again, for it did not end")
    try:
        scores = {
            (split, part["hf_subset"]): float(part["main_score"])
            for split, parts in content["scores"].items()
            for part in parts
        }
        dataset = content["dataset_revision"]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no result of MTEB ({type(error).__name__}: {error})") from None
    if dataset != gold.dataset_revision:
        raise ValueError(
            f"its result is of revision {dataset} of the data and the gold answers of {gold.dataset_revision}; "
            f"run both with one revision"
        )
    return scores


def _values(gold: Gold, file: Path) -> list[np.ndarray]:
    content = _read_json(file, "run the task again with --save-predictions")
    found = []
    for part in gold.parts:
        try:
            predictions = content[part.subset][part.split]
        except (KeyError, TypeError):
            raise ValueError(f"it lacks split {part.split} of subset {part.subset}") from None
        try:
            found.append(item_values(gold, part, predictions))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"it has not the form of {gold.kind} ({type(error).__name__}: {error})") from None
    return found


def _check_scores(
    gold: Gold, answers: list[np.ndarray], arm: Arm, values: list[np.ndarray], result: dict[tuple[str, str], float]
) -> None:
    """Hold each part's score on its own items against MTEB's."""
    for part, truth, rows in zip(gold.parts, answers, values):
        one = Items(gold.task, gold.kind, gold.metric, (arm,), (ItemPart(part.split, part.subset, truth, rows[None]),))
        ours = float(one.scores(np.ones((1, len(truth)), dtype=np.int64))[0, 0])
        theirs = result.get((part.split, part.subset))
        if theirs is None:
            raise ValueError(f"its result lacks split {part.split} of subset {part.subset}; run the task again")
        if not np.isclose(ours, theirs, rtol=0, atol=TOLERANCE, equal_nan=True):
            raise ValueError(
                f"split {part.split} of subset {part.subset} gives {ours:.6f} and its result file {theirs:.6f}: they "
                f"are of different runs, or MTEB {gold.mteb_version} of the gold answers scores otherwise; run it again"
            )
