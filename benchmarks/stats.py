"""What the statistics cost, and how far they are from slow references.

Times DeLong's interval and paired test on many scores and the bootstrap on a typical task, each the median of a few
rounds, and compares with all pairs (AUROC, covariance) and with a loop over items (AURC) on small n with many ties.

    python benchmarks/stats.py [--n 1000000] [--rounds 5]
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np

from metrics.stats import (
    aurc,
    bootstrap_interval,
    delong_covariance,
    delong_interval,
    delong_test,
    resampled_aurc,
    resampled_auroc,
    resampled_prr,
)


def seconds(function: Callable[[], object], rounds: int) -> float:
    """Return the median wall time of a call."""
    times = []
    for _ in range(rounds):
        begin = time.perf_counter()
        function()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def quadratic(scores: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROCs and covariance from the matrix of all pairs, by DeLong's definition and without np.cov."""
    wins = np.array([np.heaviside(row[label][:, None] - row[~label][None], 0.5) for row in scores])
    value = wins.mean(axis=(1, 2))
    v10, v01 = wins.mean(axis=2) - value[:, None], wins.mean(axis=1) - value[:, None]
    m, n = v10.shape[1], v01.shape[1]
    return value, v10 @ v10.T / (m * (m - 1)) + v01 @ v01.T / (n * (n - 1))


def expected_aurc(score: np.ndarray, loss: np.ndarray) -> float:
    """Return the AURC item by item, each loss in a tie replaced by the tie's mean."""
    smooth = np.array([loss[score == s].mean() for s in score])[np.argsort(score)]
    return float(np.mean([smooth[:k].mean() for k in range(1, len(score) + 1)]))


def differences(rng: np.random.Generator, sets: int) -> dict[str, float]:
    """Return the largest absolute difference from each slow reference over random small sets."""
    worst = {"AUROC": 0.0, "DeLong covariance": 0.0, "AURC": 0.0}
    for _ in range(sets):
        n = int(rng.integers(6, 80))
        label = rng.permutation(np.arange(n) < rng.integers(2, n - 2))
        scores = rng.integers(0, rng.integers(2, 100), size=(2, n)).astype(float)
        value, covariance = quadratic(scores, label)
        found = delong_covariance(scores, label)
        loss = rng.random(n)
        errors = (
            np.abs(found.auroc - value).max(),
            np.abs(found.covariance - covariance).max(),
            abs(aurc(scores[0], loss).value - expected_aurc(scores[0], loss)),
        )
        # np.maximum, because max(0, nan) is 0
        worst = {name: float(np.maximum(old, new)) for (name, old), new in zip(worst.items(), errors)}
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rng = np.random.default_rng(0)

    label = rng.random(options.n) < 0.3
    first = rng.normal(size=options.n) + label
    second = first + rng.normal(size=options.n)
    tied = np.round(first, 1)
    few, few_label, sets = first[:2000], label[:2000], 300
    group = np.arange(2000) // 4
    resample = partial(bootstrap_interval, seed=0, replicates=2000)
    calls = {
        f"DeLong interval, {options.n:,} scores": lambda: delong_interval(first, label),
        f"DeLong interval, {options.n:,} scores, heavy ties": lambda: delong_interval(tied, label),
        f"DeLong paired test, 2 x {options.n:,} scores": lambda: delong_test(first, second, label),
        "bootstrap AUROC, n = 2,000, 2,000 resamples": lambda: resample(resampled_auroc, few, few_label),
        "the same, stratified by label": lambda: resample(resampled_auroc, few, few_label, strata=few_label),
        "the same, 500 groups of 4": lambda: resample(resampled_auroc, few, few_label, group=group),
        "bootstrap AURC, n = 2,000, 2,000 resamples": lambda: resample(resampled_aurc, few, few_label),
        "bootstrap PRR, n = 2,000, 2,000 resamples": lambda: resample(resampled_prr, few, few_label),
    }
    print("| what | seconds | per second |\n|---|---|---|")
    for name, call in calls.items():
        taken = seconds(call, options.rounds)
        rate = f"{2000 / taken:,.0f} resamples" if "DeLong" not in name else f"{options.n / taken:,.0f} scores"
        print(f"| {name} | {taken:.3f} | {rate} |")
    print(f"\n| largest difference from a slow reference, {sets} sets of 6 to 79 items | |\n|---|---|")
    for name, worst in differences(rng, sets).items():
        print(f"| {name} | {worst:.1e} |")


if __name__ == "__main__":
    main()
