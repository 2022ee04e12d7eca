"""What is gained by not answering the most uncertain questions: risk-coverage curve, AURC and its relatives, PRR.

The n items are sorted from certain to uncertain and the first k are answered; R_k is their mean loss. Items with equal
scores have no order of their own, so every quantity is its exact expectation over all orders of the ties: within a
block of ties the cumulative loss grows linearly on average. File order cannot help a constant score.

`loss` is a bool label (True is wrong) or any finite graded loss, such as 1 - ROUGE; quality is 1 - loss. Higher score
means more uncertain. NaN scores are left out and counted. All functions raise ValueError for shapes that differ and
for a loss that is not finite. `resampled_*`: see `metrics.stats.ranking`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from metrics.stats.estimate import Estimate, Items, as_losses, as_vector, join, scored_items
from metrics.stats.ranking import all_tied, block_sums, tie_blocks


@dataclass(frozen=True)
class RiskCoverage:
    """Expected mean loss of the k most certain items: `coverage` k/n (n,), `risk` (n,), for k = 1..n."""

    coverage: np.ndarray
    risk: np.ndarray
    n: int
    n_positive: int
    reason: str


def risk_coverage(score: Any, loss: Any) -> RiskCoverage:
    """Mean loss of what is still answered, for every number of answers.

    Source: El-Yaniv & Wiener 2010, JMLR 11:1605; Geifman, Uziel & El-Yaniv 2019, ICLR (arXiv:1805.08206).
    """
    items = _loss_items(score, loss)
    order, starts = tie_blocks(items.score)
    size = np.diff(np.append(starts, items.n))
    mean = block_sums(items.target[order], starts) / size
    kept = np.arange(1, items.n + 1)
    risk = np.cumsum(np.repeat(mean, size)) / kept
    return RiskCoverage(kept / max(items.n, 1), risk, items.n, items.n_positive, _notes(items))


def aurc(score: Any, loss: Any) -> Estimate:
    """Area under the risk-coverage curve: the mean of R_k over k = 1..n. Lower is better.

    Range [0, 1] for a loss in [0, 1]. A score that knows nothing has the mean loss. Defined for one class.

    Source: Geifman, Uziel & El-Yaniv 2019, ICLR (arXiv:1805.08206); here the expectation over ties.
    """
    return _estimate(resampled_aurc, score, loss)


def eaurc(score: Any, loss: Any) -> Estimate:
    """Excess AURC: AURC minus that of the oracle that answers by increasing loss. Lower is better, 0 is perfect.

    The oracle's area is the exact finite sum, not its limit r + (1 - r) ln(1 - r).

    Source: Geifman, Uziel & El-Yaniv 2019, ICLR (arXiv:1805.08206).
    """
    return _estimate(resampled_eaurc, score, loss)


def augrc(score: Any, loss: Any) -> Estimate:
    """Area under the generalised risk-coverage curve: how likely a silent failure is, averaged over coverage.

    The generalised risk (k/n) R_k is the share of all items that are answered and wrong. The area is taken by
    trapezoids from coverage 0, which for a 0/1 loss with mean r is exactly (1 - AUROC) r (1 - r) + r²/2, the paper's
    closed form; the mean over k = 1..n instead would be larger by r/(2n). Range [0, 1/2] for a loss in [0, 1]; lower
    is better; r/2 for a score that knows nothing.

    Source: Traub et al. 2024, NeurIPS (arXiv:2407.01032).
    """
    return _estimate(resampled_augrc, score, loss)


def aurac(score: Any, loss: Any, *, max_rejection: float = 1.0) -> Estimate:
    """Area under the rejection-accuracy curve: mean quality of what is answered, averaged over rejection rates.

    Mean of 1 - R_k over n - floor(max_rejection n) < k <= n; with max_rejection = 1 it is 1 - AURC. Higher is better.
    The paper averages over rejections from 0 to 90 % on a coarse grid; `max_rejection=0.9` is that range, every k.

    Raises:
        ValueError: also when `max_rejection` is not in (0, 1].

    Source: Farquhar et al. 2024, Nature 630:625, Methods.
    """
    return _estimate(resampled_aurac, score, loss, max_rejection=max_rejection)


def prr(score: Any, loss: Any, *, max_rejection: float = 1.0) -> Estimate:
    """Prediction rejection ratio: how much of the oracle's gain over random rejection the score achieves.

    PRR = (r - U) / (r - O): U and O are the mean R_k over n - floor(max_rejection n) < k <= n for the score and for
    the oracle, r is the mean loss, which is random rejection's exact expectation (lm-polygraph draws it 1000 times).
    1 is the oracle, 0 is random, below 0 is worse than random. lm-polygraph reports max_rejection 1 and 0.5. NaN with
    a reason when all losses are equal, or when fewer than two items may be rejected.

    Raises:
        ValueError: also when `max_rejection` is not in (0, 1].

    Source: Malinin & Gales 2021, ICLR; the curve as in lm-polygraph (Vashurin et al. 2025, TACL), but ties in
    expectation, and a product max_rejection n that only rounding keeps below a whole number counts as whole.
    """
    return _estimate(resampled_prr, score, loss, max_rejection=max_rejection)


def resampled_aurc(score: Any, loss: Any, counts: np.ndarray) -> np.ndarray:
    """AURC of each resample: counts (B, n) of NaN-free items to (B,)."""
    return _mean_risk(score, loss, counts, 1.0)


def resampled_eaurc(score: Any, loss: Any, counts: np.ndarray) -> np.ndarray:
    """Excess AURC of each resample: counts (B, n) of NaN-free items to (B,)."""
    return _mean_risk(score, loss, counts, 1.0) - _mean_risk(loss, loss, counts, 1.0)


def resampled_augrc(score: Any, loss: Any, counts: np.ndarray) -> np.ndarray:
    """AUGRC of each resample: counts (B, n) of NaN-free items to (B,)."""
    size, total = _loss_blocks(score, loss, counts)
    before = np.cumsum(total, axis=1) - total
    with np.errstate(invalid="ignore"):
        return (size * (before + total / 2)).sum(axis=1) / size.sum(axis=1) ** 2


def resampled_aurac(score: Any, loss: Any, counts: np.ndarray, *, max_rejection: float = 1.0) -> np.ndarray:
    """AURAC of each resample: counts (B, n) of NaN-free items to (B,)."""
    return 1 - _mean_risk(score, loss, counts, max_rejection)


def resampled_prr(score: Any, loss: Any, counts: np.ndarray, *, max_rejection: float = 1.0) -> np.ndarray:
    """PRR of each resample: counts (B, n) of NaN-free items to (B,); NaN where the oracle gains nothing."""
    losses = np.asarray(loss, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        random = (counts * losses).sum(axis=1) / counts.sum(axis=1)
        gain = random - _mean_risk(losses, losses, counts, max_rejection)
        value = (random - _mean_risk(score, losses, counts, max_rejection)) / gain
    # where the gain is 0 by definition, rounding can leave a crumb of it
    drawn = counts > 0
    spread = np.where(drawn, losses, -np.inf).max(axis=1) > np.where(drawn, losses, np.inf).min(axis=1)
    return np.where(spread & (_rejected(counts.sum(axis=1), max_rejection) >= 2), value, np.nan)


def _loss_items(score: Any, loss: Any) -> Items:
    """Check a score and its loss, drop the NaN scores, and return the rest."""
    vector = as_vector("score", score)
    return scored_items(vector, as_losses(loss, len(vector)))[1]


def _notes(items: Items) -> str:
    """Collect what weakens a selective statistic on these items."""
    same = items.n > 0 and (items.target == items.target[0]).all()
    equal = f"all losses are {items.target[0]:g}: the order cannot matter" if same else ""
    return join(items.notes, equal, all_tied(items.score))


def _estimate(kernel: Any, score: Any, loss: Any, **options: float) -> Estimate:
    """Evaluate a kernel on the data themselves."""
    items = _loss_items(score, loss)
    rejection = options.get("max_rejection", 1.0)
    if not 0 < rejection <= 1:
        raise ValueError(f"max_rejection is {rejection}; give a share above 0 and at most 1")
    if items.n == 0:
        return Estimate.point(np.nan, 0, 0, items.notes)
    value = kernel(items.score, items.target, np.ones((1, items.n)), **options)[0]
    reasons = [_notes(items)]
    if np.isnan(value) and _rejected(items.n, rejection) < 2:
        reasons.append(f"max_rejection = {rejection:g} rejects fewer than 2 of {items.n} items")
    return Estimate.point(value, items.n, items.n_positive, *reasons)


def _rejected(n: Any, max_rejection: float) -> Any:
    """Count the coverages in the average, forgiving the rounding of max_rejection * n."""
    return np.floor(max_rejection * n + 1e-9)


def _loss_blocks(score: Any, loss: Any, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count items and sum losses per block of equal scores, certain first: (B, G) each."""
    vector = as_vector("score", score)
    losses = as_losses(loss, len(vector))
    order, starts = tie_blocks(vector)
    drawn = counts[:, order].astype(np.float64)
    return block_sums(drawn, starts), block_sums(drawn * losses[order], starts)


def _mean_risk(score: Any, loss: Any, counts: np.ndarray, max_rejection: float) -> np.ndarray:
    """Mean of the expected R_k over the last floor(max_rejection n) values of k, per resample.

    In a block that starts after b items with cumulative loss L and has mean loss e, R_k = e + (L - b e) / k on average,
    so the block's sum needs only differences of harmonic numbers.
    """
    size, total = _loss_blocks(score, loss, counts)
    end, cumulative = np.cumsum(size, axis=1), np.cumsum(total, axis=1)
    begin, before = end - size, cumulative - total
    n = size.sum(axis=1, keepdims=True)
    used = _rejected(n, max_rejection)
    low, high = np.maximum(begin, n - used), np.maximum(end, n - used)
    harmonic = np.concatenate(([0.0], np.cumsum(1 / np.arange(1, int(n.max(initial=0)) + 1))))
    mean = total / np.maximum(size, 1)
    steps = harmonic[high.astype(np.int64)] - harmonic[low.astype(np.int64)]
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((before - begin * mean) * steps + mean * (high - low)).sum(axis=1) / used[:, 0]
