"""From what a command was given to the documents that it is about: a store, labels, and a case a task and verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import click
import pandas as pd

from metrics import outside
from metrics.cases import NORMS as NORMS
from metrics.cases import Case, Way, among, cases, errors_by, way_of
from metrics.choosing import choose
from metrics.cli_options import View
from metrics.core import Choice
from metrics.manifest import is_store
from metrics.report import Table
from metrics.report import show as show_table
from metrics.results import find_results, linked_results, store_of
from metrics.store import Store, open_store
from metrics.table import render


def chosen_by(words: Sequence[str], view: View, against: str | None = None) -> tuple[list[Choice], str | None]:
    """The metrics that words name, those from elsewhere and the one that ``--against`` names; and that one's id."""
    others = view.outside()
    chosen = {c.id: c for c in (*choose(words), *others)}
    if against is None or against in {c.id for c in others}:
        return list(chosen.values()), against
    baseline = choose(against)
    if len(baseline) != 1:
        raise click.ClickException(f"--against {against}: that is {len(baseline)} metrics; name one")
    return list({**chosen, baseline[0].id: baseline[0]}.values()), baseline[0].id


def resolve(path: Path, given: Path | None, option: str = "--samples") -> tuple[Store, Path | None]:
    """The store that `path` means, and where its labels come from; None for the several results of a resumed store."""
    if is_store(path):
        store = open_store(path)
        if given is not None:
            return store, given
        existing = linked_results(store.manifest)
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
    results = find_results(path)
    linked = store_of(results)
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

    def scores(  # noqa: D102
        self, metrics: Sequence[str], *, labels: Path | None, span: str, norm: str, filter: str | None
    ) -> pd.DataFrame: ...


def find_cases(
    store: Scored, source: Path | None, chosen: Sequence[Choice], view: View, *, field: str | None = None
) -> list[tuple[Case, list[Case]]]:
    """Each case that is meant, with its causes of error; the chosen option of multiple choice is the verdict's own."""
    ids = [c.id for c in chosen if not outside.is_outside(c)]
    frames: dict[Way, pd.DataFrame] = {}
    by_title: dict[Way, dict[str, Case]] = {}

    def prepare(way: Way) -> None:
        scores = store.scores(ids, labels=source, span=view.span, norm=way.norm, filter=way.filter)
        frames[way] = outside.join(scores, chosen)
        by_title[way] = {c.title: c for c in cases(frames[way], chosen, threshold=view.threshold)}

    prepare(Way())
    say_unused(frames[Way()])
    plain = by_title[Way()]
    if not plain:
        raise click.ClickException(
            f"{source or 'its results'}: no label belongs to a record of {store.path}; give the samples of its run"
        )
    wanted = among(view.tasks, view.label, view.filter)
    kept = [case for case in plain.values() if wanted(case)]
    if not kept:
        raise click.ClickException(
            f"--task, --label and --filter leave nothing; {source or 'the store'} has labels for " + "; ".join(plain)
        )
    found = []
    for case in kept:
        way = way_of(case.task, case.verdict, frames[Way()], chosen, view.span)
        if way not in frames:
            prepare(way)
        same = by_title[way][case.title]
        causes: list[Case] = []
        if field is not None and same.wrong is None:
            click.echo(f"{case.title}: graded, so no table for each {field}; pass --threshold", err=True)
        elif field is not None:
            causes = errors_by(same, field, _field(frames[way], case, field))
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
