"""The commands `calibration` and `threshold`: probabilities of being wrong, and when to answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from metrics.calibrate import Method, Predictions, Scheme, calibration_table, predict, show_calibration
from metrics.cases import Case
from metrics.cli_cases import chosen_by, find_cases, resolve, way_of, write
from metrics.cli_options import View, format_option, metrics_option, out_option, source_options, view_options
from metrics.core import Choice
from metrics.manifest import is_store
from metrics.outside import is_outside
from metrics.report import BASELINES, Table
from metrics.store import open_store
from metrics.table import plain, render
from metrics.threshold import (
    Aim,
    Guarantee,
    Rule,
    answer_rows,
    applied_rows,
    chosen,
    find_rules,
    show_threshold,
    threshold_table,
)

SHARE = click.FloatRange(0, 1, min_open=True, max_open=True)


seed_option = click.option("--seed", default=0, show_default=True, help="Of the split and of everything else drawn.")


def _binary_cases(path: Path, given: Path | None, metrics: Sequence[Choice], view: View) -> list[Case]:
    """The wanted cases with right and wrong answers; a graded one is left out and named."""
    store, source = resolve(path, given)
    found = [c for c, _ in find_cases(store, source, metrics, view)]
    graded = [case.title for case in found if case.wrong is None]
    if len(graded) == len(found):
        raise click.ClickException(f"{'; '.join(graded)}: graded, so no answer is wrong; pass --threshold")
    for title in graded:
        click.echo(f"{title}: graded, so no answer is wrong; left out, pass --threshold", err=True)
    return [case for case in found if case.wrong is not None]


@click.command()
@source_options
@view_options
@seed_option
@format_option
@out_option
@metrics_option
@click.option(
    "--method",
    type=click.Choice(["isotonic", "platt", "none"]),
    default="isotonic",
    show_default=True,
    help="How scores become probabilities; none judges metrics that are probabilities as they are.",
)
@click.option(
    "--folds", type=click.IntRange(min=2), help="Folds, each judged by what the others fitted; 5 unless --split."
)
@click.option("--split", type=SHARE, help="Fit on this share of the documents and judge the rest, instead of folds.")
@click.option("--bins", type=click.IntRange(min=1), default=15, show_default=True, help="Bins of the errors.")
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Save reliability diagrams here.")
def calibration(
    path: Path,
    given: Path | None,
    view: View,
    seed: int,
    format_: str,
    out: Path | None,
    metrics_: str,
    method: Method,
    folds: int | None,
    split: float | None,
    bins: int,
    plot: Path | None,
) -> None:
    """Turn each metric into a probability of being wrong and say how good these are on documents not fitted on.

    PATH is lm-eval's output folder or result file, or a store.

    Example: eval-ext calibration OUT --metrics mean_nll+mean_entropy --method platt --plot figures
    """
    if folds is not None and split is not None:
        raise click.ClickException(f"--folds {folds} and --split {split}: give one of them")
    metrics, _ = chosen_by([metrics_, *BASELINES], view)
    found = _binary_cases(path, given, metrics, view)
    scheme = Scheme(method, folds or 5, split, bins, seed)
    made = [(case, predict(case, scheme)) for case in found]
    tables = [calibration_table(case, predictions, scheme) for case, predictions in made]
    write(tables, format_, out, show_calibration)
    if plot is not None:
        _plot(made, tables, plot, bins)


def _plot(made: Sequence[tuple[Case, Predictions]], tables: Sequence[Table], folder: Path, bins: int) -> None:
    try:
        from metrics.plots import save_reliability

        for (case, predictions), table in zip(made, tables):
            if predictions.of:
                click.echo(f"wrote {save_reliability(case, predictions, table, folder, bins=bins)}", err=True)
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'eval-ext[plots]'") from None


@click.command()
@source_options
@view_options
@seed_option
@format_option
@out_option
@click.option("--risk", type=SHARE, default=0.1, show_default=True, help="The share of errors that may be made.")
@click.option(
    "--confidence",
    type=SHARE,
    default=0.9,
    show_default=True,
    help="Of the selective guarantee: the probability, over the calibration documents, that it holds.",
)
@click.option(
    "--metric",
    default="mean_nll",
    show_default=True,
    help="Chosen before looking. Several joined by + share the confidence, so any of them may be picked.",
)
@click.option(
    "--guarantee",
    type=click.Choice(["selective", "expected"]),
    default="selective",
    show_default=True,
    help="selective: errors among what is answered, with confidence; expected: among all documents, on average.",
)
@click.option(
    "--split",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.5,
    show_default=True,
    help="The share of documents that calibrates; the rest tests. 1 tests nothing.",
)
@click.option(
    "--answers",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write which documents are answered, a .csv or .jsonl file.",
)
@click.option("--apply", type=click.Path(path_type=Path), help="Write --answers for this store, labelled or not.")
def threshold(
    path: Path,
    given: Path | None,
    view: View,
    seed: int,
    format_: str,
    out: Path | None,
    risk: float,
    confidence: float,
    metric: str,
    guarantee: Guarantee,
    split: float,
    answers: Path | None,
    apply: Path | None,
) -> None:
    """Find the score below which answers are wrong at most at a chosen rate, with a guarantee at finite n.

    PATH is lm-eval's output folder or result file, or a store. Each task and verdict gets a threshold of its own.

    Example: eval-ext threshold OUT --risk 0.1 --metric mean_entropy --answers answers.csv
    """
    if answers is not None and answers.suffix not in (".csv", ".jsonl"):
        raise click.ClickException(f"--answers {answers}: the ending must be .csv or .jsonl")
    if apply is not None and answers is None:
        raise click.ClickException(f"--apply {apply}: give --answers FILE, where to write what would be answered")
    if apply is not None and not is_store(apply):
        raise click.ClickException(f"--apply {apply}: not a store; give the folder that holds its manifest.json")
    metrics = chosen(metric, view.outside())
    if apply is not None and any(map(is_outside, metrics)):
        raise click.ClickException(
            f"--apply {apply}: --metric {metric} is of {view.scores[0]}, which holds no scores of that store"
        )
    found = _binary_cases(path, given, metrics, view)
    aim = Aim(risk, confidence, guarantee, split, seed)
    made = [(case, find_rules(case, metrics, aim)) for case in found]
    rows: list[dict[str, Any]] = []
    for case, rules in made if answers is not None else ():
        rows += answer_rows(case, rules, aim) if apply is None else _applied(case, rules, apply, view.span)
    write([threshold_table(case, rules, aim) for case, rules in made], format_, out, show_threshold)
    if answers is not None:
        _write_answers(rows, answers)


def _applied(case: Case, rules: Sequence[Rule], path: Path, span: str) -> list[dict[str, Any]]:
    """What the rules would answer of the same task in another store: the first sample of each document."""
    store, choices = open_store(path), [rule.choice for rule in rules]
    way = way_of(case.task, case.verdict, store.scores("answer_length"), choices, span)
    frame = store.scores([c.id for c in choices], span=span, norm=way.norm, filter=way.filter)
    part = frame.loc[(frame["task"] == case.task) & (frame["sample"] == 0)]
    if part.empty:
        known = ", ".join(sorted(set(frame["task"]))) or "none"
        raise click.ClickException(
            f"--apply {path}: no record of the task {case.task}, which the threshold is for; it holds {known}"
        )
    return applied_rows(case, rules, part["doc_id"].tolist(), part)


def _write_answers(rows: Sequence[dict[str, Any]], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        text = render(rows, "csv")
    else:
        text = "\n".join(json.dumps({k: plain(v) for k, v in row.items()}) for row in rows)
    file.write_text(text + "\n", encoding="utf-8")
    click.echo(f"wrote {file}: {sum(row['answered'] for row in rows)} of {len(rows)} answered", err=True)
