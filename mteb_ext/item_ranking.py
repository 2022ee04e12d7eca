"""How sure a ranking of layers is when the items of each task, its texts or queries, are drawn again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metrics.stats import Estimate
from metrics.stats import arms as arms_
from mteb_ext.series import Series

Items = dict[str, tuple[list[tuple[str, str, str]], np.ndarray]]
"""What `mteb_ext.items.resampled` returns: per task the arms, and (draws, arms) scores on resampled items."""


@dataclass(frozen=True)
class ItemDraws:
    """Mean scores of the layers of a series on resampled items.

    `tasks`: those of the series of which `Items` has all layers. `means`: (draws, layers), over these tasks, without
    the draws that have no score. `observed`: (layers,), the same means on the items as they are.
    """

    tasks: tuple[str, ...]
    means: np.ndarray
    observed: np.ndarray

    @property
    def p_best(self) -> np.ndarray:
        """P(best) of each layer, (layers,): how often it leads, ties shared."""
        return arms_.share_best(self.means)

    def gap(self, layer: int, reference: int, level: float) -> Estimate:
        """How much higher one row scores than another, with the percentile interval over resampled items.

        In-sample, if the row was picked because it scores highest on these items.
        """
        value = float(self.observed[layer] - self.observed[reference])
        if not len(self.means):
            return Estimate.point(value, 0, None, "no draw of the items has a score")
        drawn = self.means[:, layer] - self.means[:, reference]
        lower, upper = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        spread = float(drawn.std(ddof=1)) if len(drawn) > 1 else np.nan
        return Estimate(value, float(lower), float(upper), len(self.tasks), None, "", spread)


def item_draws(series: Series, items: Items | None) -> ItemDraws | None:
    """Resampled means of the layers over the tasks for which `items` has all of them; None if there is none."""
    wanted = [(model.replace("/", "__").replace(" ", "_"), revision, name) for model, revision, name in series.keys]
    found, columns = [], []
    for column, task in enumerate(series.tasks):
        known, scores = (items or {}).get(task, ([], np.zeros((0, 0))))
        place = {arm: i for i, arm in enumerate(known)}
        if all(arm in place for arm in wanted):
            found.append(scores[:, [place[arm] for arm in wanted]])
            columns.append(column)
    if not found:
        return None
    means = np.mean(found, axis=0)
    good = ~np.isnan(means).any(axis=1)
    return ItemDraws(tuple(series.tasks[c] for c in columns), means[good], series.scores[:, columns].mean(axis=1))
