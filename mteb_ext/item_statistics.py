"""The statistics of MTEB's main scores on many resamples and arms at once, exactly, ties included.

Resamples come as counts (B, n): how often each drew each item. All are sorted once per arm, never per resample, and
worked through with the resamples side by side, (n, B), so that a step reads whole rows of memory.
"""

import numpy as np
from scipy.sparse import csr_array

from metrics.stats.ranking import tie_blocks

STRIP = 2**18
"""Counts worked on at a time, so that they stay in the cache."""


def means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of each arm's values, (arms, n), over each resample: sum_i c_i v_i / sum_i c_i, (B, arms); NaN if empty."""
    with np.errstate(invalid="ignore"):
        return counts @ values.T / counts.sum(axis=1, keepdims=True)


def rounded_means(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Like `means`, rounded to 5 decimal places by Python's own rule, as MTEB rounds the scores of retrieval."""
    table = means(values, counts)
    return np.array([round(value, 5) for value in table.ravel().tolist()]).reshape(table.shape)


def resampled_spearman(values: np.ndarray, gold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Spearman's rho of each arm's values (arms, n) with the gold scores (n,) on each resample, (B, arms).

    With r_i = #{drawn below i} - #{drawn above i}, which is twice the midrank of i less its mean, and s_i for the gold
    scores, rho = sum_i c_i r_i s_i / sqrt(sum_i c_i r_i² sum_i c_i s_i²). All sums are of whole numbers, exact for
    n < 200 000. NaN where either is constant. The values are free of NaN.

    Source: Spearman 1904, Am. J. Psychol. 15:72, with midranks, as scipy.stats.spearmanr.
    """
    found = np.empty((len(counts), len(values)))
    truth = tie_blocks(gold)
    orders = [tie_blocks(row) for row in values]
    for strip in _strips(counts):
        drawn = np.ascontiguousarray(counts[strip].T, dtype=np.float64)
        size, rank = _ranks(drawn, *truth)
        gold_spread = _dot(size * rank, rank)
        weight = np.empty_like(drawn)
        order, starts = truth
        weight[order] = np.repeat(rank, np.diff(starts, append=len(order)), axis=0)
        weight *= drawn
        for arm, (order, starts) in enumerate(orders):
            size, rank = _ranks(drawn, order, starts)
            product = _dot(_block_sums(weight[order], starts), rank)
            size *= rank
            with np.errstate(invalid="ignore"):
                found[strip, arm] = product / np.sqrt(_dot(size, rank) * gold_spread)
    return found


def resampled_ap(values: np.ndarray, positive: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Average precision of each arm, the largest over its k scores (arms, k, n), on each resample, (B, arms).

    AP = sum_g p_g F_g / A_g / P over the distinct scores g from the highest down: p_g positives drawn there, F_g
    positives and A_g items drawn there or above, P positives in all. Only scores that a positive has matter, so the
    items between are summed in one go. `positive`: (n,) bool. NaN where a class is not drawn (scikit-learn gives 0
    or 1 there). The same number as `metrics.stats.resampled_average_precision`, about five times faster for many arms.
    """
    best = np.full((len(counts), len(values)), -np.inf)
    orders = [[_positive_blocks(row, positive) for row in rows] for rows in values]
    for strip in _strips(counts):
        drawn = np.ascontiguousarray(counts[strip].T, dtype=np.int32)
        total = drawn[positive].sum(axis=0)
        one_class = (total == 0) | (total == drawn.sum(axis=0))
        for arm, rows in enumerate(orders):
            for order, starts, hits, hit_starts in rows:
                here = _block_sums(drawn[hits], hit_starts)
                above = np.cumsum(_block_sums(drawn[order], starts), axis=0, dtype=np.int32)
                precision = np.cumsum(here, axis=0, dtype=np.int32) / np.maximum(above, 1)
                with np.errstate(invalid="ignore"):
                    value = np.where(one_class, np.nan, _dot(precision, here) / total)
                best[strip, arm] = np.maximum(best[strip, arm], value)
    return best


def resampled_f1(values: np.ndarray, gold: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Macro F1 of each arm, mean over its k experiments, on each resample, (B, arms).

    F1_c = 2 TP_c / (predicted_c + true_c), averaged over the classes c that the resample holds, as a label or as a
    prediction. `values` (arms, k, n), `gold` (n,): codes of classes from 0. NaN where nothing is drawn.

    Source: scikit-learn's `f1_score(average="macro")`.
    """
    classes = int(max(values.max(), gold.max())) + 1
    drawn = np.ascontiguousarray(counts.T, dtype=np.float64)
    true = _class_sums(gold, drawn, classes)
    found = np.empty((len(counts), len(values)))
    for arm, experiments in enumerate(values):
        scores = []
        for codes in experiments:
            right = codes == gold
            either = true + _class_sums(codes, drawn, classes)
            hits = _class_sums(codes[right], drawn[right], classes)
            with np.errstate(invalid="ignore"):
                scores.append((2 * hits / np.maximum(either, 1)).sum(axis=0) / (either > 0).sum(axis=0))
        found[:, arm] = np.mean(scores, axis=0)
    return found


def _strips(counts: np.ndarray) -> list[slice]:
    rows = max(16, STRIP // max(counts.shape[1], 1))
    return [slice(start, start + rows) for start in range(0, len(counts), rows)]


def _dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.einsum("gb,gb->b", left, right)


def _block_sums(rows: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Sum the rows (n, B) of each block, (G, B)."""
    return rows if len(starts) == len(rows) else np.add.reduceat(rows, starts, axis=0)


def _ranks(drawn: np.ndarray, order: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Items drawn in each block of equal scores, and those below it less those above it, (G, B) each."""
    size = _block_sums(drawn[order], starts)
    rank = np.cumsum(size, axis=0)
    total = rank[-1].copy()
    rank *= 2
    rank -= size
    rank -= total
    return size, rank


def _positive_blocks(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Order the items from the highest score down to the last positive, in blocks that each end with a positive score.

    Returns the items, where each block starts, the positive items, and where each block of these starts.
    """
    order, starts = tie_blocks(score, descending=True)
    label = positive[order]
    block = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    held, hit_starts = np.unique(block[label], return_index=True)
    ends = np.append(starts[1:], len(order))[held]
    return order[: ends[-1] if len(ends) else 0], np.append(0, ends)[: len(ends)], order[label], hit_starts


def _class_sums(codes: np.ndarray, drawn: np.ndarray, classes: int) -> np.ndarray:
    """Sum the rows (n, B) of each class, (classes, B)."""
    items = np.arange(len(codes))
    return csr_array((np.ones(len(codes)), (codes, items)), shape=(classes, len(codes))) @ drawn
