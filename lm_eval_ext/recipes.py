"""The kinds of the annex, each as a recipe: what is asked of which model, and what is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from lm_eval_ext import bertscore, entailment
from lm_eval_ext.annexing import Document, Recipe
from lm_eval_ext.readers import Reader, Setting
from lm_eval_ext.relevance import Pair, load_similarity, relevance, similarities, without
from lm_eval_ext.samples_input import answered
from metrics.pieces import Decode, spells
from metrics.providers import Encoder, load
from metrics.record import Key, Span

ENCODER = "encoder:"
"""In front of the name of an encoder of texts, where a cross-encoder is expected."""


def embedding(name: str, setting: Setting, *, question: bool, source: str) -> Recipe:
    """A vector of each answer, or of question and answer."""
    encoder = _encoder(name, setting)

    def wants(document: Document) -> list[str]:
        return [document.asked(text) if question else text for text in document.texts]

    def put(document: Document, answer: Callable[[str], Tensor]) -> list[Tensor]:
        return [answer(text) for text in wants(document)]

    facts = {**_named(encoder), "text": "question and answer" if question else "answer"}
    return Recipe("embedding", {**facts, **_asked(source, question)}, wants, partial(_embedded, encoder), put)


def nli(name: str, setting: Setting, *, source: str) -> tuple[Recipe, Reader]:
    """The relation of each ordered pair of samples, a sample with itself included."""
    reader, order = entailment.load_nli(name, setting)

    def wants(document: Document) -> list[Pair]:
        asked = [document.asked(text) for text in document.texts]
        return [(one, other) for one in asked for other in asked]

    def put(document: Document, answer: Callable[[Pair], Tensor]) -> list[Tensor]:
        count = len(document.texts)
        return [torch.stack([answer(pair) for pair in wants(document)]).reshape(count, count, 3)]

    facts = {**_read(reader, setting), **_asked(source)}
    return Recipe("nli", facts, wants, partial(entailment.probabilities, reader, order), put), reader


def bert_score(name: str, setting: Setting, *, layer: int | None) -> tuple[Recipe, Reader]:
    """BERTScore's F1 of each pair of samples; 1 for equal texts."""
    reader, chosen = bertscore.load_bertscore(name, layer, setting)

    def wants(document: Document) -> list[Pair]:
        return [(a, b) for a, b in product(document.texts, repeat=2) if a < b]

    def put(document: Document, answer: Callable[[Pair], Tensor]) -> list[Tensor]:
        one = torch.ones(())
        cells = [one if a == b else answer((min(a, b), max(a, b))) for a, b in product(document.texts, repeat=2)]
        return [torch.stack(cells).reshape(len(document.texts), -1)]

    facts = {**_read(reader, setting), "layer": chosen}
    return Recipe("bertscore", facts, wants, partial(bertscore.f1, reader, chosen), put), reader


def token_relevance(
    name: str,
    setting: Setting,
    tokens: Mapping[Key, Tensor],
    entries: Mapping[Key, Mapping[str, Any]],
    decode: Decode,
    *,
    source: str,
) -> tuple[Recipe, Reader | None]:
    """The relevance of each token, by a cross-encoder or, ``encoder:NAME``, by the cosine of two embeddings.

    NaN for a record whose tokens do not spell its answer, as those of another tokenizer.
    """
    reader: Reader | None = None
    if name.startswith(ENCODER):
        encoder = _encoder(name.removeprefix(ENCODER), setting)
        facts, ask = _named(encoder), partial(_cosines, encoder)
    else:
        reader = load_similarity(name, setting)
        facts, ask = _read(reader, setting), partial(similarities, reader)

    @lru_cache(maxsize=8192)
    def texts(key: Key) -> tuple[str, dict[int, str]] | None:
        entry = entries[key]
        if not spells(answered(tokens[key], entry), entry["answer"], decode):
            return None
        return without(tokens[key].tolist(), Span(*entry["spans"].get("answer", (0, 0))), decode)

    def wants(document: Document) -> list[Pair]:
        found = [texts(key) for key in document.keys]
        return [
            (document.asked(whole), document.asked(text)) for whole, cut in filter(None, found) for text in cut.values()
        ]

    def put(document: Document, answer: Callable[[Pair], Tensor]) -> list[Tensor]:
        def similarity(pair: Pair) -> Tensor:
            return answer((document.asked(pair[0]), document.asked(pair[1])))

        made = []
        for key in document.keys:
            found, count = texts(key), entries[key]["token_count"]
            made.append(torch.full((count,), torch.nan) if found is None else relevance(count, *found, similarity))
        return made

    return Recipe("relevance", {**facts, **_asked(source)}, wants, ask, put), reader


def _encoder(name: str, setting: Setting) -> Encoder:
    return load("encoder")(name, batch_size=setting.batch_size, device=setting.device)


def _embedded(encoder: Encoder, texts: Sequence[str]) -> list[Tensor]:
    return list(torch.from_numpy(encoder.encode(texts)).float())


def _cosines(encoder: Encoder, pairs: Sequence[Pair]) -> list[Tensor]:
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    unit = torch.nn.functional.normalize(torch.from_numpy(encoder.encode(texts)).float(), dim=-1)
    at = dict(zip(texts, unit))
    return [at[one] @ at[other] for one, other in pairs]


def _named(encoder: Encoder) -> dict[str, Any]:
    return {"model": encoder.name, "revision": encoder.revision}


def _read(reader: Reader, setting: Setting) -> dict[str, Any]:
    return {"model": reader.name, "revision": reader.revision, "dtype": setting.dtype}


def _asked(source: str, used: bool = True) -> dict[str, str]:
    """Which question stands before the answers."""
    return {"question": source if used else "none"}
