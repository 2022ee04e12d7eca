"""The command `eval-ext grid`: every combination of token metrics, weightings and poolings at once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import click
import pandas as pd

from metrics.cli_cases import chosen_by, find_cases, resolve, write
from metrics.cli_options import View, format_option, out_option, source_options, view_options
from metrics.core import Choice, signals
from metrics.frame import Wish, labelled_frame
from metrics.grid import grid_score
from metrics.grid_report import REFERENCES, Scheme, grid_tables, show_grid
from metrics.naming import words
from metrics.outside import is_outside
from metrics.plan import recorded
from metrics.report import Table
from metrics.samples import Beside
from metrics.score import ScoreTable, Unit
from metrics.slices import recorded_signals
from metrics.store import Store
from metrics.tokenwise.composite import combine
from metrics.tokenwise.values import token_metrics
from metrics.tokenwise.weights import weightings

POOLINGS = (
    "mean+std+max+min+quantile(q=0.5)+quantile(q=0.9)+top_share+bottom_share+tail+lowest_window+highest_window+first"
)
SMALL = 200_000
"""So many scores take one process less time than it takes to start others."""

WHOLE = ("csv", "json")
"""Formats that are looked up rather than read: with every configuration, these have a row for each."""


@dataclass(frozen=True)
class GridStore:
    """A store that scores a grid, for `find_cases`."""

    store: Store
    chosen: Sequence[Choice]
    jobs: int

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.store.path

    def scores(
        self, metrics: Sequence[str], *, labels: Path | None, span: str, norm: str, filter: str | None
    ) -> pd.DataFrame:
        """As `metrics.store.Store.scores`, of the chosen metrics, which `metrics` names."""
        del metrics

        def scored(units: Sequence[Unit], beside: Beside) -> ScoreTable:
            return grid_score(self.path, units, self.chosen, span=span, jobs=self.jobs, beside=beside)

        return labelled_frame(self.store, scored, labels=labels, norm=norm, wanted=Wish(span, self.chosen, filter))


@click.command()
@source_options
@click.option("--metrics", "metrics_", default="all", show_default=True, help="Token metrics, joined by +.")
@click.option("--weightings", "weightings_", default="all", show_default=True, help="Weightings, joined by +.")
@click.option("--poolings", "poolings_", default=POOLINGS, show_default=True, help="Poolings, joined by +.")
@click.option("--layers", default="all", show_default=True, help="Layers of metrics that have them: 0+4+-1, or all.")
@view_options
@click.option("--against", help="Test all configurations against this metric, paired.")
@click.option("--repeats", type=click.IntRange(min=1), default=100, show_default=True, help="Random splits.")
@click.option(
    "--split", default=0.5, show_default=True, type=click.FloatRange(0, 1, True, True), help="Part that chooses."
)
@click.option("--seed", default=0, show_default=True, help="Of the splits.")
@click.option(
    "--jobs", type=click.IntRange(min=0), default=0, show_default=True, help="Processes; 0: as many as cores."
)
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Configurations shown; 0: all.")
@format_option
@out_option
def grid(
    path: Path,
    given: Path | None,
    metrics_: str,
    weightings_: str,
    poolings_: str,
    layers: str,
    view: View,
    against: str | None,
    repeats: int,
    split: float,
    seed: int,
    jobs: int,
    top: int,
    format_: str,
    out: Path | None,
) -> None:
    """Score every combination of token metrics, weightings and poolings, and say what picking the best is worth.

    PATH is lm-eval's output folder or result file, or a store. The winner is chosen on one part of the documents and
    judged on the other, again and again; the best in-sample stands beside it, and what each factor does.

    Example: eval-ext grid OUT --metrics entropy+nll --poolings mean+max --against mean_nll
    """
    wanted, baseline = chosen_by(REFERENCES, view, against)
    store, source = resolve(path, given)
    composites = _composites(store, metrics_, weightings_, poolings_, layers)
    references = _recorded(store, wanted)
    chosen = list({c.id: c for c in (*composites, *references)}.values())
    small = len(store) * len(chosen) <= SMALL
    processes = jobs or (1 if small else _cores())
    click.echo(f"{len(composites)} configurations, {processes} process{'es' if processes > 1 else ''}", err=True)

    scorer = GridStore(store, [c for c in chosen if not is_outside(c)], processes)
    found = find_cases(scorer, source, chosen, view)
    scheme = Scheme(repeats, split, seed, baseline)
    tables: list[Table] = []
    for case, _ in found:
        if case.wrong is None:
            click.echo(f"{case.title}: graded, so no answer is wrong; pass --threshold", err=True)
        else:
            tables += grid_tables(case, chosen, scheme, top=top, every=not top and format_ in WHOLE)
    if not tables:
        raise click.ClickException(f"{path}: every label is graded, so no answer is wrong; pass --threshold")
    write(tables, format_, out, show_grid)


def _composites(store: Store, metrics_: str, weightings_: str, poolings_: str, layers: str) -> list[Choice]:
    """The product of what was asked for and is recorded; what is not is named."""
    held = {*recorded_signals(store), "token_count"}
    tokens, weights = token_metrics(), weightings()
    if metrics_ == "all":
        asked = [n for n, made in tokens.items() if made.higher != "neutral" and held.issuperset(made.needs)]
        neutral = [n for n, made in tokens.items() if made.higher == "neutral" and held.issuperset(made.needs)]
        if neutral:
            click.echo(f"without a direction, so left out: {', '.join(neutral)}", err=True)
    else:
        asked = words(metrics_)
    weighers = [n for n, made in weights.items() if held.issuperset(made.needs)] if weightings_ == "all" else None
    expanded = [word for name in asked for word in _layers(store, name, layers)]
    made = list(combine(expanded, words(poolings_), weighers or words(weightings_)))
    if not made:
        _nothing(store, "a token metric with a direction, a weighting and a pooling are needed")
    return _recorded(store, made)


def _recorded(store: Store, made: Sequence[Choice]) -> list[Choice]:
    """Those whose signals the store holds; the signals that are missing are named once."""
    held, known = set(recorded_signals(store)), signals()
    needs = {c.id: {n for need in c.metric.needs for n in recorded(known[need], known)} for c in made}
    lacking = sorted({n for names in needs.values() for n in names if n not in held and known[n].cost != "free"})
    found = [c for c in made if not needs[c.id] & set(lacking)]
    if not found:
        _nothing(store, f"it lacks {', '.join(lacking)}; record again with signals={'+'.join(lacking)}")
    if lacking:
        click.echo(
            f"not recorded, so {len(made) - len(found)} combinations are left out: {', '.join(lacking)}; record with "
            f"signals={'+'.join(lacking)}",
            err=True,
        )
    return found


def _nothing(store: Store, why: str) -> NoReturn:
    raise click.ClickException(f"{store.path}: nothing to combine: {why}")


def _layers(store: Store, word: str, layers: str) -> list[str]:
    """A token metric once for each layer, where it has layers, none is named, and it was recorded."""
    known = token_metrics()
    if word not in known or not known[word].layered:
        return [word]
    if layers != "all":
        return [f"{word}(layer={layer.strip()})" for layer in layers.split("+")]
    need = known[word].needs[0]
    count = next((r.signals[need].shape[0] for r in store.records([need]) if need in r.signals), 0)
    return [f"{word}(layer={layer})" for layer in range(count)] or [word]


def _cores() -> int:
    """The number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
