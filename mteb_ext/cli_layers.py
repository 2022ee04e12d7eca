"""The command `layers`: which layer of which model is best on MTEB, and how sure that is."""

from __future__ import annotations

import math
import warnings
from pathlib import Path

import click
import numpy as np
import pandas as pd

from metrics.table import FORMATS
from mteb_ext import depth, ranking, results
from mteb_ext.item_ranking import Items
from mteb_ext.layer_notes import FULL, depth_notes, notes_on, shared_notes
from mteb_ext.layer_report import sentence, table
from mteb_ext.series import Series, choose, common_tasks, plain, series, shared_tasks

TABLES = ("overall", "type", "task", "depth", "model", "arm")

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
    "--all-layers",
    is_flag=True,
    help="With --by type or --by task: rank all layers within each, a row a layer, not the best alone.",
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
    all_layers: bool,
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
    if all_layers and by not in ("type", "task"):
        raise click.ClickException("--all-layers goes with --by type or --by task; --by overall has all layers")
    try:
        frame = results.read(path)
        guessed = frame.attrs["guessed_blocks"]
        frame = choose(frame, models=models, tasks=tasks, types=types)
        guessed = [name for name in guessed if (frame["model"] == name).any()]
        found = series(frame)
        options = ranking.Options(draws, seed, confidence, stratify)
        by = by or ("" if format_ == "md" else "overall")
        text, notes = _text(path, frame, found, options, by, all_layers, format_, top)
        click.echo(text)
        if len(found) > 1 and (frame["aggregate"] != "").any():
            notes.append("aggregates of layers are not compared here, since there are several series")
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
    all_layers: bool,
    format_: str,
    top: int | None,
) -> tuple[str, list[str]]:
    """The table that was asked for, or the report, and notes on how to read it."""
    notes: list[str] = []
    if by == "depth":
        return table(depth.depth_rows(found), format_), depth_notes(found)
    if by == "arm":
        return table(ranking.arm_rows(found, options, _baselines(frame, found), top=top), format_), shared_notes(found)
    items = _items(path, options)
    quick = by not in ("", "overall") or (not by and len(found) > FULL)
    verdicts = [ranking.judge(s, options, items=items, quick=quick) for s in found]
    if by == "overall":
        text = table(_overall(verdicts, options, top), format_)
    elif by == "model":
        text = table(ranking.model_rows(verdicts, options)[:top], format_)
    elif all_layers:
        rows = ranking.within_rows(verdicts, options, items, by=by)
        text = table([row for row in rows if top is None or row.get("rank", 0) <= top], format_)
    elif by == "type":
        text = table(ranking.type_rows(verdicts, options, items), format_)
    elif by == "task":
        text = table(ranking.task_rows(verdicts, options, items), format_)
    else:
        text = _report(frame, verdicts, options, items, top)
        if len(found) > 1:
            notes += shared_notes(found)
    return text, [*notes, *notes_on(found, options, items, by)]


def _report(
    frame: pd.DataFrame,
    verdicts: list[ranking.Verdict],
    options: ranking.Options,
    items: Items | None,
    top: int | None,
) -> str:
    found = [v.series for v in verdicts]
    parts: list[str] = []
    several, alike = len(found) > 1, len(found) > 1 and common_tasks(found)
    baselines = _baselines(frame, found) if alike else {}
    leaders = ranking.arm_rows(found, options, baselines, top=max(top or LEADERS, 2)) if alike else []
    arms = sum(len(s.layers) for s in found) + len(baselines)
    if alike:
        parts.append(_leader_sentence(leaders, arms, alike))
    if len(found) <= FULL:
        parts += [sentence(v, options.level, name=several) for v in verdicts]
    if several:
        parts.append("## Models\n\n" + table(ranking.model_rows(verdicts, options), "md"))
    if alike:
        parts.append("## Layers of all models\n\n" + table(leaders[: top or LEADERS], "md"))
        parts.append("## By depth\n\n" + table(depth.depth_rows(found), "md"))
    if len(found) > FULL:
        parts.append("## Best layer by type\n\n" + table(_best_by_type(found), "md"))
        return "\n\n".join(parts)
    for v in verdicts:
        of = f"{v.series.label}: " if several else ""
        parts.append(f"## {of}overall\n\n" + table(_overall([v], options, top), "md"))
        parts.append(f"## {of}by type\n\n" + table(ranking.type_rows([v], options, items), "md"))
        parts.append(f"## {of}by task\n\n" + table(ranking.task_rows([v], options, items), "md"))
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
    """A row a model, a column a type with its number of tasks, each cell a layer and its mean; none without tasks."""
    rows: list[ranking.Row] = [{"model": s.label} for s in found]
    for type_ in sorted({type_ for s in found for type_ in s.types}):
        parts = [s.on([c for c, t in enumerate(s.types) if t == type_]) for s in found]
        counts = sorted({len(part.tasks) for part in parts})
        name = f"{type_} ({'-'.join(str(n) for n in dict.fromkeys((counts[0], counts[-1])))})"
        for row, part in zip(rows, parts):
            best = part.best if part.tasks else None
            row[name] = None if best is None else f"{part.layers[best]}: {part.scores[best].mean():.4f}"
    return rows


def _overall(verdicts: list[ranking.Verdict], options: ranking.Options, top: int | None) -> list[ranking.Row]:
    rows = ranking.overall_rows(verdicts, options)
    return [row for row in rows if top is None or row.get("rank", 0) <= top]


def _baselines(frame: pd.DataFrame, found: list[Series]) -> dict[str, np.ndarray]:
    """Plain models that have all shared tasks, on the same subsets."""
    tasks = [(t, *found[0].parts[found[0].tasks.index(t)]) for t in shared_tasks(found)]
    rows = {label: scores.reindex(tasks) for label, scores in plain(frame).items()}
    lacking = [label for label, row in rows.items() if row.isna().any()]
    if lacking:
        warnings.warn(
            f"models without layers that lack some of {len(tasks)} tasks, or their subsets: {', '.join(lacking)}",
            stacklevel=2,
        )
    return {label: row.to_numpy(dtype=float) for label, row in rows.items() if label not in lacking}


def _items(path: Path, options: ranking.Options) -> Items | None:
    """Scores on resampled items where the sweep kept its predictions."""
    for home in (path, path.parent):
        if path.is_dir() and (home / "predictions").is_dir():
            from mteb_ext.items import resampled

            return resampled(home, min(options.draws, 1000), options.seed)
    return None


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
