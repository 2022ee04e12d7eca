"""The command `eval-ext table`: one row a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import click

from metrics import dataset_table, prediction_table, tracking_table
from metrics.cli_cases import chosen_by, find_cases, resolve, write
from metrics.cli_options import View, format_option, out_option, view_options
from metrics.dataset_table import Dataset
from metrics.report import BASELINES
from metrics.store import Store

METRICS = "sequence_nll+mean_nll+mean_entropy"


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metrics", "metrics_", default=METRICS, show_default=True, help="Names, ids and presets joined by +.")
@click.option(
    "--samples",
    multiple=True,
    type=click.Path(path_type=Path),
    help="lm-eval's output, or a jsonl or csv of labels: one for each PATH, in their order.",
)
@view_options
@click.option("--predict", is_flag=True, help="Predict each data set's score from the metrics' means over the others.")
@click.option(
    "--leave",
    type=click.Choice(["dataset", "pair"]),
    default="dataset",
    show_default=True,
    help="What --predict leaves out: a data set with all models, or one model on one data set.",
)
@format_option
@out_option
def table(
    paths: tuple[Path, ...],
    metrics_: str,
    samples: tuple[Path, ...],
    view: View,
    predict: bool,
    leave: prediction_table.LeaveOut,
    format_: str,
    out: Path | None,
) -> None:
    """Show one row a data set: score, each metric's mean and AUROC; and whether the means track the scores.

    PATHS are stores or lm-eval's output folders, each with one or several tasks; several are compared by model.

    Example: eval-ext table OUT-SMALL OUT-LARGE --filter strict-match
    """
    if samples and len(samples) != len(paths):
        raise click.ClickException(f"--samples: {len(samples)} for {len(paths)} paths; give one for each")
    chosen, _ = chosen_by([metrics_, *BASELINES], view)
    opened = [resolve(path, given) for path, given in zip(paths, samples or [None] * len(paths))]
    names = _names([store for store, _ in opened])
    datasets = [
        Dataset(name, case)
        for (store, source), name in zip(opened, names)
        for case, _ in find_cases(store, source, chosen, view)
    ]
    tables = [dataset_table.dataset_table(datasets, chosen), tracking_table.tracking_table(datasets, chosen)]
    how = {dataset_table.TITLE: dataset_table.show, tracking_table.TITLE: tracking_table.show}
    if predict:
        means = [c for c in chosen if c.id not in BASELINES]
        tables += prediction_table.prediction_tables(datasets, means, leave=leave)
        how |= dict.fromkeys((prediction_table.TITLE, prediction_table.PREDICTED), prediction_table.show)
    write(tables, format_, out, lambda made, format_: how[made.title](made, format_))


def _names(stores: list[Store]) -> list[str]:
    """What to call each store: its model by its last word, by its full name, or by the store, as far as tells apart."""
    ways: list[Callable[[Store], str]] = [
        lambda s: Path(str(s.manifest["model"])).name,
        lambda s: str(s.manifest["model"]),
        lambda s: str(s.path),
    ]
    for way in ways:
        names = [way(store) for store in stores]
        if len(set(names)) == len(names):
            return names
    twice = Counter(str(store.path) for store in stores).most_common(1)[0][0]
    raise click.ClickException(f"{twice} is given twice; give each store once")
