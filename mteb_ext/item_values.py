"""What MTEB's prediction files say of each item: numbers from which the main score of any resample follows.

What `<Task>_predictions.json` of MTEB 2.26 holds for one subset and split, and what becomes of it, (k, n) for n items:

| kind | predictions of MTEB | item | values |
|---|---|---|---|
| sts | similarities and negated distances of each pair | pair | k = 1, what the main score ranks by |
| pairs | similarities and distances of each pair | pair | k = 1, or for `max_ap` all 5; distances negated |
| classification | labels, per experiment | text | accuracy: k = 1, share of right ones; f1: codes, per experiment |
| clustering | cluster numbers, per set with two labels or more | set | k = 1, V-measure, 1 for a set of one label |
| retrieval | score of each document, per query | query | k = 1, the main score of the query |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mteb_ext.gold import MEASURE, PAIRS, RETRIEVAL, STS, Gold, GoldPart


def item_gold(gold: Gold, part: GoldPart) -> np.ndarray:
    """Give the gold answers as numbers (n,): scores, labels, label codes, sizes of sets, counts of relevant texts."""
    if gold.kind == "classification":
        return _codes(part.answers, [])[0]
    if gold.kind == "clustering":
        return np.array([len(labels) for labels in part.answers], dtype=np.float64)
    if gold.kind == "retrieval":
        relevant = _merged(part.answers) if _has_subqueries(gold) else part.answers
        return np.array([sum(grade > 0 for grade in grades.values()) for grades in relevant.values()], dtype=np.float64)
    return np.array(part.answers, dtype=np.float64)


def item_values(gold: Gold, part: GoldPart, predictions: Any) -> np.ndarray:
    """Turn MTEB's predictions of a part, as read from JSON, into values (k, n); see the table at the top.

    Raises:
        ValueError: the number of items is not that of the gold answers, or a value is NaN.
        KeyError, TypeError, AttributeError: `predictions` has another form than MTEB gives this kind of task.
    """
    if gold.kind == "sts":
        column = predictions[STS[gold.metric]]
        values = [column if column is not None else predictions["cosine_scores"]]
    elif gold.kind == "pairs":
        names = PAIRS if gold.metric == "max_ap" else [gold.metric]
        values = [_checked(predictions[PAIRS[name][0]], part) * PAIRS[name][1] for name in names]
    elif gold.kind == "clustering":
        values = [_v_measures(part.answers, predictions)]
    elif gold.kind == "retrieval":
        values = [_query_scores(gold, part.answers, predictions)]
    else:
        return _predicted(gold, part, predictions)
    table = np.array([np.asarray(row, dtype=np.float64) for row in values])
    _same_count(table.shape[-1], len(item_gold(gold, part)))
    if np.isnan(table).any():
        raise ValueError(f"{int(np.isnan(table).sum())} of its values are NaN")
    return table


def _checked(values: Any, part: GoldPart) -> np.ndarray:
    row = np.asarray(values, dtype=np.float64)
    _same_count(row.size, len(part.answers))
    return row


def _same_count(found: int, wanted: int) -> None:
    if found != wanted:
        raise ValueError(f"it has {found} items where the gold answers have {wanted}")


def _codes(labels: Sequence[Any], others: Sequence[Sequence[Any]]) -> list[np.ndarray]:
    """Number the labels from 0 in order of appearance, in several sequences alike."""
    number: dict[Any, int] = {}
    return [np.array([number.setdefault(v, len(number)) for v in row], dtype=np.int64) for row in (labels, *others)]


def _predicted(gold: Gold, part: GoldPart, predictions: Any) -> np.ndarray:
    """Judge the predicted labels (experiments, n): share of right ones (1, n), or for f1 their codes."""
    if len(predictions) != gold.experiments:
        raise ValueError(f"it has {len(predictions)} experiments where the task has {gold.experiments}")
    for row in predictions:
        _same_count(len(row), len(part.answers))
    codes = _codes(part.answers, predictions)
    if gold.metric == "f1":
        return np.stack(codes[1:])
    return np.mean([row == codes[0] for row in codes[1:]], axis=0)[None]


def _v_measures(sets: Sequence[Sequence[int]], predictions: Any) -> list[float]:
    """Score each set; MTEB clusters none of a single label, gives it 1 and leaves it out of the file."""
    from sklearn.metrics import v_measure_score

    mixed = [len(set(labels)) > 1 for labels in sets]
    _same_count(len(predictions), sum(mixed))
    clusters = iter(predictions)
    return [float(v_measure_score(labels, next(clusters))) if many else 1.0 for labels, many in zip(sets, mixed)]


def _groups(queries: Mapping[str, Any]) -> dict[str, list[str]]:
    """Collect the subqueries of each query, named <query>_<number>."""
    found: dict[str, list[str]] = {}
    for name in queries:
        found.setdefault("_".join(name.split("_")[:-1]), []).append(name)
    return found


def _query_scores(gold: Gold, relevant: Mapping[str, Any], results: Mapping[str, Mapping[str, float]]) -> list[float]:
    """Score each query by trec_eval, as MTEB does; tied documents rank by descending name."""
    if set(results) != set(relevant):
        unknown = len(set(results) - set(relevant))
        raise ValueError(
            f"it lacks {len(set(relevant) - set(results))} queries of the gold answers and has {unknown} others"
        )
    measure = MEASURE.fullmatch("recall_at_1" if gold.metric == "accuracy" else gold.metric)
    if measure is None:
        raise ValueError(f"main score '{gold.metric}' is none of {', '.join(RETRIEVAL)} with _at_<k>")
    if gold.ignore_identical_ids:
        results = {query: {d: s for d, s in found.items() if d != query} for query, found in results.items()}
    if _has_subqueries(gold):
        results = {query: _best(results, members) for query, members in _groups(relevant).items()}
        relevant = _merged(relevant)
    elif gold.skip_first_result:
        results = {
            query: dict(sorted(found.items(), key=lambda item: item[1], reverse=True)[1:])
            for query, found in results.items()
        }
    k = int(measure[3])
    if measure[2] == "mrr":
        return [_reciprocal_rank(results[query], relevant[query], k) for query in relevant]
    from pytrec_eval import RelevanceEvaluator

    name = RETRIEVAL[measure[2]]
    scores = RelevanceEvaluator(relevant, {f"{name}.{k}"}).evaluate(results)
    return [scores[query][f"{name}_{k}"] for query in relevant]


def _has_subqueries(gold: Gold) -> bool:
    return gold.metric.startswith("max_over_subqueries_")


def _merged(relevant: Mapping[str, Any]) -> dict[str, Any]:
    """Give each query the relevance of its last subquery, as MTEB does, for which all are alike."""
    return {query: relevant[members[-1]] for query, members in _groups(relevant).items()}


def _best(results: Mapping[str, Mapping[str, float]], members: Sequence[str]) -> dict[str, float]:
    best: dict[str, float] = {}
    for member in members:
        for document, score in results[member].items():
            best[document] = max(score, best.get(document, score))
    return best


def _reciprocal_rank(found: Mapping[str, float], relevant: Mapping[str, int], k: int) -> float:
    ranked = sorted(found.items(), key=lambda item: (item[1], item[0]), reverse=True)[:k]
    return next((1 / rank for rank, (document, _) in enumerate(ranked, 1) if relevant.get(document, 0) > 0), 0.0)
