"""Statistics of scores against labels: ranking, selective prediction, intervals, tests, strata, power, agreement."""

from metrics.stats.agreement import kendall, spearman
from metrics.stats.delong import AurocSet, Comparison, delong_covariance, delong_interval, delong_test
from metrics.stats.estimate import Estimate
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
from metrics.stats.ranking import (
    RocCurve,
    auroc,
    average_precision,
    resampled_auroc,
    resampled_average_precision,
    roc_curve,
)
from metrics.stats.resample import bootstrap_difference, bootstrap_interval
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

__all__ = [
    "AurocSet",
    "Comparison",
    "Detectable",
    "Estimate",
    "RiskCoverage",
    "RocCurve",
    "StratifiedAuroc",
    "Stratum",
    "augrc",
    "aurac",
    "aurc",
    "auroc",
    "auroc_influence",
    "average_precision",
    "benjamini_hochberg",
    "bootstrap_difference",
    "bootstrap_interval",
    "delong_covariance",
    "delong_interval",
    "delong_test",
    "eaurc",
    "hanley_mcneil_variance",
    "holm",
    "kendall",
    "macro_average",
    "mcnemar",
    "newcombe_interval",
    "paired_auroc_difference",
    "prr",
    "quantile_strata",
    "resampled_augrc",
    "resampled_aurac",
    "resampled_aurc",
    "resampled_auroc",
    "resampled_average_precision",
    "resampled_eaurc",
    "resampled_mean",
    "resampled_prr",
    "risk_coverage",
    "roc_curve",
    "smallest_detectable_auroc",
    "smallest_detectable_difference",
    "spearman",
    "stratified_auroc",
    "wilson_interval",
]
