"""Statistics of scores against labels: ranking, selective prediction, intervals, tests, strata, power, agreement."""

from metrics.stats.agreement import kendall, spearman
from metrics.stats.bands import roc_band
from metrics.stats.binomial import p_at_most, share
from metrics.stats.calibration import (
    BrierParts,
    ReliabilityCurve,
    brier,
    brier_parts,
    calibrated_errors,
    calibration_error,
    log_loss,
    reliability_curve,
    resampled_brier,
)
from metrics.stats.columns import Sorted
from metrics.stats.conformal import Threshold, answers, expected_threshold, items_needed, selective_threshold
from metrics.stats.delong import AurocSet, Comparison, delong_covariance, delong_interval, delong_test
from metrics.stats.effects import main_effects
from metrics.stats.estimate import MIN_ITEMS, Estimate
from metrics.stats.groups import Order, between_share, group_order, same_rate_p
from metrics.stats.kappa import cohen_kappa
from metrics.stats.multiple import benjamini_hochberg, holm
from metrics.stats.paired import (
    auroc_influence,
    mcnemar,
    newcombe_interval,
    paired_auroc_difference,
    resampled_mean,
    wilson_interval,
)
from metrics.stats.power import (
    Detectable,
    hanley_mcneil_variance,
    smallest_detectable_auroc,
    smallest_detectable_difference,
)
from metrics.stats.prediction import FEWEST_PARTS, Predicted, leave_out_ridge
from metrics.stats.ranking import (
    RocCurve,
    auroc,
    average_precision,
    resampled_auroc,
    resampled_average_precision,
    roc_curve,
)
from metrics.stats.recalibration import (
    FITS,
    Fit,
    Split,
    constant,
    cross_fit,
    fit_isotonic,
    fit_platt,
    fold_splits,
    share_split,
    why_not,
)
from metrics.stats.resample import bootstrap_difference, bootstrap_interval
from metrics.stats.selection import Selected, choosing_count, doubled_median, nested_selection
from metrics.stats.selective import (
    RiskCoverage,
    augrc,
    aurac,
    aurc,
    eaurc,
    prr,
    resampled_augrc,
    resampled_aurac,
    resampled_aurc,
    resampled_eaurc,
    resampled_prr,
    risk_coverage,
)
from metrics.stats.strata import StratifiedAuroc, Stratum, macro_average, quantile_strata, stratified_auroc
from metrics.stats.tracking import Tracking, tracking

__all__ = [
    "FEWEST_PARTS",
    "FITS",
    "MIN_ITEMS",
    "AurocSet",
    "BrierParts",
    "Comparison",
    "Detectable",
    "Estimate",
    "Fit",
    "Order",
    "Predicted",
    "ReliabilityCurve",
    "RiskCoverage",
    "RocCurve",
    "Selected",
    "Sorted",
    "Split",
    "StratifiedAuroc",
    "Stratum",
    "Threshold",
    "Tracking",
    "answers",
    "augrc",
    "aurac",
    "aurc",
    "auroc",
    "auroc_influence",
    "average_precision",
    "benjamini_hochberg",
    "between_share",
    "bootstrap_difference",
    "bootstrap_interval",
    "brier",
    "brier_parts",
    "calibrated_errors",
    "calibration_error",
    "choosing_count",
    "cohen_kappa",
    "constant",
    "cross_fit",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "doubled_median",
    "eaurc",
    "expected_threshold",
    "fit_isotonic",
    "fit_platt",
    "fold_splits",
    "group_order",
    "hanley_mcneil_variance",
    "holm",
    "items_needed",
    "kendall",
    "leave_out_ridge",
    "log_loss",
    "macro_average",
    "main_effects",
    "mcnemar",
    "nested_selection",
    "newcombe_interval",
    "p_at_most",
    "paired_auroc_difference",
    "prr",
    "quantile_strata",
    "reliability_curve",
    "resampled_augrc",
    "resampled_aurac",
    "resampled_aurc",
    "resampled_auroc",
    "resampled_average_precision",
    "resampled_brier",
    "resampled_eaurc",
    "resampled_mean",
    "resampled_prr",
    "risk_coverage",
    "roc_band",
    "roc_curve",
    "same_rate_p",
    "selective_threshold",
    "share",
    "share_split",
    "smallest_detectable_auroc",
    "smallest_detectable_difference",
    "spearman",
    "stratified_auroc",
    "tracking",
    "why_not",
    "wilson_interval",
]
