"""The command `samples`: what other models make of a store's answers, once, so that scoring needs none."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metrics.annex import CLUSTERS, FOLDER, parts_of, read_clusters, write_clusters
from metrics.annex_keep import has_annex
from metrics.lock import Lock
from metrics.meanings import EQUIVALENCES, RULES
from metrics.store import Store

if TYPE_CHECKING:
    from lm_eval_ext.annexing import Recipe, Work
    from lm_eval_ext.readers import Reader
    from lm_eval_ext.samples_input import Entries

DTYPES = ("float32", "bfloat16", "float16")
PATH = click.Path(path_type=Path)


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.argument("out", type=PATH)
@click.option("--encoder", help="Embed the answers: a layer-wrapper name, a model of the hub, or a folder.")
@click.option(
    "--embed", type=click.Choice(("answer", "both")), default="answer", help="The answer, or both it and the question."
)
@click.option(
    "--threshold", type=click.FloatRange(-1, 1), help="Cosine from which two answers are in one cluster; 0.9."
)
@click.option("--nli", help="Entailment between samples: a classifier with MNLI's three labels.")
@click.option("--equivalence", type=click.Choice(EQUIVALENCES), help="When two answers mean the same; strict.")
@click.option("--rule", type=click.Choice(RULES), help="How like answers become clusters; components.")
@click.option("--bertscore", help="BERTScore between samples: an encoder.")
@click.option("--bertscore-layer", type=int, help="Its layer; the authors' choice, or the last.")
@click.option("--relevance", help="Relevance of tokens: a cross-encoder with one output, or encoder:NAME.")
@click.option("--question", default="auto", help="What stands before answers: a document's field, or none.")
@click.option(
    "--samples", "log", type=PATH, help="lm-eval's output that logs the documents; by default what OUT names."
)
@click.option("--tokenizer", type=PATH, help="The evaluated model's folder or tokenizer.json, for --relevance.")
@click.option("--device", help="As torch names it; by default the first GPU, else the CPU.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--redo", is_flag=True, help="Make what is asked for anew, also where it is there.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def samples(out: Path, **given: Any) -> None:
    """Let other models read the samples of OUT once, and keep what they say in STORE/annex, beside the shards.

    OUT is lm-eval's output folder or a store, recorded with repeats. Afterwards every command scores metrics of samples
    without these models. What is done is not asked again, also after a run that was killed.

    Example: eval-ext samples OUT --nli microsoft/deberta-v2-xlarge-mnli
    """
    named = [name for name in ("encoder", "nli", "bertscore", "relevance") if given[name]]
    clusters = _clusters(given)
    if not named and not clusters:
        raise click.ClickException("nothing is asked for; give --encoder, --nli, --bertscore or --relevance NAME")
    from lm_eval_ext.samples_input import comparable, store_at

    store = store_at(out)
    if not named and not has_annex(store.path):
        raise click.ClickException(f"{store.path / FOLDER} holds nothing to cluster; give --encoder or --nli NAME")
    entries = comparable(store, alone=named == ["relevance"], say=_say)
    with _locked(store):
        if named:
            _make(store, entries, out, given)
        if clusters and not given["dry_run"]:
            held = read_clusters(store.path)
            write_clusters(store.path, {kind: {**held[kind], **clusters.get(kind, {})} for kind in held})
        for kind, how in read_clusters(store.path).items():
            if parts_of(store.path, kind):
                _say(f"clusters by {kind}: {', '.join(f'{name} {value}' for name, value in how.items())}")


def _clusters(given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What the options say of clusters, by kind."""
    found = {kind: {name: given[name] for name in how if given[name] is not None} for kind, how in CLUSTERS.items()}
    return {kind: how for kind, how in found.items() if how}


@contextmanager
def _locked(store: Store) -> Iterator[None]:
    """One writer of the annex at a time; what a killed one left half written goes."""
    folder = store.path / FOLDER
    folder.mkdir(exist_ok=True)
    lock = Lock(folder / "lock", option="store")
    try:
        for left in folder.glob(".*.tmp"):
            left.unlink()
        yield
    finally:
        lock.release()


def _make(store: Store, entries: Entries, out: Path, given: Mapping[str, Any]) -> None:
    from tqdm import tqdm

    from lm_eval_ext.annexing import documents_of, make, work
    from lm_eval_ext.samples_input import questions_of

    asked = given["nli"] or given["relevance"] or (given["encoder"] and given["embed"] == "both")
    questions = questions_of(given["log"] or out, entries, given["question"], _say) if asked else {}
    documents = documents_of(entries, questions)
    made = _recipes(store, entries, given)
    todo = [
        work(store.path, recipe, documents, entries, redo=given["redo"], dry=given["dry_run"]) for recipe, _ in made
    ]
    for one in todo:
        _say(_described(one))
    if given["dry_run"]:
        return
    for one in todo:
        with tqdm(total=len(one.documents), desc=one.recipe.kind, unit="doc", leave=False, disable=None) as bar:
            make(store.path, one, entries, bar.update)
    for _, reader in made:
        if reader is not None and reader.cut:
            _say(
                f"{reader.name}: {reader.cut} texts are longer than the {reader.limit} tokens that it reads; their "
                "beginnings were left out"
            )


def _recipes(store: Store, entries: Entries, given: Mapping[str, Any]) -> Sequence[tuple[Recipe, Reader | None]]:
    from lm_eval_ext import recipes
    from lm_eval_ext.readers import Setting, default_device
    from lm_eval_ext.samples_input import decoder, tokens_of

    setting = Setting(given["device"] or default_device(), given["dtype"], given["batch_size"])
    source = given["question"]

    def relevance(name: str) -> tuple[Recipe, Reader | None]:
        tokens = tokens_of(store, entries)
        decode = decoder(store, given["tokenizer"], tokens, entries, _say)
        return recipes.token_relevance(name, setting, tokens, entries, decode, source=source)

    made: dict[str, Callable[[str], tuple[Recipe, Reader | None]]] = {
        "encoder": lambda n: (recipes.embedding(n, setting, question=given["embed"] == "both", source=source), None),
        "nli": lambda n: recipes.nli(n, setting, source=source),
        "bertscore": lambda n: recipes.bert_score(n, setting, layer=given["bertscore_layer"]),
        "relevance": relevance,
    }
    return [recipe(given[option]) for option, recipe in made.items() if given[option]]


def _described(todo: Work) -> str:
    """What will be done, in one line."""
    things = "texts" if todo.recipe.kind == "embedding" else "pairs"
    done = f", {todo.done} are done" if todo.done else ""
    count = len(todo.documents)
    if not count:
        return f"{todo.recipe.kind} by {todo.recipe.facts['model']}: nothing to do{done}"
    return (
        f"{todo.recipe.kind} by {todo.recipe.facts['model']}: {count} documents, {todo.wanted} {things}, "
        f"{todo.distinct} of them different{done}"
    )
