"""How far two raters agree beyond chance."""

import numpy as np

from metrics.stats.estimate import MIN_ITEMS, Estimate, check_level


def cohen_kappa(both: int, first_only: int, second_only: int, neither: int, *, level: float = 0.95) -> Estimate:
    """Cohen's kappa of two raters who say yes or no of the same items, from the four counts.

    kappa = (p_o - p_e) / (1 - p_e), p_o the share of items rated alike and p_e = sum_i p_i. p_.i what raters of these
    margins would share by chance. Range [-1, 1]; 0 is chance. Interval kappa ± z se, cut at ±1, with
    se² = (A + B - C) / (n (1 - p_e)²), A = sum_i p_ii (1 - (p_i. + p_.i)(1 - kappa))²,
    B = (1 - kappa)² sum_{i != j} p_ij (p_.i + p_j.)², C = (kappa - p_e (1 - kappa))².

    `n_positive` counts the items rated apart. NaN with a reason for n = 0 or when both raters say the same of all
    items. 0 without an interval, with a reason, when one does, whatever the other says; at ±1, where se is 0, likewise
    none.

    Raises:
        ValueError: a negative count.

    Source: Cohen 1960, Educ. Psychol. Meas. 20:37; se: Fleiss, Cohen & Everitt 1969, Psychol. Bull. 72:323, eq. 13.
    """
    z = check_level(level)
    counts = np.array([[both, first_only], [second_only, neither]], dtype=float)
    if counts.min() < 0:
        raise ValueError(f"counts {(both, first_only, second_only, neither)}: none may be negative")
    n, apart = int(counts.sum()), first_only + second_only
    if n == 0:
        return Estimate.point(np.nan, 0, 0, "no items")
    p = counts / n
    rows, columns = p.sum(1), p.sum(0)
    expected = float(rows @ columns)
    if expected > 1 - 1e-12:
        return Estimate.point(np.nan, n, apart, "both raters say the same of all items")
    kappa = (float(np.trace(p)) - expected) / (1 - expected)
    few = f"n = {n} is below {MIN_ITEMS}: the result is not reliable" if n < MIN_ITEMS else ""
    if max(*rows, *columns) > 1 - 1e-12:
        return Estimate.point(
            0.0, n, apart, few, "one rater says the same of all items, which makes kappa 0: no interval"
        )
    if apart in (0, n) and abs(kappa) > 1 - 1e-12:
        return Estimate.point(kappa, n, apart, few, f"kappa is {kappa:g}: no interval")
    alike = (np.diag(p) * (1 - (rows + columns) * (1 - kappa)) ** 2).sum()
    unlike = (p * (columns[:, None] + rows[None, :]) ** 2 * (1 - np.eye(2))).sum() * (1 - kappa) ** 2
    variance = (alike + unlike - (kappa - expected * (1 - kappa)) ** 2) / (n * (1 - expected) ** 2)
    se = float(np.sqrt(max(variance, 0.0)))
    return Estimate(kappa, max(-1.0, kappa - z * se), min(1.0, kappa + z * se), n, apart, few, se)
