"""The commands on a store: `show`, `score` and `auroc`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import pandas as pd

from metrics import labels as labels_
from metrics.cases import Case, among, cases, errors_by
from metrics.choosing import choose
from metrics.cli import format_option
from metrics.core import Choice
from metrics.manifest import is_store, processes
from metrics.report import BASELINES, Table, auroc_table, graded_table, macro_table
from metrics.report import show as show_table
from metrics.score import NORMS as SCORE_NORMS
from metrics.score import SPANS
from metrics.store import Store, open_store
from metrics.table import render
from metrics.verify import verify as verify_store

NORMS = {"acc_norm": "chars", "acc_bytes": "bytes"}
"""How lm-eval picks the option that a verdict is about; the log-likelihood itself for every other verdict."""


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
        click.echo()
    click.echo(render(rows, format_, digits=1))
    if verify:
        damaged = verify_store(store).damage
        for problem in damaged:
            click.echo(f"Damaged: {problem}", err=True)
        if damaged:
            raise click.ClickException(f"{store}: damaged shards: {len(damaged)}; record again what they held")
        click.echo("Every shard agrees with its checksum.", err=True)


def metrics_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that chooses metrics."""
    return click.option(
        "--metrics", "metrics_", default="standard", show_default=True, help="Names, ids and presets joined by +."
    )(command)


@click.command()
@click.argument("store", type=click.Path(path_type=Path))
@metrics_option
@click.option("--labels", type=click.Path(path_type=Path), help="lm-eval output, or a jsonl or csv of labels.")
@click.option("--span", type=click.Choice(SPANS), default="answer", show_default=True)
@click.option("--norm", type=click.Choice(SCORE_NORMS), default="none", help="Option of acc, acc_norm or acc_bytes.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A .csv, .jsonl or .parquet file; standard output if none.",
)
def score(store: Path, metrics_: str, labels: Path | None, span: str, norm: str, out: Path | None) -> None:
    """Write one row a document with its scores and labels.

    Example: eval-ext score hf-store/demo --metrics mean_entropy+mean_nll --out scores.parquet
    """
    choose(metrics_)
    if out is not None and out.suffix not in (".csv", ".jsonl", ".parquet"):
        raise click.ClickException(f"--out {out}: the ending must be .csv, .jsonl or .parquet")
    frame = open_store(store).scores(metrics_, labels=labels, span=span, norm=norm)
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
@click.argument("path", type=click.Path(path_type=Path))
@metrics_option
@click.option("--samples", type=click.Path(path_type=Path), help="lm-eval's output, when PATH is a store.")
@click.option("--labels", type=click.Path(path_type=Path), help="A jsonl or csv with columns doc_id and correct.")
@click.option("--label", help="Only this verdict of lm-eval: a metric's name, such as exact_match.")
@click.option("--filter", "filter_", help="Only this filter of lm-eval, such as strict-match.")
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option("--threshold", type=float, help="Call documents right whose graded label is at least this.")
@click.option("--against", help="Test all others against this metric; by default the length of answer or prompt.")
@click.option("--bootstrap", default=0, help="Resamples for intervals of AP and PRR; 2000 is usual.", show_default=True)
@click.option("--errors-by", help="Also a table for each value of this document field among the wrong.")
@click.option("--span", type=click.Choice(SPANS), default="answer", show_default=True)
@format_option
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables here.")
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Save ROC and risk-coverage figures.")
def auroc(
    path: Path,
    metrics_: str,
    samples: Path | None,
    labels: Path | None,
    label: str | None,
    filter_: str | None,
    tasks: tuple[str, ...],
    threshold: float | None,
    against: str | None,
    bootstrap: int,
    errors_by: str | None,
    span: str,
    format_: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Say how well each metric tells wrong answers from right ones, with confidence intervals.

    PATH is lm-eval's output folder or result file, or a store.

    Example: eval-ext auroc OUT --against mean_nll --plot figures
    """
    if samples is not None and labels is not None:
        raise click.ClickException(f"--samples {samples} and --labels {labels}: give one source of right and wrong")
    chosen = choose([metrics_, *BASELINES, *([against] if against else [])])
    baseline = one_metric(against) if against else None
    store, source = resolve(path, samples or labels)

    wanted = among(tasks, label, filter_)
    found = find_cases(store, source, chosen, wanted, span=span, threshold=threshold, field=errors_by)
    tables: list[Table] = []
    binary: list[tuple[Case, Table]] = []
    for case, causes in found:
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


def one_metric(name: str) -> str:
    """The id of the one metric that ``--against`` names."""
    chosen = choose(name)
    if len(chosen) != 1:
        raise click.ClickException(f"--against {name}: that is {len(chosen)} metrics; name one")
    return chosen[0].id


def resolve(path: Path, given: Path | None, option: str = "--samples") -> tuple[Store, Path | None]:
    """The store that `path` means, and where its labels come from; None for the several results of a resumed store."""
    if is_store(path):
        store = open_store(path)
        if given is not None:
            return store, given
        existing = labels_.linked_results(store.manifest)
        if not existing:
            named = [path for run in store.manifest["runs"] for path in run.get("results", ())]
            where = f"its result file {named[-1]} is gone" if named else "it names no result file of lm-eval"
            table = " or --labels FILE" if option == "--samples" else ", a jsonl or a csv"
            raise click.ClickException(
                f"{path}: {where}, so right and wrong are not known; pass {option} OUT (lm-eval's --output_path of "
                f"a run with --log_samples){table}"
            )
        return store, existing[0] if len(existing) == 1 else None
    if not path.exists() and path.suffix != ".json":
        raise click.ClickException(f"{path} does not exist; give lm-eval's --output_path or a store")
    if path.is_file() and path.suffix != ".json":
        raise click.ClickException(
            f"{path} is neither a store nor lm-eval's result file (results_*.json); give its folder"
        )
    results = labels_.find_results(path)
    linked = labels_.store_of(results)
    if not linked:
        raise click.ClickException(
            f"{results} was not made with --model hf-store, so nothing was recorded; run it again so"
        )
    folder = Path(linked["store"])
    if not is_store(folder):
        raise click.ClickException(
            f"{results} names the store {folder}, which is not there; give its new place: "
            f"{'eval-ext auroc ' if option == '--samples' else ''}STORE {option} {path}"
        )
    click.echo(f"store {folder}, labels of {results}", err=True)
    return open_store(folder), given or results


class Scored(Protocol):
    """A store, or what scores its records in another way."""

    @property
    def path(self) -> Path: ...  # noqa: D102

    def scores(self, metrics: Sequence[str], *, labels: Path | None, span: str, norm: str) -> pd.DataFrame: ...  # noqa: D102


def find_cases(
    store: Scored,
    source: Path | None,
    chosen: Sequence[Choice],
    wanted: Callable[[Case], bool],
    *,
    span: str,
    threshold: float | None,
    field: str | None,
) -> list[tuple[Case, list[Case]]]:
    """Each wanted case, with its causes of error; the chosen option of multiple choice is the verdict's own."""
    ids = [c.id for c in chosen]
    frames: dict[str, pd.DataFrame] = {}
    by_title: dict[str, dict[str, Case]] = {}

    def prepare(norm: str) -> None:
        frames[norm] = store.scores(ids, labels=source, span=span, norm=norm)
        by_title[norm] = {c.title: c for c in cases(frames[norm], chosen, threshold=threshold)}

    prepare("none")
    say_unused(frames["none"])
    plain = by_title["none"]
    if not plain:
        raise click.ClickException(
            f"{source or 'its results'}: no label belongs to a record of {store.path}; give the samples of its run"
        )
    kept = [case for case in plain.values() if wanted(case)]
    if not kept:
        raise click.ClickException(
            f"--task, --label and --filter leave nothing; {source or 'the store'} has labels for " + "; ".join(plain)
        )
    found = []
    for case in kept:
        norm = NORMS.get(case.verdict.split("@")[0], "none")
        if norm not in frames:
            prepare(norm)
        same = by_title[norm][case.title]
        causes: list[Case] = []
        if field is not None and same.wrong is None:
            click.echo(f"{case.title}: graded, so no table for each {field}; pass --threshold", err=True)
        elif field is not None:
            causes = errors_by(same, field, _field(frames[norm], case, field))
        found.append((same, causes))
    return found


def _field(frame: pd.DataFrame, case: Case, field: str) -> Sequence[Any]:
    column = f"doc:{field}"
    if column not in frame:
        known = ", ".join(c.removeprefix("doc:") for c in frame.columns if c.startswith("doc:"))
        raise click.ClickException(
            f"--errors-by {field}: the logged documents have no such field; they have {known or 'none'}"
        )
    label = f"label:{case.verdict}"
    return frame.loc[(frame["task"] == case.task) & frame[label].notna(), column].tolist()


def say_unused(frame: pd.DataFrame, of: str = "") -> None:
    """Say which labels are not used; `of` stands before each line."""
    for reason, count in frame.attrs.get("unused_labels", {}).items():
        click.echo(f"{of}{count} labels without a record: {reason}", err=True)
    for name, count in frame.attrs.get("skipped_labels", {}).items():
        click.echo(f"{of}{name}: not one number a document ({count} documents); left out", err=True)


def write(
    tables: Sequence[Table], format_: str, out: Path | None, as_text: Callable[[Table, str], str] = show_table
) -> None:
    """Write tables to a file or standard output: whole rows in csv and json, what `as_text` makes of them otherwise."""
    if format_ == "csv":
        names = list(dict.fromkeys(key for t in tables for row in t.rows for key in row))
        rows = [{"table": t.title, **{n: row.get(n) for n in names}} for t in tables for row in t.rows]
        text = render(rows, "csv")
    elif format_ == "json":
        rows = [{"table": t.title, "notes": t.notes, **row} for t in tables for row in t.rows or [{}]]
        text = render(rows, "json")
    else:
        text = "\n\n".join(as_text(t, format_) for t in tables)
    if out is None:
        click.echo(text)
    else:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n", encoding="utf-8")
        click.echo(f"wrote {out}", err=True)


def _plot(binary: Sequence[tuple[Case, Table]], folder: Path) -> None:
    try:
        from metrics.plots import save

        for case, table in binary:
            baselines = list(dict.fromkeys([table.against, "random"]))
            click.echo(f"wrote {save(case, table, folder, baselines=baselines)}", err=True)
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'eval-ext[plots]'") from None
