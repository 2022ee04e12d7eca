"""The command `eval-ext domains`: where a model is likely weak, by clusters of its questions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click
import numpy as np
import pandas as pd

from metrics import clusters, domains, providers, stats
from metrics.choosing import choose
from metrics.cli_cases import NORMS, find_cases, resolve, say_unused, write
from metrics.cli_options import View, format_option, out_option, source_options, view_options
from metrics.core import Choice
from metrics.domain_answers import LENGTH, Verdict, answers_of, one_a_task, read_embeddings
from metrics.domain_report import Found, domain_table, show_domains
from metrics.domains import Answers, Prediction
from metrics.frame import by_filter
from metrics.logged import read_logged, results_at
from metrics.outside import is_outside, join

WORDS = "words"
"""The encoder that needs no model."""


@click.command("domains")
@source_options
@click.option("--metric", default="mean_entropy", show_default=True, help="The uncertainty, one metric.")
@click.option("--encoder", default=WORDS, show_default=True, help="A layer-wrapper model or folder; words: no model.")
@click.option("--embeddings", type=click.Path(path_type=Path, dir_okay=False), help="An .npz of vectors instead.")
@click.option("--device", help="Where the encoder runs, as torch names it.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Of the encoder.")
@click.option("--clusters", "counts", default="2-12", show_default=True, help="How many, or a range to choose from.")
@click.option("--min-size", type=click.IntRange(min=1), default=20, show_default=True, help="Questions of a cluster.")
@click.option("--question", help="The documents' field with the question; else a usual name, else the prompt.")
@view_options
@click.option("--no-labels", is_flag=True, help="Use no label, as if there were none.")
@click.option("--calibrate-on", type=click.Path(path_type=Path), help="Another labelled run, to predict errors from.")
@click.option("--method", type=click.Choice(["platt", "isotonic"]), default="platt", show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of the clusters and of everything else drawn.")
@format_option
@out_option
@click.option("--plot", type=click.Path(path_type=Path, file_okay=False), help="Save a figure here.")
def domains_command(
    path: Path,
    given: Path | None,
    metric: str,
    encoder: str,
    embeddings: Path | None,
    device: str | None,
    batch_size: int,
    counts: str,
    min_size: int,
    question: str | None,
    view: View,
    no_labels: bool,
    calibrate_on: Path | None,
    method: Literal["platt", "isotonic"],
    seed: int,
    format_: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Cluster the questions and say in which domains the model is likely weak, and how far to trust that.

    PATH is lm-eval's output folder or result file, or a store. Clusters are made of the questions alone. Without
    labels, clusters are ranked by their uncertainty; errors are predicted where there is something to fit on: another
    run's labels (--calibrate-on), or the other clusters' labels, which each cluster's own then check.

    Example: eval-ext domains OUT --metric mean_entropy --encoder sentence-transformers/all-MiniLM-L6-v2 --plot figures
    """
    choice = _one(metric, view)
    tried = _counts(counts)
    store, source = resolve(path, given)
    filter_ = view.filter if by_filter([choice], view.span) else None
    ids = [LENGTH] if is_outside(choice) else [choice.id, LENGTH]
    frame = store.scores(ids, labels=source, span=view.span, filter=filter_)
    norm = _norm(frame, view)
    if norm != "none":
        frame = store.scores(ids, labels=source, span=view.span, norm=norm, filter=filter_)
    frame = join(frame, [choice])
    say_unused(frame)
    logged = read_logged(results_at(given if given is not None and given.suffix in ("", ".json") else path))
    verdict = Verdict(view.tasks, view.label, view.filter, view.threshold, no_labels)
    answers, keys, lost, sources = answers_of(store, frame, choice, verdict, logged, question)
    if lost:
        click.echo(
            f"{lost} of {lost + len(keys)} answers are left out, their questions are not in the samples", err=True
        )
    for task, names in sources.items():
        click.echo(f"{task}: clustered by {', '.join(names)}", err=True)
    vectors, by = _vectors(answers.text, keys, encoder, embeddings, device, batch_size, seed)
    clustering = clusters.find_clusters(vectors, tried, least=1 if len(tried) == 1 else min_size, seed=seed)
    found = Found(clustering, by, len(tried) == 1, min_size, seed, clusters.stability(vectors, clustering, seed=seed))
    predicted, how = _predicted(answers, clustering.labels, choice, calibrate_on, method, view)
    rows = domains.rows_of(
        answers, clustering.labels, predicted, confident=choice.metric.higher == "confident", seed=seed
    )
    words, at = clusters.marking_words(answers.text, clustering.labels), clusters.examples(vectors, clustering)
    for row in rows:
        row |= {"words": words[row["cluster"]], "example": answers.text[at[row["cluster"]]]}
    held = domains.trust(answers, clustering.labels, rows, seed=seed) if answers.labelled else None
    table = domain_table(rows, found, choice.id, predicted, how, held)
    write([table], format_, out, show_domains)
    if plot is not None:
        _plot(rows, choice.id, f"{len(answers.text):,} questions of {', '.join(sorted(set(answers.task)))}", plot)


def _norm(frame: pd.DataFrame, view: View) -> str:
    """Which option of multiple choice the scores are of: the one that the verdict is about, where there is one."""
    names = {c.removeprefix("label:").partition("@")[0] for c in frame.columns if c.startswith("label:")}
    norms = {NORMS.get(name, "none") for name in ({view.label} if view.label else names)}
    return norms.pop() if len(norms) == 1 else "none"


def _one(name: str, view: View) -> Choice:
    """The metric that ``--metric`` names, of ours or of ``--scores``."""
    others = {choice.id: choice for choice in view.outside()}
    chosen = [others[name]] if name in others else choose(name)
    if len(chosen) != 1:
        raise click.ClickException(f"--metric {name}: that is {len(chosen)} metrics; name one")
    if chosen[0].metric.higher == "neutral":
        raise click.ClickException(f"--metric {name}: it has no direction, so no cluster is more uncertain by it")
    return chosen[0]


def _counts(text: str) -> list[int]:
    found = re.fullmatch(r"(\d+)(?:-(\d+))?", text)
    if found is None or not 2 <= int(found[1]) <= int(found[2] or found[1]):
        raise click.ClickException(f"--clusters {text}: give a number from 2 on, or a range such as 2-12")
    return list(range(int(found[1]), int(found[2] or found[1]) + 1))


def _vectors(
    texts: Sequence[str],
    keys: Sequence[tuple[str, int]],
    encoder: str,
    embeddings: Path | None,
    device: str | None,
    batch_size: int,
    seed: int,
) -> tuple[np.ndarray, str]:
    """Unit vectors of the questions, and what they are made by."""
    if embeddings is not None:
        return clusters.unit(read_embeddings(embeddings, keys)), f"the vectors of {embeddings.name}"
    if encoder == WORDS:
        how = f"their words (TF-IDF, {clusters.DIMENSIONS} dimensions; --encoder takes a model)"
        return clusters.unit(clusters.word_vectors(texts, seed=seed)), how
    made = providers.load("encoder")(encoder, batch_size=batch_size, device=device)
    revision = f", revision {made.revision[:12]}" if made.revision else ""
    return clusters.unit(made.encode(texts)), f"embeddings of {made.name}{revision}"


def _predicted(
    answers: Answers,
    labels: np.ndarray,
    choice: Choice,
    elsewhere: Path | None,
    method: Literal["platt", "isotonic"],
    view: View,
) -> tuple[Prediction | None, str]:
    """The predicted errors and how they were made, in words."""
    named = {"platt": "Platt scaling", "isotonic": "isotonic regression"}[method]
    if elsewhere is not None:
        store, source = resolve(elsewhere, None, "--calibrate-on")
        found = one_a_task([case for case, _ in find_cases(store, source, [choice], view._replace(tasks=()))])
        pairs = [(case.scores[choice.id], case.wrong) for case in found if choice.id in case.scores]
        score = np.concatenate([np.zeros(0), *(of for of, _ in pairs)])
        wrong = np.concatenate([np.zeros(0), *(bad.astype(float) for _, bad in pairs if bad is not None)])
        kept = ~np.isnan(score)
        curve, why = domains.curve_of(score[kept], wrong[kept], stats.FITS[method])
        if curve is None:
            raise click.ClickException(f"--calibrate-on {elsewhere}: {why}")
        of = np.full(len(answers.score), np.nan)
        scored = ~np.isnan(answers.score)
        of[scored] = curve(answers.score[scored])
        tasks = ", ".join(case.task for case in found)
        how = f"Predicted error: {named}, fitted on {kept.sum():,} labelled answers of {elsewhere} ({tasks})."
        return Prediction(of, "elsewhere"), how
    if answers.labelled:
        how = f"Predicted error: {named}, fitted on the labelled answers of the other clusters."
        return domains.crossed(answers, labels, stats.FITS[method]), how
    if (own := domains.own(answers, choice)) is not None:
        return own, f"Predicted error: {choice.id} is a probability and is taken as it is."
    return None, f"No predicted error: {choice.id} is no probability and only ranks; --calibrate-on RUN fits one."


def _plot(rows: Sequence[dict[str, Any]], metric: str, title: str, folder: Path) -> None:
    try:
        from metrics.drawing import save
        from metrics.figures.domains import domains as drawn

        for file in save(drawn(rows, metric, title), folder, data=True):
            click.echo(f"wrote {file}", err=True)
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'eval-ext[plots]'") from None
