"""The commands `fit` and `apply`: train a classifier of wrong answers on a store, and score another store with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd

from metrics.cases import Way, among
from metrics.choosing import choose
from metrics.cli_cases import chosen_by, resolve, write
from metrics.cli_options import View, format_option, view_options
from metrics.cli_store import save_frame
from metrics.fitted.embeddings import attach, read_embeddings
from metrics.fitted.inputs import Inputs, inputs_of, other_layers, takes
from metrics.fitted.learn import Learnt, learn, probe_of
from metrics.fitted.methods import METHODS, Recipe, recipe
from metrics.fitted.nested import Scheme
from metrics.fitted.probe import FACTS, differs, load_probe, other_model, overlap, save_probe
from metrics.fitted.reading import Asked, read_rows, read_units
from metrics.fitted.report import fit_tables
from metrics.fitted.rows import Rows, pooled, usable
from metrics.fitted.transfer import show_transfer, split_by, transfer_table
from metrics.manifest import is_store
from metrics.outside import TAKES
from metrics.report import BASELINES
from metrics.store import Store, open_store

KEYS = ["task", "doc_id", "sample"]


@click.command(epilog="Methods: " + ", ".join(METHODS) + ".")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--method", required=True, help="A method, with options as in saplma(at=mean).")
@click.option("--inputs", "inputs_text", default="", help="Of boosting: metrics, presets and families joined by +.")
@click.option("--layers", default="", help="Layers of states to choose among: all, 4+8, last:4, 0.5.")
@click.option("--target", help="Learn wrong, or high values of this metric; semantic_entropy for its probe.")
@click.option("--embeddings", type=click.Path(path_type=Path), help="Of aseu: an npz of embedded samples.")
@click.option("--samples", type=click.Path(path_type=Path), help="lm-eval's output, when the one PATH is a store.")
@click.option("--labels", type=click.Path(path_type=Path), help="A jsonl or csv with doc_id and correct, for one PATH.")
@view_options
@click.option("--group", default="", help="Documents with equal values of this field stay in one fold.")
@click.option("--folds", type=click.IntRange(min=2), default=5, show_default=True, help="Folds that judge.")
@click.option("--inner", type=click.IntRange(min=2), default=3, show_default=True, help="Folds within, that choose.")
@click.option("--calibrate", type=click.Choice(["isotonic", "platt"]), help="Make scores probabilities of being wrong.")
@click.option("--against", default="mean_nll", show_default=True, help="A metric without fitting to test against.")
@click.option("--transfer", is_flag=True, help="Fit on each task, store or --split part, and score on each.")
@click.option("--split", "split_text", help="Parts of documents by a field: FIELD, or 'FIELD<=8'; with --transfer.")
@click.option("--seed", default=0, show_default=True, help="Of folds and estimators.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Save the probe in this new folder.")
@click.option("--scores-out", type=click.Path(path_type=Path, dir_okay=False), help="Write out-of-fold scores (.csv).")
@format_option
@click.option("--tables-out", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables here.")
def fit(
    paths: tuple[Path, ...],
    method: str,
    inputs_text: str,
    layers: str,
    target: str | None,
    embeddings: Path | None,
    samples: Path | None,
    labels: Path | None,
    view: View,
    group: str,
    folds: int,
    inner: int,
    calibrate: str | None,
    against: str,
    transfer: bool,
    split_text: str | None,
    seed: int,
    out: Path | None,
    scores_out: Path | None,
    format_: str,
    tables_out: Path | None,
) -> None:
    """Train a classifier of wrong answers on what was recorded, and judge it on documents it was not fitted on.

    PATHS are lm-eval's output folders or stores; several with --transfer. Layer and strength are chosen by folds within
    the folds that judge. Several tasks are pooled when each is named by --task.

    Example: eval-ext fit OUT --method saplma --out probe --scores-out probe.csv
    """
    chosen = recipe(method)
    learnt_target = _target(chosen, target)
    if samples is not None and labels is not None:
        raise click.ClickException(f"--samples {samples} and --labels {labels}: give one source of right and wrong")
    _check(paths, samples or labels, transfer, split_text, out, scores_out)
    beside, baseline = chosen_by(BASELINES, view, against)
    wanted = among(view.tasks, view.label, view.filter)
    asked = Asked(wanted, view.span, view.threshold, group, learnt_target, tuple(beside))
    scheme = Scheme(folds, inner, seed)
    parts, inputs, store = _read(paths, samples or labels, chosen, layers, inputs_text, asked)
    if embeddings is not None:
        vectors = read_embeddings(embeddings)
        parts = [attach(part, vectors) for part in parts]
    parts, inputs = usable(parts, inputs)
    if transfer:
        if split_text:
            parts = [piece for part in parts for piece in split_by(part, split_text)]
        if len(parts) < 2:
            raise click.ClickException("--transfer: one task of one store; give several, or --split FIELD")
        table = transfer_table(parts, inputs, chosen, scheme, against=str(baseline), calibration=calibrate or "")
        write([table], format_, tables_out, show_transfer)
        return
    if len(parts) > 1 and not view.tasks:
        named = " ".join(f"--task {part.name}" for part in parts)
        raise click.ClickException(f"several tasks: name one, or pool them by {named}, or compare them by --transfer")
    learnt = learn(pooled(parts), inputs, chosen, scheme, calibrate or "")
    write(fit_tables(learnt, scheme, against=str(baseline), target=learnt_target or "wrong"), format_, tables_out)
    if out is not None:
        save_probe(probe_of(learnt, store.manifest, scheme, span=view.span, target=learnt_target or "wrong"), out)
        click.echo(f"wrote {out}, fitted on all {len(learnt.rows)} documents", err=True)
    if scores_out is not None:
        name = out.name if out is not None else scores_out.stem
        cost = takes(inputs, max(key.occurrence for key in store.entries()) + 1)
        _write_scores(learnt, f"{chosen.id}@{name}", cost, scores_out)


def _target(chosen: Recipe, given: str | None) -> str:
    """The metric to learn high values of; empty for wrong answers (and for embeddings)."""
    if chosen.method.target == "embeddings" and given not in (None, "wrong"):
        raise click.ClickException(f"--target {given}: {chosen.id} learns from embeddings of samples")
    default = "semantic_entropy" if chosen.method.target == "semantic_entropy" else "wrong"
    word = given or default
    if word == "wrong":
        return ""
    learnt = choose(word)
    if len(learnt) != 1:
        raise click.ClickException(f"--target {word}: that is {len(learnt)} metrics; name one")
    return learnt[0].id


def _check(
    paths: tuple[Path, ...],
    given: Path | None,
    transfer: bool,
    split_text: str | None,
    out: Path | None,
    scores_out: Path | None,
) -> None:
    if transfer and (out is not None or scores_out is not None):
        raise click.ClickException("--transfer fits several models; leave --out and --scores-out out")
    if given is not None and len(paths) > 1:
        raise click.ClickException(f"{given}: one source of labels for {len(paths)} paths; give lm-eval's outputs")
    if not transfer and len(paths) > 1:
        raise click.ClickException(f"{len(paths)} paths: one is fitted on, unless --transfer")
    if split_text and not transfer:
        raise click.ClickException("--split: give --transfer too")
    if out is not None and (out / FACTS).exists():
        raise click.ClickException(f"--out {out}: it holds a probe already; give another, or remove it")
    if scores_out is not None and scores_out.suffix not in (".csv", ".jsonl"):
        raise click.ClickException(f"--scores-out {scores_out}: the ending must be .csv or .jsonl")


def _read(
    paths: tuple[Path, ...], given: Path | None, chosen: Recipe, layers: str, metrics: str, asked: Asked
) -> tuple[list[Rows], Inputs, Store]:
    """The labelled documents of each task of each store, all with the inputs of the first store."""
    opened = [resolve(path, given) for path in paths]
    first = opened[0][0]
    inputs = inputs_of(chosen, first.manifest, layers, metrics)
    short = len({path.name for path in paths}) == len(paths)
    parts = []
    for path, (store, source) in zip(paths, opened):
        if strange := other_layers(inputs, first.manifest, store.manifest):
            raise click.ClickException(f"{path}: {strange}; record both alike, or choose a method that reads states")
        other = other_model(store.manifest, first.manifest)
        if other and not chosen.method.portable:
            raise click.ClickException(f"{path} is {other}: {chosen.method.name} reads the insides of one model")
        for rows in read_rows(store, inputs, source, asked):
            name = f"{path.name if short else path}/{rows.name}"
            parts.append(rows if len(paths) == 1 else replace(rows, name=name))
    return parts, inputs, first


def _write_scores(learnt: Learnt, name: str, cost: str, file: Path) -> None:
    rows = learnt.rows
    frame = pd.DataFrame({"task": rows.task, "doc_id": rows.doc_id, "sample": 0, name: learnt.out_of_fold})
    frame[TAKES] = cost
    save_frame(frame, file)
    click.echo(f"wrote {file}: out-of-fold scores of {len(frame)} documents, column {name}", err=True)


@click.command()
@click.argument("probe", type=click.Path(path_type=Path))
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option("--other-model", is_flag=True, help="Score a store of another model; for inputs that allow it.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="A .csv or .jsonl file.")
def apply(probe: Path, store: Path, tasks: tuple[str, ...], other_model: bool, out: Path) -> None:
    """Score every answer of a store with a probe that `eval-ext fit` saved; labels are not needed.

    STORE is a store or lm-eval's output folder. High means uncertain. The file is for --scores of the table commands.

    Example: eval-ext apply probe OUT2 --out scores.csv
    """
    if out.suffix not in (".csv", ".jsonl"):
        raise click.ClickException(f"--out {out}: the ending must be .csv or .jsonl")
    made = load_probe(probe)
    opened, source = (open_store(store), None) if is_store(store) else resolve(store, None)
    other = differs(made, opened.manifest)
    if other and not made.portable:
        raise click.ClickException(f"{store} is {other}: {made.id} reads that model's insides, so fit it anew")
    if other and not other_model:
        raise click.ClickException(f"{store} is {other}; pass --other-model to score it all the same")
    if strange := other_layers(made.inputs, made.store, opened.manifest):
        raise click.ClickException(f"{store}: {strange}; record it with those layers, or fit anew")
    if opened.manifest.get("dtype") != made.store.get("dtype"):
        click.echo(
            f"Warning: recorded in {opened.manifest.get('dtype')}, fitted on {made.store.get('dtype')}", err=True
        )
    units = read_units(opened, made.inputs, source=source, span=made.span, way=Way(made.norm, made.filter))
    kept = units.frame["task"].isin(tasks).to_numpy() if tasks else np.ones(len(units.frame), dtype=bool)
    if not kept.any():
        held = ", ".join(sorted(set(units.frame["task"]))) or "no task"
        raise click.ClickException(f"--task {', '.join(tasks)}: not in {store}, which holds {held}")
    name = f"{made.id}@{probe.resolve().name}"
    cost = takes(made.inputs, int(units.frame["sample"].max()) + 1)
    frame = units.frame.loc[kept, KEYS].assign(**{name: made.scores(units.x[kept]), TAKES: cost})
    save_frame(frame, out)
    click.echo(f"wrote {out}: {len(frame)} answers, column {name}", err=True)
    seen = overlap(made, [h for h, k in zip(units.hashes, kept) if k])
    if seen:
        click.echo(
            f"Warning: {seen} of {len(frame)} answers are of documents that the probe was fitted on, so their scores "
            "are in-sample; for those take the file of eval-ext fit --scores-out",
            err=True,
        )
    unscored = int(frame[name].isna().sum())
    if unscored:
        why = "; ".join(
            f"{input_}: {reason} ({count})"
            for input_, counts in units.reasons.items()
            for reason, count in counts.items()
        )
        click.echo(f"{unscored} of {len(frame)} unscored: {why or 'an input is infinite'}", err=True)
