"""The commands on whole stores: `eval-ext store verify`, `merge`, `prune` and `export`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from metrics import copying
from metrics.annex_keep import has_annex
from metrics.cli_options import format_option
from metrics.export import export as write_arrays
from metrics.frame import find_labels
from metrics.slices import Slice, cut, index_bytes, sizes
from metrics.store import open_store
from metrics.table import render
from metrics.verify import Checked
from metrics.verify import verify as check

PATH = click.Path(path_type=Path)
INDEX = "(record index)"
"""A row of the dry run beside the signals' own."""


@click.group()
def store() -> None:
    """Check, merge, cut down or export stores. A store given is only read: what was recorded is never changed.

    Example: eval-ext store verify hf-store/demo
    """


def tasks_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that chooses tasks."""
    return click.option("--tasks", default="", help="Only these tasks, joined by +.")(command)


def signals_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """The option that chooses signals."""
    return click.option("--signals", "signals_", default="", help="Only these signals, joined by +.")(command)


def out_option(what: str) -> Callable[..., Any]:
    """The option that names a new folder."""
    return click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help=what)


@store.command("verify")
@click.argument("stores", nargs=-1, required=True, type=PATH)
@format_option
def verify(stores: tuple[Path, ...], format_: str) -> None:
    """Read every record of STORES and say what is damaged, missing or left over; exit status 1 if anything is.

    Example: eval-ext store verify hf-store/demo hf-store/other
    """
    found = [check(path) for path in stores]
    click.echo(render([_verified(one) for one in found], format_, digits=1))
    problems = [problem for one in found for problem in (*one.damage, *one.problems)]
    for problem in problems:
        click.echo(f"Problem: {problem}", err=True)
    if problems:
        bad = sum(bool(one.damage or one.problems) for one in found)
        raise click.ClickException(f"problems: {len(problems)}, in {bad} of {len(found)} stores")


def _verified(one: Checked) -> dict[str, Any]:
    return {
        "store": str(one.path),
        "records": one.records,
        "superseded": one.superseded,
        "shards": one.shards,
        "MB": one.bytes / 1e6,
        "runs": one.runs,
        "problems": len(one.damage) + len(one.problems),
    }


@store.command("merge")
@click.argument("stores", nargs=-1, required=True, type=PATH)
@out_option("The new store.")
@click.option("--common", is_flag=True, help="Where signals or layers differ, keep the signals that all have.")
def merge(stores: tuple[Path, ...], out: Path, common: bool) -> None:
    """Make one store of several of the same model and settings, such as tasks recorded on different days.

    Where stores hold the same request, the later argument's record counts.

    Example: eval-ext store merge hf-store/monday hf-store/tuesday --out hf-store/both
    """
    done = copying.merge([open_store(path) for path in stores], out, common=common)
    if done.dropped:
        click.echo(f"not in all stores, or not of the same layers, so left out: {', '.join(done.dropped)}", err=True)
    if done.replaced:
        click.echo(
            f"{done.replaced} records differ between stores under one key; the later argument's are kept", err=True
        )
    if any(has_annex(path) for path in stores):
        click.echo(f"an annex is not merged; run eval-ext samples {out} to have one", err=True)
    click.echo(f"{out}: {done.records} records, {_bytes(out) / 1e6:.1f} MB, of {len(stores)} stores")


@store.command("prune")
@click.argument("store", type=PATH)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="The new, smaller store.")
@tasks_option
@signals_option
@click.option("--drop-signals", default="", help="All signals but these, joined by +.")
@click.option("--keep-latest", is_flag=True, help="Leave out superseded records; any pruning does.")
@click.option("--no-text", is_flag=True, help="Leave out token ids and answers that are texts.")
@click.option("--dry-run", is_flag=True, help="Only say what each signal takes and what would be saved.")
@format_option
def prune(
    store: Path,
    out: Path | None,
    tasks: str,
    signals_: str,
    drop_signals: str,
    keep_latest: bool,
    no_text: bool,
    dry_run: bool,
    format_: str,
) -> None:
    """Write a smaller store: fewer tasks, fewer signals, no superseded records, no text. STORE stays as it is.

    Example: eval-ext store prune hf-store/demo --drop-signals top_logprobs --no-text --dry-run
    """
    if not (tasks or signals_ or drop_signals or keep_latest or no_text):
        raise click.ClickException(
            "nothing is to be left out; give --tasks, --signals, --drop-signals, --no-text or --keep-latest"
        )
    if out is None and not dry_run:
        raise click.ClickException("give the new store as --out NEW, or --dry-run to see what would be saved")
    opened = open_store(store)
    part = cut(opened, tasks=tasks, signals=signals_, drop=drop_signals, text=not no_text)
    before = _bytes(store)
    if dry_run:
        rows, saved = _plan(cut(opened), part)
        click.echo(render(rows, format_, digits=3))
        click.echo(
            f"{len(part.keys)} of {len(opened)} records would be kept; the store takes {before / 1e6:.1f} MB, of which "
            f"about {saved / 1e6:.1f} MB would be saved",
            err=True,
        )
        return
    assert out is not None
    if no_text and has_annex(store):
        click.echo("the annex is left out with the texts of which it was made", err=True)
    kept = copying.prune(part, out)
    click.echo(
        f"{out}: {kept} of {len(opened)} records, {_bytes(out) / 1e6:.1f} MB; {store} has {before / 1e6:.1f} MB and "
        "stays as it is"
    )


def _plan(whole: Slice, part: Slice) -> tuple[list[dict[str, Any]], float]:
    before = {**sizes(whole), INDEX: index_bytes(whole)}
    after = {**sizes(part), INDEX: index_bytes(part)}
    rows = [
        {"signal": name, "MB": float(size) / 1e6, "MB kept": after.get(name, 0.0) / 1e6}
        for name, size in sorted(before.items(), key=lambda item: -item[1])
    ]
    return rows, sum(before.values()) - sum(after.values())


@store.command("export")
@click.argument("store", type=PATH)
@out_option("The new folder.")
@tasks_option
@signals_option
@click.option("--labels", type=PATH, help="lm-eval output, or a jsonl or csv of labels; by default what STORE names.")
def export(store: Path, out: Path, tasks: str, signals_: str, labels: Path | None) -> None:
    """Write a folder that NumPy alone can read: flat arrays with offsets, an index, and a README that explains them.

    Example: eval-ext store export hf-store/demo --out arrays --signals logprob+entropy
    """
    opened = open_store(store)
    part = cut(opened, tasks=tasks, signals=signals_)
    found = find_labels(opened, labels)
    if labels is not None and (found is None or not found.values):
        raise click.ClickException(f"--labels {labels}: no label belongs to a record of {store}")
    if found is not None:
        for reason, count in found.unused.items():
            click.echo(f"{count} labels without a record: {reason}", err=True)
    records = write_arrays(part, out, found)
    if has_annex(store):
        click.echo("the annex is not exported", err=True)
    named = ", ".join(map(str, found.values)) if found is not None and found.values else "none"
    click.echo(f"{out}: {records} records, {len(part.signals)} signals, labels: {named}; see {out / 'README.txt'}")


def _bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in (path / "shards").glob("*") if p.is_file())
