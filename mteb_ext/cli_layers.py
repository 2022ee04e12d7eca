"""The command `layers`: which layer of which model is best on MTEB, and how sure that is."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pandas as pd

from metrics.stats.arms import FEW
from metrics.table import FORMATS
from mteb_ext import ranking, results
from mteb_ext.layer_report import sentence, table
from mteb_ext.series import Series, choose, plain, series

TABLES = ("overall", "type", "task", "depth", "model", "arm")

FULL = 3
"""With more series than this the report shows one row a series instead of one a layer."""

LEADERS = 10
"""Rows of the ranking across series, unless asked for."""


@click.command()
@click.argument("path", metavar="RESULTS", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="Only models like this, as '*410m' or '*@main'; repeatable.")
@click.option("--task", "tasks", multiple=True, help="Only tasks like this, as 'STS*'; repeatable.")
@click.option("--type", "types", multiple=True, help="Only tasks of a type, as Classification; repeatable.")
@click.option(
    "--by",
    type=click.Choice(TABLES),
    help="One table instead of the report: a row a layer (overall), per type, per task, by depth, a row a model, or "
    "all layers of all models in one ranking (arm).",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    default="md",
    show_default=True,
    help="How to write; other than md it is one table, --by overall unless another is asked for.",
)
@click.option("--top", type=click.IntRange(min=1), help="At most so many rows of each ranking.")
@click.option(
    "--plot", type=click.Path(path_type=Path, dir_okay=False), help="Draw score by layer: .png, .svg or .pdf."
)
@click.option("--per-type", is_flag=True, help="A panel per type of task in the figure.")
@click.option(
    "--export", type=click.Path(path_type=Path, dir_okay=False), help="Write the scores in long form: .csv or .parquet."
)
@click.option("--stratify", is_flag=True, help="Resample tasks within their types, so that the mix of types stays.")
@click.option("--draws", type=click.IntRange(min=100), default=10000, show_default=True, help="Resamples of the tasks.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the resampling.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the intervals.",
)
def layers(
    path: Path,
    models: tuple[str, ...],
    tasks: tuple[str, ...],
    types: tuple[str, ...],
    by: str | None,
    format_: str,
    top: int | None,
    plot: Path | None,
    per_type: bool,
    export: Path | None,
    stratify: bool,
    draws: int,
    seed: int,
    confidence: float,
) -> None:
    """Say which layer is best, per task, per type and overall, and how sure that is.

    RESULTS is what eval-ext sweep or mteb run wrote, or a long .csv or .parquet table with the columns model, layer,
    task and main_score.

    Example: eval-ext layers sweep-out --model '*410m' --plot layers.png
    """
    _check_endings(plot, export)
    try:
        frame = results.read(path)
        guessed = frame.attrs["guessed_blocks"]
        frame = choose(frame, models=models, tasks=tasks, types=types)
        guessed = [name for name in guessed if (frame["model"] == name).any()]
        found = series(frame)
        options = ranking.Options(draws, seed, confidence, stratify)
        text, notes = _text(path, frame, found, options, by or ("" if format_ == "md" else "overall"), format_, top)
        click.echo(text)
        if guessed:
            names = ", ".join(guessed[:4]) + (" ..." if len(guessed) > 4 else "")
            notes.insert(0, f"the number of blocks of {names} is not recorded: the highest layer there counts as last")
        for note in notes:
            click.echo(f"Note: {note}.", err=True)
        if export is not None:
            _export(frame, export)
            click.echo(f"wrote {export}: {len(frame)} scores", err=True)
        if plot is not None:
            from mteb_ext.layer_plot import draw

            draw(found, plot, options, per_type=per_type)
            click.echo(f"wrote {plot}", err=True)
    except (ValueError, OSError, ImportError) as problem:
        raise click.ClickException(" ".join(str(problem).split())) from None


def _text(
    path: Path,
    frame: pd.DataFrame,
    found: list[Series],
    options: ranking.Options,
    by: str,
    format_: str,
    top: int | None,
) -> tuple[str, list[str]]:
    """The table that was asked for, or the report, and notes on how to read it."""
    items = _items(path, options) if by in ("", "overall", "task") else None
    notes: list[str] = []
    if by == "depth":
        return table(ranking.depth_rows(found), format_), _depth_notes(found)
    if by == "arm":
        return table(ranking.arm_rows(found, options, _baselines(frame, found), top=top), format_), _shared_notes(found)
    quick = by in ("type", "task", "model") or (not by and len(found) > FULL)
    verdicts = [ranking.judge(s, options, quick=quick) for s in found]
    if by == "overall":
        text = table(_overall(verdicts, options, items, top), format_)
    elif by == "model":
        text = table(ranking.model_rows(verdicts)[:top], format_)
    elif by == "type":
        text = table(ranking.type_rows(verdicts, options), format_)
    elif by == "task":
        text = table(ranking.task_rows(verdicts, items), format_)
    else:
        text = _report(frame, verdicts, options, items, top)
        if len(found) > 1:
            notes += _shared_notes(found)
    return text, [*notes, *_notes(found, options, items, by)]


def _report(
    frame: pd.DataFrame,
    verdicts: list[ranking.Verdict],
    options: ranking.Options,
    items: ranking.Items | None,
    top: int | None,
) -> str:
    found = [v.series for v in verdicts]
    parts: list[str] = []
    several, alike = len(found) > 1, len(found) > 1 and ranking.common_tasks(found)
    baselines = _baselines(frame, found) if alike else {}
    leaders = ranking.arm_rows(found, options, baselines, top=max(top or LEADERS, 2)) if alike else []
    arms = sum(len(s.layers) for s in found) + len(baselines)
    if alike:
        parts.append(_leader_sentence(leaders, arms, alike))
    if len(found) <= FULL:
        parts += [sentence(v, options.level, name=several) for v in verdicts]
    if several:
        parts.append("## Models\n\n" + table(ranking.model_rows(verdicts), "md"))
    if alike:
        parts.append("## Layers of all models\n\n" + table(leaders[: top or LEADERS], "md"))
        parts.append("## By depth\n\n" + table(ranking.depth_rows(found), "md"))
    if len(found) > FULL:
        parts.append("## Best layer by type\n\n" + table(_best_by_type(found), "md"))
        return "\n\n".join(parts)
    for v in verdicts:
        of = f"{v.series.label}: " if several else ""
        parts.append(f"## {of}overall\n\n" + table(_overall([v], options, items, top), "md"))
        parts.append(f"## {of}by type\n\n" + table(ranking.type_rows([v], options), "md"))
        parts.append(f"## {of}by task\n\n" + table(ranking.task_rows([v], items), "md"))
    return "\n\n".join(parts)


def _leader_sentence(leaders: list[ranking.Row], arms: int, tasks: tuple[str, ...]) -> str:
    def arm(row: ranking.Row) -> str:
        return row["model"] + ("" if row["layer"] is None else f", layer {row['layer']}")

    first, second = leaders[:2]
    sure = "" if math.isnan(first["p_best"]) else f", P(best) = {first['p_best']:.2f}"
    return (
        f"Best of all {arms}: {arm(first)}: {first['mean']:.4f} on average over {len(tasks)} "
        f"tasks{sure}. Second: {arm(second)}: {second['mean']:.4f}."
    )


def _best_by_type(found: list[Series]) -> list[ranking.Row]:
    """A row a model, a column a type with its number of tasks, each cell a layer and its score."""
    types = sorted({type_ for s in found for type_ in s.types})
    rows = []
    for s in found:
        row: ranking.Row = {"model": s.label}
        for type_ in types:
            part = s.on([c for c, t in enumerate(s.types) if t == type_])
            count = len(part.tasks)
            best = f"{part.layers[part.best]}: {part.scores.mean(axis=1)[part.best]:.4f}" if count else None
            row[type_] = best
        rows.append(row)
    return rows


def _overall(
    verdicts: list[ranking.Verdict], options: ranking.Options, items: ranking.Items | None, top: int | None
) -> list[ranking.Row]:
    rows = ranking.overall_rows(verdicts, options, items)
    return [row for row in rows if top is None or row.get("rank", 0) <= top]


def _baselines(frame: pd.DataFrame, found: list[Series]) -> dict[str, np.ndarray]:
    """Plain models that have all shared tasks."""
    tasks = list(ranking.shared_tasks(found))
    rows = {label: scores.reindex(tasks) for label, scores in plain(frame).items()}
    lacking = [label for label, row in rows.items() if row.isna().any()]
    if lacking:
        warnings.warn(f"models without layers that lack some of {len(tasks)} tasks: {', '.join(lacking)}", stacklevel=2)
    return {label: row.to_numpy(dtype=float) for label, row in rows.items() if label not in lacking}


def _items(path: Path, options: ranking.Options) -> ranking.Items | None:
    """Scores on resampled items where the sweep kept its predictions."""
    for home in (path, path.parent):
        if path.is_dir() and (home / "predictions").is_dir():
            from mteb_ext.items import resampled

            return resampled(home, min(options.draws, 1000), options.seed)
    return None


def _notes(found: list[Series], options: ranking.Options, items: ranking.Items | None, by: str) -> list[str]:
    kind = "tasks within types" if options.stratify else "tasks"
    notes = [
        f"intervals and P(best): {options.draws} resamples of {kind}, seed {options.seed}; gaps are in-sample, since "
        "the best layer is chosen on the same tasks; 'out of sample' chooses it on one resample of the tasks and "
        "measures it on the tasks left out"
    ]
    if any(min(Counter(s.types).values()) < FEW for s in found) and by in ("", "type"):
        notes.append(f"intervals over fewer than {FEW} tasks are too narrow, and over one there is none")
    elif any(len(s.tasks) < FEW for s in found):
        notes.append(f"fewer than {FEW} tasks: intervals over them are too narrow, and over one there is none")
    if by == "overall" or (not by and len(found) <= FULL):
        notes.append("'told apart' compares all layers at once, so it asks for more than an interval that leaves out 0")
    if items is not None:
        used = max(len(ranking.items_tasks(s, items)) for s in found)
        have = "1 task has" if used == 1 else f"{used} tasks have"
        notes.append(f"P(best), items: items drawn again within each task; {have} predictions of all layers")
    return notes


def _shared_notes(found: list[Series]) -> list[str]:
    tasks, every = ranking.common_tasks(found), {t for s in found for t in s.tasks}
    if not tasks:
        return ["the models have no task in common, so they are not compared"]
    if len(tasks) == len(every):
        return []
    return [f"models are compared on the {len(tasks)} of {len(every)} tasks that all have"]


def _depth_notes(found: list[Series]) -> list[str]:
    return [*_shared_notes(found), "depth is layer / blocks; scores between two layers are interpolated linearly"]


def _check_endings(plot: Path | None, export: Path | None) -> None:
    for option, file, endings in (
        ("--plot", plot, (".png", ".svg", ".pdf")),
        ("--export", export, (".csv", ".parquet")),
    ):
        if file is not None and file.suffix not in endings:
            raise click.ClickException(f"{option} {file}: the ending must be {' or '.join(endings)}")


def _export(frame: pd.DataFrame, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".csv":
        frame.to_csv(file, index=False)
        return
    try:
        frame.to_parquet(file, index=False)
    except ImportError:
        raise click.ClickException("writing .parquet needs pyarrow: pip install pyarrow, or write .csv") from None
