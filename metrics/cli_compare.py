"""The command `eval-ext compare`: two models or settings on the same documents."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import pandas as pd

from metrics.cases import among
from metrics.choosing import choose
from metrics.cli_cases import Way, chosen_by, resolve, say_unused, way_of
from metrics.cli_options import View, format_option, metrics_option, view_options
from metrics.cli_store import save_frame
from metrics.compare import Judged, Pair, judged, pair_frame, pair_up, recorded
from metrics.compare_tables import Compared, accuracy_table, auroc_table, macro_auroc_table, show
from metrics.core import Choice
from metrics.disagreement import disagreement_table, pick
from metrics.report import BASELINES
from metrics.slices import setting
from metrics.store import Store
from metrics.table import render
from metrics.writer import differing

PATH = click.Path(path_type=Path)


@click.command()
@click.argument("a", type=PATH)
@click.argument("b", type=PATH)
@metrics_option
@click.option("--labels-a", type=PATH, help="A's right and wrong: lm-eval output, or a jsonl or csv.")
@click.option("--labels-b", type=PATH, help="B's; by default the result files that the stores name.")
@view_options
@click.option("--top", type=click.IntRange(min=0), default=10, show_default=True, help="Documents shown of a task.")
@click.option("--by", default="mean_entropy", show_default=True, help="The metric that sorts them.")
@format_option
@click.option(
    "--export", type=click.Path(path_type=Path, dir_okay=False), help="Every document: .csv, .jsonl or .parquet."
)
def compare(
    a: Path,
    b: Path,
    metrics_: str,
    labels_a: Path | None,
    labels_b: Path | None,
    view: View,
    top: int,
    by: str,
    format_: str,
    export: Path | None,
) -> None:
    """Compare two models or settings on the documents that both answered: who is right, and whose metrics know it.

    A and B are stores, or lm-eval's output folders. Documents are matched by task and content.

    Example: eval-ext compare hf-store/small hf-store/large --label exact_match
    """
    if view.scores:
        raise click.ClickException(
            f"--scores {view.scores[0]}: one file cannot be of both A and B; compare metrics of the stores, or give it "
            "to auroc, a store at a time"
        )
    sorting = choose(by)
    if len(sorting) != 1:
        raise click.ClickException(f"--by {by}: that is {len(sorting)} metrics; name one")
    if export is not None and export.suffix not in (".csv", ".jsonl", ".parquet"):
        raise click.ClickException(f"--export {export}: the ending must be .csv, .jsonl or .parquet")
    chosen, _ = chosen_by([metrics_, by, *BASELINES], view)
    stores, sides = [], []
    for name, path, given in (("A", a, labels_a), ("B", b, labels_b)):
        store, source = resolve(path, given, f"--labels-{name.lower()}")
        stores.append(store)
        sides.append(_judged(store, source, chosen, view, name))

    wanted = among(view.tasks, view.label, view.filter)
    first, second = ({key: one for key, one in side.items() if wanted(one.case)} for side in sides)
    _refuse_nothing(sides, first, second)
    documents = recorded(stores[0].entries()), recorded(stores[1].entries())
    pairs, alone = pair_up(first, second, documents)
    if not pairs:
        raise click.ClickException(f"{a} and {b} have no task in common with labels in both: {'; '.join(alone)}")
    tables = _tables(pairs, sorting[0].id, chosen, top)
    tables[0].notes = [*_who(*stores), *tables[0].notes, *(f"Not compared: {why}." for why in alone)]
    click.echo(_text(tables, format_))
    if export is not None:
        save_frame(pd.concat([pair_frame(pair, chosen) for pair in pairs], ignore_index=True), export)
        click.echo(f"wrote {export}", err=True)


def _judged(
    store: Store, source: Path | None, chosen: Sequence[Choice], view: View, name: str
) -> dict[tuple[str, str], Judged]:
    """Every task and verdict of a store; the chosen option of multiple choice is the verdict's own."""
    ids, entries = [choice.id for choice in chosen], store.entries()
    by_way: dict[Way, dict[tuple[str, str], Judged]] = {}

    def prepare(way: Way) -> pd.DataFrame:
        frame = store.scores(ids, labels=source, span=view.span, norm=way.norm, filter=way.filter)
        by_way[way] = judged(frame, entries, chosen, threshold=view.threshold)
        return frame

    plain = prepare(Way())
    say_unused(plain, f"{name}: ")
    if not by_way[Way()]:
        raise click.ClickException(
            f"{source or 'its results'}: no label belongs to a record of {store.path}; give the samples of its run as "
            f"--labels-{name.lower()}"
        )
    found = {}
    for key in by_way[Way()]:
        way = way_of(*key, plain, chosen, view.span)
        if way not in by_way:
            prepare(way)
        found[key] = by_way[way][key]
    return found


def _refuse_nothing(sides: Sequence[dict[tuple[str, str], Judged]], *kept: dict[tuple[str, str], Judged]) -> None:
    for name, side, left in zip("AB", sides, kept):
        if not left:
            known = "; ".join(one.case.title for one in side.values())
            raise click.ClickException(f"--task, --label and --filter leave nothing of {name}, which has {known}")


def _tables(pairs: Sequence[Pair], by: str, chosen: Sequence[Choice], top: int) -> list[Compared]:
    tables, firsts, parting = [accuracy_table(pairs)], dict[str, Compared](), []
    for pair in pairs:
        if pair.binary:
            tables.append(auroc_table(pair))
            firsts.setdefault(pair.task, tables[-1])
        sorting = pick(pair, chosen, by)
        if top and sorting is not None:
            parting.append(disagreement_table(pair, sorting, top=top))
    if len(firsts) > 1:
        tables.append(macro_auroc_table(firsts))
    return [*tables, *parting]


def _who(a: Store, b: Store) -> list[str]:
    """What A and B are, and the settings in which they differ."""
    notes = [f"{name}: {store.path}, model {store.manifest['model']}." for name, store in (("A", a), ("B", b))]
    odd = differing(a.manifest, b.manifest)
    told = "; ".join(f"{name} ({setting(a.manifest, name)} | {setting(b.manifest, name)})" for name in odd)
    return [*notes, f"They differ in {told}." if told else "Both were recorded with the same model and settings."]


def _text(tables: Sequence[Compared], format_: str) -> str:
    if format_ in ("csv", "json"):
        rows: list[dict[str, Any]] = []
        for table in tables:
            told = {"table": table.title, "notes": table.notes} if format_ == "json" else {"table": table.title}
            rows += [{**told, **row} for row in table.rows or ([{}] if format_ == "json" else [])]
        return render(rows, format_)
    return "\n\n".join(show(table, format_) for table in tables)
