from itertools import product

import numpy as np
import pytest
from scipy.stats import zscore

from metrics.stats import arms
from metrics.stats.arms import FEW

SCORES = np.array([[0.9, 0.2, 0.5], [0.6, 0.4, 0.5], [0.1, 0.3, 0.5]])


def every_resample(tasks):
    """All tasks^tasks resamples, each as likely as another, as counts."""
    drawn = np.array(list(product(range(tasks), repeat=tasks)))
    return (drawn[:, :, None] == np.arange(tasks)).sum(axis=1)


def slow_shares(scores, resamples):
    shares = np.zeros(len(scores))
    for counts in resamples:
        means = [sum(c * s for c, s in zip(counts, row)) / sum(counts) for row in scores]
        winners = [i for i, m in enumerate(means) if abs(m - max(means)) < 1e-9]
        for i in winners:
            shares[i] += 1 / len(winners)
    return shares / len(resamples)


def test_borda_by_hand_with_ties():
    # points of three arms: 1, 1/2, 0 where all differ, 1/2 each where all tie
    np.testing.assert_allclose(arms.borda(SCORES), [(1 + 0 + 0.5) / 3, (0.5 + 1 + 0.5) / 3, (0 + 0.5 + 0.5) / 3])


def test_borda_counts_beaten_arms():
    scores = np.random.default_rng(0).integers(0, 5, size=(7, 9)) / 10
    slow = [[np.mean([(s > o) + (s == o) / 2 for o in np.delete(c, i)]) for i, s in enumerate(c)] for c in scores.T]
    np.testing.assert_allclose(arms.borda(scores), np.mean(slow, axis=0))
    assert arms.borda(scores).mean() == pytest.approx(0.5)
    assert np.isnan(arms.borda(scores[:1])).all()


def test_z_mean_is_scipys_and_a_constant_task_adds_nothing():
    scores = np.random.default_rng(1).normal(size=(6, 4)).clip(-1, 1)
    np.testing.assert_allclose(arms.z_mean(scores), zscore(scores, axis=0).mean(axis=1))
    flat = np.c_[scores, np.full(6, 0.3)]
    np.testing.assert_allclose(arms.z_mean(flat), arms.z_mean(scores) * 4 / 5)


def test_p_best_of_every_resample_of_three_tasks():
    resamples = every_resample(3)
    assert len(resamples) == 27
    exact = slow_shares(SCORES, resamples)
    np.testing.assert_allclose(arms.share_best(arms.resampled_means(SCORES, resamples)), exact, atol=1e-12)
    # all three tie when only the constant task is drawn: 1 of 27 resamples
    assert exact[2] == pytest.approx(1 / 81)
    drawn = arms.task_counts(3, draws=40000, seed=3)
    np.testing.assert_allclose(arms.share_best(arms.resampled_means(SCORES, drawn)), exact, atol=0.01)


def test_p_best_of_two_tasks_in_closed_form():
    # arm 0 wins (a, a) and (a, b) in both orders, arm 1 wins (b, b): 3/4 and 1/4
    scores = np.array([[0.9, 0.1], [0.2, 0.3]])
    shares = arms.share_best(arms.resampled_means(scores, every_resample(2)))
    np.testing.assert_allclose(shares, [0.75, 0.25])


def test_sums_in_another_order_still_tie():
    scores = np.array([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]])
    shares = arms.share_best(scores.mean(axis=1)[None] + np.array([[0, 1e-16]]))
    np.testing.assert_allclose(shares, [0.5, 0.5])


def test_draws_with_a_hole_are_left_out():
    means = np.array([[0.1, 0.2], [np.nan, 0.2], [0.4, 0.3]])
    np.testing.assert_allclose(arms.share_best(means), [0.5, 0.5])
    assert np.isnan(arms.share_best(means[1:2])).all()


def test_resamples_repeat_with_the_seed_and_keep_the_mix_of_types():
    types = ["STS"] * 4 + ["Clustering"] * 2 + ["Reranking"]
    counts = arms.task_counts(7, draws=300, seed=5, types=types)
    assert (counts == arms.task_counts(7, draws=300, seed=5, types=types)).all()
    assert (counts != arms.task_counts(7, draws=300, seed=6, types=types)).any()
    assert (counts[:, :4].sum(axis=1) == 4).all()
    assert (counts[:, 4:6].sum(axis=1) == 2).all()
    assert (counts[:, 6] == 1).all()
    free = arms.task_counts(7, draws=300, seed=5)
    assert (free.sum(axis=1) == 7).all()
    assert len(np.unique(free[:, :4].sum(axis=1))) > 1


def test_gap_is_the_percentile_interval_of_paired_differences():
    scores = np.random.default_rng(2).normal(0.5, 0.1, size=(3, 12))
    counts = arms.task_counts(12, draws=4000, seed=0)
    found = arms.gap(scores, arms.resampled_means(scores, counts), 0, 2, level=0.9)
    each = scores[0] - scores[2]
    slow = [np.repeat(each, c).mean() for c in counts]
    assert found.value == pytest.approx(each.mean())
    np.testing.assert_allclose([found.lower, found.upper], np.quantile(slow, [0.05, 0.95]))
    assert found.se == pytest.approx(each.std() / np.sqrt(12), rel=0.05)
    assert (found.n, found.reason) == (12, "")


@pytest.mark.parametrize("tasks, reason", [(1, "one task"), (FEW - 1, "too narrow"), (0, "no tasks")])
def test_gap_over_few_tasks_says_so(tasks, reason):
    scores = np.linspace(0, 1, 2 * tasks).reshape(2, tasks)
    found = (
        arms.gap(scores, arms.resampled_means(scores, arms.task_counts(tasks, draws=200, seed=0)), 0, 1)
        if tasks
        else (arms.gap(scores, np.zeros((5, 2)), 0, 1))
    )
    assert reason in found.reason
    assert np.isnan(found.lower) == (tasks < 2)


def test_out_of_bag_by_a_slow_loop():
    scores = np.random.default_rng(4).normal(0.5, 0.1, size=(4, 5))
    resamples = every_resample(5)[::7]
    gaps = []
    for counts in resamples:
        left = counts == 0
        if not left.any():
            continue
        best = int(np.argmax(scores @ counts))
        gaps.append(scores[best, left].mean() - scores[:, left].mean(axis=1))
    np.testing.assert_allclose(arms.out_of_bag(scores, resamples), np.mean(gaps, axis=0))


def test_out_of_bag_shares_ties_and_needs_a_task_left_out():
    scores = np.array([[0.6, 0.2], [0.6, 0.4], [0.1, 0.1]])
    # drawing only task 0, arms 0 and 1 tie: on task 1 they lead arm 2 by .1 and .3
    np.testing.assert_allclose(arms.out_of_bag(scores, np.array([[2, 0]])), [0.1, -0.1, 0.2])
    assert np.isnan(arms.out_of_bag(scores, np.array([[1, 1]]))).all()


def test_out_of_bag_is_honest_where_nothing_differs():
    rng = np.random.default_rng(6)
    inside, outside = [], []
    for _ in range(60):
        scores = rng.normal(0.5, 0.1, size=(20, 12))
        inside.append(scores.mean(axis=1).max() - scores[-1].mean())
        outside.append(arms.out_of_bag(scores, arms.task_counts(12, draws=300, seed=0))[-1])
    assert np.mean(inside) > 0.04
    assert abs(np.mean(outside)) < 0.012


def test_leave_one_out_by_a_slow_loop():
    scores = np.random.default_rng(7).normal(0.5, 0.1, size=(4, 6))
    picks, gaps = arms.leave_one_out(scores, 3)
    chosen = [int(np.argmax(np.delete(scores, t, axis=1).mean(axis=1))) for t in range(6)]
    np.testing.assert_allclose(picks, np.bincount(chosen, minlength=4))
    np.testing.assert_allclose(gaps, [scores[c, t] - scores[3, t] for t, c in enumerate(chosen)])
    assert np.isnan(arms.leave_one_out(scores[:, :1], 0)[0]).all()


def coverage(tasks, repeats, *, spread):
    """How often the set holds the best of ten arms whose true means fall off by `spread`, and its mean size."""
    rng = np.random.default_rng(8)
    true = 0.5 - spread * np.arange(10)
    held, size = 0, 0
    for seed in range(repeats):
        scores = true[:, None] + rng.normal(0, 0.05, size=(1, tasks)) + rng.normal(0, 0.02, size=(10, tasks))
        inside = arms.best_set(scores, arms.resampled_means(scores, arms.task_counts(tasks, draws=400, seed=seed)))
        held += inside[0]
        size += inside.sum()
    return held / repeats, size / repeats


def test_best_set_covers_the_best_arm_and_shrinks():
    held, wide = coverage(24, 120, spread=0.0)
    assert held > 0.9
    held, narrow = coverage(24, 120, spread=0.01)
    assert held > 0.93
    assert narrow < 4 < wide


def test_best_set_by_a_slow_loop_with_the_correction_for_few_tasks():
    rng, one_sided = np.random.default_rng(10), 0
    for seed in range(60):
        scores = rng.normal(size=(4, 8)) + np.array([[0.9], [0.6], [0.3], [0]])
        means = arms.resampled_means(scores, arms.task_counts(8, draws=200, seed=seed))
        slow, plain = [], []
        for i in range(4):
            ratios, largest = [], np.full(200, -np.inf)
            for j in set(range(4)) - {i}:
                drawn, gap = means[:, j] - means[:, i], (scores[j] - scores[i]).mean()
                ratios.append(gap / drawn.std())
                largest = np.maximum(largest, (drawn - gap) / drawn.std())
            slow.append(max(ratios) * np.sqrt(7 / 8) <= np.quantile(largest, 0.95))
            plain.append(max(ratios) <= np.quantile(largest, 0.95))
        assert arms.best_set(scores, means).tolist() == slow
        one_sided += slow != plain
    assert one_sided > 3  # the correction shows


def test_best_set_of_arms_that_differ_by_a_constant():
    base = np.random.default_rng(9).random(8)
    scores = np.stack([base, base - 0.01, base])
    means = arms.resampled_means(scores, arms.task_counts(8, draws=200, seed=0))
    assert arms.best_set(scores, means).tolist() == [True, False, True]
    assert arms.best_set(scores[:, :1], means).all()


@pytest.mark.parametrize("scores", [np.zeros(3), np.zeros((0, 3)), [[0.1, np.nan]], [[np.inf, 0.2]]])
def test_holes_and_shapes_are_refused(scores):
    with pytest.raises(ValueError, match=r"holds 1 NaN|has shape"):
        arms.borda(scores)


def test_bad_options_are_refused():
    with pytest.raises(ValueError, match="draws is 0"):
        arms.task_counts(3, draws=0, seed=0)
    with pytest.raises(ValueError, match="2 entries for 3 tasks"):
        arms.task_counts(3, draws=5, seed=0, types=["a", "b"])
