"""The commands on a store: `show`, `score` and `auroc`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
import pandas as pd

from metrics.annex_keep import annex_lines
from metrics.cases import Case
from metrics.choosing import choose
from metrics.cli_cases import chosen_by, find_cases, resolve, say_unused, write
from metrics.cli_options import (
    View,
    filter_option,
    format_option,
    metrics_option,
    out_option,
    source_options,
    span_option,
    view_options,
)
from metrics.manifest import processes
from metrics.report import BASELINES, Table, auroc_table, graded_table, macro_table
from metrics.score import NORMS as SCORE_NORMS
from metrics.store import open_store
from metrics.table import render
from metrics.verify import verify as verify_store


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compare every shard with its checksum.")
@format_option
def show(store: Path, verify: bool, format_: str) -> None:
    """Say what a store holds: model, settings, tasks, signals, runs and damage.

    Example: eval-ext show hf-store/demo
    """
    opened = open_store(store)
    manifest = opened.manifest
    tasks: dict[tuple[str, str], Counter[str]] = {}
    for key, entry in opened.entries().items():
        of = tasks.setdefault((key.task, entry["kind"]), Counter())
        of["records"] += 1
        of["tokens"] += entry["token_count"]
        of["empty"] += len(set(entry["spans"].get("answer", (0, 1)))) == 1
        of["truncated"] += entry["truncated"]
    rows = [
        {
            "task": task,
            "kind": kind,
            "records": of["records"],
            "tokens a record": of["tokens"] / of["records"],
            "empty answers": of["empty"],
            "truncated prompts": of["truncated"],
        }
        for (task, kind), of in sorted(tasks.items())
    ]
    if format_ == "md":
        size = sum(p.stat().st_size for p in (store / "shards").glob("*"))
        click.echo(
            f"{store}: {manifest['model']} ({manifest['architecture']}, {manifest['dtype']}, {manifest['device']})"
        )
        click.echo(f"{len(opened)} records, {size / 1e6:.1f} MB; signals: {', '.join(manifest['signals'])}")
        for run in manifest["runs"]:
            parts = processes(run)
            done = sum("ended" in part for part in parts)
            end = f"ended {run['ended']}" if done == len(parts) else "not ended: still running, or killed"
            results = ", ".join(run.get("results", ["none"]))
            click.echo(f"run {run['run_id'][:8]} started {run['started']}, {end}; results: {results}")
            for why in dict.fromkeys(part["stopped"] for part in parts if "stopped" in part):
                click.echo(f"  recording stopped: {why}")
        for line in annex_lines(store):
            click.echo(line)
        click.echo()
    click.echo(render(rows, format_, digits=1))
    if verify:
        damaged = verify_store(store).damage
        for problem in damaged:
            click.echo(f"Damaged: {problem}", err=True)
        if damaged:
            raise click.ClickException(f"{store}: damaged shards: {len(damaged)}; record again what they held")
        click.echo("Every shard agrees with its checksum.", err=True)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@metrics_option
@click.option("--labels", type=click.Path(path_type=Path), help="lm-eval output, or a jsonl or csv of labels.")
@span_option
@filter_option
@click.option("--norm", type=click.Choice(SCORE_NORMS), default="none", help="Option of acc, acc_norm or acc_bytes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .csv, .jsonl or .parquet file; standard output if none.",
)
def score(
    store: Path, metrics_: str, labels: Path | None, span: str, filter_: str | None, norm: str, out: Path | None
) -> None:
    """Write one row a document with its scores and labels.

    Example: eval-ext score hf-store/demo --metrics mean_entropy+mean_nll --out scores.parquet
    """
    choose(metrics_)
    if out is not None and out.suffix not in (".csv", ".jsonl", ".parquet"):
        raise click.ClickException(f"--out {out}: the ending must be .csv, .jsonl or .parquet")
    frame = open_store(store).scores(metrics_, labels=labels, span=span, norm=norm, filter=filter_)
    if out is None:
        click.echo(frame.to_csv(index=False).rstrip("\n"))
    else:
        save_frame(frame, out)
        click.echo(f"wrote {out}", err=True)
    say_unused(frame)
    who: dict[tuple[str, int], list[str]] = {}
    for name, reasons in frame.attrs["unscored"].items():
        for reason, count in reasons.items():
            who.setdefault((reason, count), []).append(name)
    for (reason, count), names in who.items():
        click.echo(f"{count} of {len(frame)} unscored, {reason}: {', '.join(names)}", err=True)


def save_frame(frame: pd.DataFrame, out: Path) -> None:
    """Write a frame as .csv, .jsonl or .parquet, by the ending of `out`."""
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".csv":
        frame.to_csv(out, index=False)
    elif out.suffix == ".jsonl":
        frame.to_json(out, orient="records", lines=True, double_precision=15)
    else:
        try:
            _one_type_a_column(frame).to_parquet(out)
        except ImportError:
            raise click.ClickException("writing .parquet needs pyarrow: pip install pyarrow, or write .csv") from None


def _one_type_a_column(frame: pd.DataFrame) -> pd.DataFrame:
    """Fields of documents may be numbers in one task and text in another; parquet takes one of them, so text."""
    mixed = [
        name for name in frame.columns if name.startswith("doc:") and len({type(v) for v in frame[name].dropna()}) > 1
    ]
    return frame.assign(**{name: frame[name].map(str, na_action="ignore").astype(object) for name in mixed})


@click.command()
@source_options
@metrics_option
@view_options
@click.option("--against", help="Test all others against this metric; by default the length of answer or prompt.")
@click.option("--bootstrap", default=0, help="Resamples for intervals of AP and PRR; 2000 is usual.", show_default=True)
@click.option("--errors-by", help="Also a table for each value of this document field among the wrong.")
@format_option
@out_option
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Save ROC and risk-coverage figures.")
def auroc(
    path: Path,
    given: Path | None,
    metrics_: str,
    view: View,
    against: str | None,
    bootstrap: int,
    errors_by: str | None,
    format_: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Say how well each metric tells wrong answers from right ones, with confidence intervals.

    PATH is lm-eval's output folder or result file, or a store.

    Example: eval-ext auroc OUT --against mean_nll --plot figures
    """
    chosen, baseline = chosen_by([metrics_, *BASELINES], view, against)
    store, source = resolve(path, given)

    tables: list[Table] = []
    binary: list[tuple[Case, Table]] = []
    for case, causes in find_cases(store, source, chosen, view, field=errors_by):
        table = graded_table(case) if case.wrong is None else auroc_table(case, against=baseline, replicates=bootstrap)
        tables.append(table)
        if case.wrong is not None:
            binary.append((case, table))
        for cause in causes:
            tables.append(auroc_table(cause, against=baseline, replicates=bootstrap))
            binary.append((cause, tables[-1]))
    firsts = {case.task: table for case, table in reversed(binary) if not case.subset}
    if len(firsts) > 1:
        tables.append(macro_table(list(reversed(firsts.values()))))
    write(tables, format_, out)
    if plot is not None:
        _plot(binary, plot)


def _plot(binary: Sequence[tuple[Case, Table]], folder: Path) -> None:
    try:
        from metrics.plots import save

        for case, table in binary:
            baselines = list(dict.fromkeys([table.against, "random"]))
            click.echo(f"wrote {save(case, table, folder, baselines=baselines)}", err=True)
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'eval-ext[plots]'") from None
