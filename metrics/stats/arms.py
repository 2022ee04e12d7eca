"""Rankings of arms (layers, checkpoints) that were scored on the same tasks, and how sure they are.

`scores` is always (arms, tasks), finite: whoever has holes decides first which tasks or arms to leave out. Uncertainty
comes from resampling tasks, so it answers "would another draw of tasks like these have picked the same arm?". Resamples
are drawn once by `task_counts` and handed to every function, so that all numbers speak of the same resamples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata

from metrics.stats.estimate import Estimate, check_level
from metrics.stats.resample import resample_counts

TIE = 1e-12
"""Means closer than this are equal: sums in another order differ by less."""

FEW = 6
"""With fewer tasks a bootstrap interval is too narrow to be believed; the reason says so."""


def borda(scores: Any) -> np.ndarray:
    """Share of the other arms that an arm beats, averaged over the tasks; 1 wins every task, 0 loses all.

    b_a = mean_t (r_at - 1) / (A - 1), r_at the rank of arm a of A in task t, 1 the worst, ties at their average rank,
    so the mean over arms is 1/2. `scores`: (arms, tasks); result (arms,). NaN with one arm or no task.
    """
    table = as_matrix(scores)
    arms, tasks = table.shape
    if arms < 2 or not tasks:
        return np.full(arms, np.nan)
    return ((rankdata(table, axis=0) - 1) / (arms - 1)).mean(axis=1)


def z_mean(scores: Any) -> np.ndarray:
    """Mean over the tasks of the standard score of an arm among the arms, so that every task weighs the same.

    z_at = (s_at - mean_a s_at) / sd_a(s_at) with the population's standard deviation (ddof 0); a task on which all arms
    score alike adds 0. `scores`: (arms, tasks); result (arms,). NaN without tasks.
    """
    table = as_matrix(scores)
    if not table.shape[1]:
        return np.full(len(table), np.nan)
    centred = table - table.mean(axis=0)
    spread = table.std(axis=0)
    constant = np.ptp(table, axis=0) == 0
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, spread)).mean(axis=1)


def task_counts(tasks: int, *, draws: int, seed: int, types: Sequence[str] | None = None) -> np.ndarray:
    """Draw resamples of the tasks: (draws, tasks), how often each holds each task; every row sums to `tasks`.

    With `types`, one a task, as many tasks of a type are drawn as there are, so that the mix of types stays; a type of
    one task is then in every resample once.

    Raises:
        ValueError: draws < 1, or `types` has another length.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}; give at least 1, and 10000 for a steady interval")
    if types is not None and len(types) != tasks:
        raise ValueError(f"types has {len(types)} entries for {tasks} tasks; give one a task")
    if not tasks:
        return np.zeros((draws, 0), dtype=np.int64)
    strata = np.zeros(tasks, dtype=np.int64) if types is None else np.unique(types, return_inverse=True)[1]
    return np.concatenate(list(resample_counts(np.random.default_rng(seed), draws, strata, np.arange(tasks))))


def resampled_means(scores: Any, counts: np.ndarray) -> np.ndarray:
    """Mean of each arm over each resample of the tasks: (arms, tasks), (draws, tasks) -> (draws, arms)."""
    table = as_matrix(scores)
    weights = counts.astype(np.float64)
    return weights @ table.T / weights.sum(axis=1, keepdims=True)


def share_best(means: np.ndarray) -> np.ndarray:
    """P(best): the share of resamples in which an arm is on top, ties shared equally; sums to 1.

    `means`: (draws, arms), from `resampled_means`, or of items resampled within tasks; result (arms,). Draws that hold
    a NaN are left out; NaN if none is left.
    """
    good = means[~np.isnan(means).any(axis=1)]
    if not good.size:
        return np.full(means.shape[1], np.nan)
    return _winners(good).mean(axis=0)


def gap(scores: Any, means: np.ndarray, arm: int, reference: int, *, level: float = 0.95) -> Estimate:
    """How much higher one arm scores than another, with the percentile interval over resampled tasks.

    value = mean_t (s_arm,t - s_reference,t); `se` is the standard deviation of the resampled gaps. If the arm was
    picked because it scores highest on these very tasks, the value and the interval are in-sample, that is too high:
    put `out_of_bag` beside them. One task has no interval; under 6 tasks it is too narrow; the reason says so.
    """
    check_level(level)
    table = as_matrix(scores)
    tasks = table.shape[1]
    if not tasks:
        return Estimate.point(np.nan, 0, None, "no tasks")
    value = float((table[arm] - table[reference]).mean())
    if tasks == 1:
        return Estimate.point(value, 1, None, "one task: no interval over tasks")
    drawn = means[:, arm] - means[:, reference]
    lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    reason = f"only {tasks} tasks: the interval is too narrow" if tasks < FEW else ""
    spread = float(drawn.std(ddof=1)) if len(drawn) > 1 else np.nan
    return Estimate(value, float(lower), float(upper), tasks, None, reason, spread)


def out_of_bag(scores: Any, counts: np.ndarray) -> np.ndarray:
    """Gap of the best arm to each arm on tasks that did not choose it: an honest companion of `gap`.

    In each resample the arm with the top mean is chosen and its gap to every arm measured on the tasks that the
    resample lacks; the mean over resamples, (arms,). Ties in the choice count in equal parts; resamples that lack no
    task are left out, and NaN comes of it if there are no others. The choice sees about 63 % of the tasks, so the value
    errs to the low side. `scores`: (arms, tasks); `counts`: (draws, tasks).

    Source: the out-of-bag idea of Breiman 1996, Out-of-bag estimation, applied to a choice among arms.
    """
    table = as_matrix(scores)
    left = counts == 0
    usable = left.any(axis=1)
    if not usable.any():
        return np.full(len(table), np.nan)
    left = left[usable]
    outside = left.astype(np.float64) @ table.T / left.sum(axis=1, keepdims=True)
    chosen = (_winners(resampled_means(table, counts[usable])) * outside).sum(axis=1)
    return chosen.mean() - outside.mean(axis=0)


def leave_one_out(scores: Any, reference: int) -> tuple[np.ndarray, np.ndarray]:
    """For each task in turn, choose the best arm on the others and measure its gap to the reference on this one.

    Returns how often each arm was chosen (arms,), ties in equal parts, and the gap on each task (tasks,); both are NaN
    with fewer than two tasks.
    """
    table = as_matrix(scores)
    arms, tasks = table.shape
    if tasks < 2:
        return np.full(arms, np.nan), np.full(tasks, np.nan)
    chosen = _winners(resampled_means(table, 1 - np.eye(tasks, dtype=np.int64)))
    return chosen.sum(axis=0), (chosen * (table - table[reference]).T).sum(axis=1)


def best_set(scores: Any, means: np.ndarray, *, level: float = 0.95) -> np.ndarray:
    """Which arms may be the best one: a set that holds the truly best arm with probability about `level`.

    Arm i is left out if some arm j beats it beyond chance: max_j t_ij > c_i, where t_ij = mean_t(s_jt - s_it) / se_ij,
    se_ij the standard deviation of the resampled difference times sqrt(n / (n - 1)) for n tasks, and c_i is the `level`
    quantile over resamples of max_j of (the resampled difference - the observed one) / its standard deviation, without
    that factor. Comparing with every arm allows both for the number of arms and for the best one having been picked.
    All True with fewer than two tasks, and too small with few: simulated at .95 with 12 equal arms above 13 lower ones,
    it held such an arm with .87 at 8 tasks, .93 at 16 and .95 at 32. `means` is from `resampled_means`; result (arms,).

    Source: comparisons with the best, Hsu 1981, Annals of Statistics 9:1026, with the quantile by bootstrap.
    """
    check_level(level)
    table = as_matrix(scores)
    arms, tasks = table.shape
    inside = np.ones(arms, dtype=bool)
    if tasks < 2:
        return inside
    shrink = np.sqrt((tasks - 1) / tasks)
    observed = table.mean(axis=1)
    for i in range(arms):
        others = np.arange(arms) != i
        drawn = means[:, others] - means[:, [i]]
        gaps = observed[others] - observed[i]
        spread = drawn.std(axis=0)
        steady = spread < TIE
        if (gaps[steady] > TIE).any():  # beaten by the same amount in every resample
            inside[i] = False
            continue
        if steady.all():
            continue
        drawn, gaps, spread = drawn[:, ~steady], gaps[~steady], spread[~steady]
        limit = np.quantile(((drawn - gaps) / spread).max(axis=1), level)
        inside[i] = shrink * (gaps / spread).max() <= limit
    return inside


def as_matrix(scores: Any) -> np.ndarray:
    """Check scores of arms on tasks: (arms, tasks) with at least one arm, every number finite.

    Raises:
        ValueError: another shape, or a hole.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or not len(table):
        raise ValueError(f"scores has shape {table.shape} where (arms, tasks) is expected, with at least one arm")
    if not np.isfinite(table).all():
        holes = int((~np.isfinite(table)).sum())
        raise ValueError(f"scores holds {holes} NaN or infinite numbers; leave out those tasks or arms first")
    return table


def _winners(means: np.ndarray) -> np.ndarray:
    """1 for the top arm of each row and 0 for the others, or equal parts of 1 where several are on top."""
    top = means >= means.max(axis=1, keepdims=True) - TIE
    return top / top.sum(axis=1, keepdims=True)
