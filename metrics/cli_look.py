"""The commands that show what was recorded: `plot` draws figures, `explain` makes a page of one answer."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd

from metrics import looking
from metrics.answers import FROM_FILTER
from metrics.cases import Case, oriented_scores
from metrics.choosing import choose
from metrics.cli_cases import Way, chosen_by, find_cases, resolve, way_of
from metrics.cli_options import View, filter_option, metrics_option, span_option, view_options
from metrics.drawing import SUFFIXES, Picture, save
from metrics.explain import render
from metrics.manifest import is_store
from metrics.outside import is_outside, join
from metrics.page import make_page, texts_of
from metrics.record import Key
from metrics.report import BASELINES
from metrics.results import linked_results
from metrics.score import NORMS as SCORE_NORMS
from metrics.store import Store, open_store

DOC = click.IntRange(min=0)


labels_option = click.option(
    "--labels", type=click.Path(path_type=Path), help="lm-eval output, or a jsonl or csv of labels."
)


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("kinds", nargs=-1, metavar=f"[{'|'.join(looking.KINDS)}]...")
@metrics_option
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="figures", show_default=True)
@labels_option
@view_options
@click.option("--doc", type=DOC, help="Also the figures of this document.")
@click.option(
    "--signal", "signals_", multiple=True, help="Signals of curves and profiles.  [default: entropy, lens_entropy]"
)
@click.option("--most", type=click.IntRange(min=1), default=12, show_default=True, help="Metrics drawn at most.")
@click.option("--replicates", type=click.IntRange(min=1), default=1000, show_default=True, help="Of the ROC bands.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the ROC bands.")
@click.option("--data", is_flag=True, help="Write the numbers of each figure beside it as csv.")
@click.option("--format", "suffix", type=click.Choice(SUFFIXES), default="png", show_default=True)
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A model's folder, for the texts of tokens.")
def plot(
    path: Path,
    kinds: tuple[str, ...],
    metrics_: str,
    out: Path,
    labels: Path | None,
    view: View,
    doc: int | None,
    signals_: tuple[str, ...],
    most: int,
    replicates: int,
    seed: int,
    data: bool,
    suffix: str,
    tokenizer: Path | None,
) -> None:
    """Draw scores, signals and their relation to right and wrong, a file a figure; all kinds by default.

    \b
    distributions  each metric among right and among wrong answers
    roc            ROC curves with pointwise bootstrap bands
    coverage       risk-coverage curves
    correlation    Spearman's rho between metrics, like ones together
    curves         a signal along the answers, right and wrong, and its peaks
    profile        a (layer, token) signal, right, wrong and their difference
    influence      with --doc: influence of tokens, one row a method
    received       with --doc: attention that each token receives, by layer

    PATH is lm-eval's output folder or a store.

    Example: eval-ext plot OUT roc curves --metrics mean_entropy+mean_nll --out figures --data
    """  # noqa: D301  (click reads the backspace)
    unknown = next((kind for kind in kinds if kind not in looking.KINDS), None)
    if unknown is not None:
        raise click.ClickException(f"kind '{unknown}' is not known; choose {', '.join(looking.KINDS)}")
    chosen, _ = chosen_by([metrics_, *BASELINES], view)
    shown, _ = chosen_by([metrics_], view)
    store, source, labelled = _open(path, labels)
    held = list(dict.fromkeys(key.task for key in store.entries()))
    missing = next((task for task in view.tasks if task not in held), None)
    if missing is not None:
        raise click.ClickException(f"--task {missing}: {store.path} holds {', '.join(held) or 'no task'}")

    found = find_cases(store, source, chosen, view) if labelled else []

    @functools.cache
    def documents(way: Way) -> pd.DataFrame:
        return store.scores("answer_length", labels=source, span=view.span, norm=way.norm, filter=way.filter)

    @functools.cache
    def spanned(filter_: str | None) -> Store:
        return store.spanned(view.span, labels=source, filter=filter_)

    def way(case: Case | None) -> Way:
        plain = Way(filter=view.filter if view.span in FROM_FILTER else None)
        return way_of(case.task, case.verdict, documents(plain), (), view.span) if case else plain

    def unlabelled() -> dict[str, dict[str, np.ndarray]]:
        ours = [choice.id for choice in chosen if not is_outside(choice)]
        frame = join(store.scores(ours, span=view.span, filter=view.filter), chosen)
        return {task: oriented_scores(frame.loc[frame["task"] == task], shown) for task in view.tasks or held}

    request = looking.Request(
        store=spanned(view.filter),
        spanned=lambda case: spanned(way(case).filter),
        cases=[case for case, _ in found],
        frame=lambda case: documents(way(case)),
        scores=unlabelled,
        tasks=view.tasks or held,
        metrics=[choice.id for choice in shown],
        span=view.span,
        doc=doc,
        signals=signals_ or looking.SIGNALS,
        most=most,
        replicates=replicates,
        seed=seed,
        texts=functools.cache(lambda key: _texts(store, key, tokenizer)),
    )
    drawn = 0
    for kind in kinds or looking.KINDS:
        for picture in _said(kind, looking.KINDS[kind](request)):
            drawn += 1
            for file in save(picture, out, suffix=suffix, data=data):
                click.echo(f"wrote {file}", err=True)
    if not drawn:
        raise click.ClickException("nothing could be drawn; the lines above say why")


def _said(kind: str, found: Iterator[Picture | str]) -> Iterator[Picture]:
    """The pictures; what could not be drawn is said."""
    try:
        for one in found:
            if isinstance(one, str):
                click.echo(f"{kind}: {one}", err=True)
            else:
                yield one
    except ImportError as problem:
        raise click.ClickException(str(problem)) from None


def _open(path: Path, labels: Path | None) -> tuple[Store, Path | None, bool]:
    """The store, where its labels come from, and whether there are any: a store may be looked at without."""
    if labels is None and is_store(path):
        store = open_store(path)
        if not linked_results(store.manifest):
            click.echo(
                f"{path}: no result file of lm-eval is there, so right and wrong are not known; pass --labels", err=True
            )
            return store, None, False
    return *resolve(path, labels, "--labels"), True


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--doc", type=DOC, required=True, help="The document's number in its task.")
@click.option("--task", help="Its task, where several hold that number.")
@click.option("--sample", type=DOC, default=0, show_default=True, help="Which sample of it, with repeats.")
@click.option("--option", type=DOC, help="Which answer option of multiple choice; the model's choice by default.")
@click.option("--signal", "signals_", multiple=True, help="Signals to colour by; all that fit by default.")
@metrics_option
@labels_option
@span_option
@filter_option
@click.option("--norm", type=click.Choice(SCORE_NORMS), default="none", help="Option of acc, acc_norm or acc_bytes.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A model's folder or tokenizer.json.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The page.  [default: TASK-docN.html]")
def explain(
    path: Path,
    doc: int,
    task: str | None,
    sample: int,
    option: int | None,
    signals_: tuple[str, ...],
    metrics_: str,
    labels: Path | None,
    span: str,
    filter_: str | None,
    norm: str,
    tokenizer: Path | None,
    out: Path | None,
) -> None:
    """Make a page of one answer, its tokens coloured by any recorded signal, that any browser shows without a network.

    PATH is a store or lm-eval's output folder. Texts of tokens come from the tokenizer in the model's folder or the
    hub's cache.

    Example: eval-ext explain hf-store/demo --doc 7 --task counting_gen --out doc7.html
    """
    store, source, _ = _open(path, labels)
    key = looking.find_key(store, doc, task, sample, option, norm=norm)
    frame: pd.DataFrame = store.scores(metrics_, labels=source, span=span, norm=norm, filter=filter_)
    shown = store.spanned(span, labels=source, filter=filter_)
    page, said = make_page(shown, key, frame, choose(metrics_), signals_, tokenizer)
    for line in said:
        click.echo(line, err=True)
    name = "".join(c if c.isalnum() or c in "-_." else "_" for c in key.task)
    file = out or Path(f"{name}-doc{doc}.html")
    file.parent.mkdir(parents=True, exist_ok=True)
    text = render(page).encode("utf-8", "replace")
    file.write_bytes(text)
    click.echo(f"wrote {file} ({len(text) / 1e3:.0f} kB)", err=True)


def _texts(store: Store, key: Key, tokenizer: Path | None) -> list[str]:
    record = next(store.records(["tokens", "prompt_tokens"], [key]))
    texts, said = texts_of(store, record, tokenizer)
    if said:
        click.echo(said, err=True)
    return texts
