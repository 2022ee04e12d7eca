"""What the command `samples` reads of a store: answers that can be compared, their questions, their tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from metrics.logged import PROMPT, question_of, read_logged, results_at
from metrics.manifest import is_store
from metrics.pieces import Decode, find_tokenizer, open_tokenizer, spells
from metrics.record import Key
from metrics.results import find_results, store_of
from metrics.sampled import GREEDY, greedy
from metrics.samples import GENERATED
from metrics.store import Store, open_store

AUTO, NONE = "auto", "none"
"""Instead of a document's field: the first of the usual ones, or the prompt; and no question at all."""

Entries = Mapping[Key, Mapping[str, Any]]
Say = Callable[[str], object]


def store_at(path: Path) -> Store:
    """The store that a path means: itself, or the one that lm-eval's output names.

    Raises:
        OSError: there is none.
        ValueError: the results were not made with hf-store.
    """
    if is_store(path):
        return open_store(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give lm-eval's --output_path or a store")
    results = find_results(path)
    linked = store_of(results)
    if not linked:
        raise ValueError(f"{results} was not made with --model hf-store, so nothing was recorded; run it again so")
    return open_store(linked["store"])


def comparable(store: Store, *, alone: bool, say: Say) -> Entries:
    """The entries of generated answers whose texts are stored, of tasks with several samples that are draws.

    Args:
        store: the store.
        alone: whether one sample a document will do, as for the relevance of tokens.
        say: is told of each task that is left out.

    Raises:
        ValueError: nothing is left; the message says why.
    """
    generated = {key: entry for key, entry in store.entries().items() if key.kind == GENERATED}
    if not generated:
        raise ValueError(f"{store.path} holds no generated answers; samples come of generate_until tasks")
    texts = {key: entry for key, entry in generated.items() if isinstance(entry["answer"], str)}
    if not texts:
        raise ValueError(f"{store.path} keeps no texts (store_text=no), so there is nothing to read; record with texts")
    most: Counter[str] = Counter()
    for key in texts:
        most[key.task] = max(most[key.task], key.occurrence + 1)
    why: dict[str, str] = {}
    for task in most if not alone else ():
        if most[task] < 2:
            why[task] = f"{task} has one sample a document; record with repeats"
        elif greedy(store.manifest, task):
            why[task] = f"{task} was {GREEDY}"
    if len(why) == len(most):
        raise ValueError(f"{store.path}: {next(iter(why.values()))}")
    for reason in why.values():
        say(f"left out: {reason}")
    return {key: entry for key, entry in texts.items() if key.task not in why}


def questions_of(path: Path, entries: Entries, wanted: str, say: Say) -> dict[tuple[str, str], str]:
    """The question of each document, by task and hash of the document.

    Args:
        path: lm-eval's output with its logged samples, or a store that names it.
        entries: whose documents are meant.
        wanted: a field of the documents, `AUTO` or `NONE`.
        say: is told where the questions come from.

    Raises:
        ValueError: the log lacks documents, or a document the field.
        OSError: there is no log.
    """
    if wanted == NONE:
        return {}
    remedy = "pass lm-eval's output of a run with --log_samples as --samples OUT, or --question none"
    try:
        logged = read_logged(results_at(path))
    except (FileNotFoundError, ValueError) as problem:
        raise ValueError(f"the questions are not known: {problem}; {remedy}") from None
    needed = {(key.task, entry["doc_hash"]) for key, entry in entries.items()}
    found: dict[tuple[str, str], str] = {}
    where: Counter[str] = Counter()
    for document in logged:
        name = document.task, document.doc_hash
        if name in needed and name not in found:
            found[name], source = question_of(document, None if wanted == AUTO else wanted)
            where[source if source == PROMPT else f"field {source}"] += 1
    if len(found) < len(needed):
        raise ValueError(f"the log lacks {len(needed) - len(found)} of {len(needed)} documents' questions; {remedy}")
    say(f"questions: {', '.join(f'{source} of {count} documents' for source, count in where.items())}")
    return found


def tokens_of(store: Store, entries: Entries) -> dict[Key, Tensor]:
    """The token ids of each record.

    Raises:
        ValueError: the store does not hold them of every record.
    """
    found = {
        record.key: record.signals["tokens"]
        for record in store.records(["tokens"], entries)
        if "tokens" in record.signals
    }
    if len(found) < len(entries):
        raise ValueError(
            f"{store.path} lacks the token ids of {len(entries) - len(found)} records; --relevance needs them"
        )
    return found


def decoder(store: Store, tokenizer: Path | None, tokens: Mapping[Key, Tensor], entries: Entries, say: Say) -> Decode:
    """How the evaluated model's ids become text.

    Args:
        store: the store.
        tokenizer: where to look for the tokenizer instead of where the manifest says.
        tokens: the ids of each record.
        entries: the same records' entries.
        say: is told how many records have ids that do not spell their answers.

    Raises:
        ValueError: no tokenizer is at hand, or it is another model's: no answer is what the ids spell.
    """
    file = find_tokenizer(store.manifest, tokenizer)
    decode = open_tokenizer(file)[0]
    odd = sum(not spells(answered(ids, entries[key]), entries[key]["answer"], decode) for key, ids in tokens.items())
    if odd == len(tokens):
        raise ValueError(f"{file}: the recorded ids do not spell the answers; pass --tokenizer of the evaluated model")
    if odd:
        say(f"{odd} of {len(tokens)} answers are not what their ids spell; their relevance is NaN")
    return decode


def answered(ids: Tensor, entry: Mapping[str, Any]) -> list[int]:
    """The ids of a record's answer."""
    return ids[slice(*entry["spans"].get("answer", (0, 0)))].tolist()
