"""Do the guarantees of `eval-ext threshold` hold? Simulated documents of known risk, drawn again and again.

A document is a position u in [0, 1]; its score is u, or u in 10 or 3 levels (ties), and it is wrong with a probability
that depends on u: informative (.5 u), knowing nothing (.11 everywhere, just above the risk), pointing the wrong way
(.3 (1 - u)), and a bump (.2 where the score is surest, then .02, then .4). The true risk of every threshold is a closed
form. Selective: the share of calibration sets whose threshold has a risk above .1; it may not exceed 1 - confidence.
Expected: the mean of P(answered and wrong); it may not exceed .1. Behind ± stands the Monte-Carlo standard error.

    python benchmarks/conformal.py [--replicates 2000]
"""

import argparse
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from metrics.stats import Threshold, expected_threshold, selective_threshold
from metrics.table import render

RISK = 0.1


class Error(NamedTuple):
    """The probability of being wrong at u, and its integral from 0."""

    rate: Callable[[np.ndarray], np.ndarray]
    total: Callable[[float], float]


ERRORS = {
    "informative": Error(lambda u: 0.5 * u, lambda t: 0.25 * t**2),
    "knows nothing": Error(lambda u: np.full(len(u), 0.11), lambda t: 0.11 * t),
    "wrong way": Error(lambda u: 0.3 * (1 - u), lambda t: 0.3 * t - 0.15 * t**2),
    "bump": Error(
        lambda u: np.select([u < 0.2, u < 0.5], [0.2, 0.02], 0.4),
        lambda t: 0.2 * min(t, 0.2) + 0.02 * float(np.clip(t - 0.2, 0, 0.3)) + 0.4 * max(t - 0.5, 0),
    ),
}
LEVELS = {"continuous": 0, "10 levels": 10, "3 levels": 3}


def draw(rng: np.random.Generator, n: int, error: Error, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores and labels of n documents."""
    u = rng.random(n)
    return (np.floor(levels * u) if levels else u), rng.random(n) < error.rate(u)


def covered(found: Threshold, levels: int) -> float:
    """The probability that a document is answered: scores below T are u below T, or below T / levels."""
    if np.isnan(found.value):
        return 0.0
    return min(1.0, found.value / (levels or 1))


def simulate(
    error: Error, levels: int, n: int, confidence: float, replicates: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each replicate: is the selective threshold's risk too high, its coverage, and the expected one's risk."""
    rng = np.random.default_rng(seed)
    broken, answered, expected = np.zeros(replicates, bool), np.zeros(replicates), np.zeros(replicates)
    for i in range(replicates):
        score, wrong = draw(rng, n, error, levels)
        t = covered(selective_threshold(score, wrong, risk=RISK, confidence=confidence), levels)
        broken[i] = t > 0 and error.total(t) / t > RISK + 1e-12
        answered[i] = t
        expected[i] = error.total(covered(expected_threshold(score, wrong, risk=RISK), levels))
    return broken, answered, expected


def main() -> None:
    """Print one row a cell."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replicates", type=int, default=2000)
    replicates = parser.parse_args().replicates
    rows = []
    for name, error in ERRORS.items():
        for kind, levels in LEVELS.items():
            for n in (100, 300, 1000):
                row: dict[str, object] = {"score": f"{name}, {kind}", "n": n}
                for confidence in (0.9, 0.95):
                    broken, answered, expected = simulate(error, levels, n, confidence, replicates, seed=n)
                    row[f"broken at {confidence}"] = with_error(broken)
                    row[f"answered at {confidence}"] = f"{answered.mean():.2f}"
                row["answered and wrong"] = with_error(expected)
                rows.append(row)
    print(f"risk {RISK}, {replicates} replicates a cell\n")
    print(render(rows))


def with_error(values: np.ndarray) -> str:
    """The mean and its Monte-Carlo standard error."""
    return f"{values.mean():.4f} ± {values.std() / len(values) ** 0.5:.4f}"


if __name__ == "__main__":
    main()
