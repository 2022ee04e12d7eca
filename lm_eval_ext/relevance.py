"""How much each token matters to its answer: the similarity of the text with and without it (SAR, arXiv:2307.01379)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification

from lm_eval_ext.readers import Reader, Setting, load_reader
from metrics.pieces import Decode, pieces
from metrics.record import Span

Pair = tuple[str, str]


def load_similarity(name: str, setting: Setting) -> Reader:
    """A cross-encoder whose one output says how alike two texts are.

    Raises:
        ValueError: it cannot be loaded, or has several outputs.
    """
    reader = load_reader("--relevance", name, AutoModelForSequenceClassification, setting)
    if reader.model.config.num_labels != 1:
        raise ValueError(
            f"--relevance {name} has {reader.model.config.num_labels} outputs; give a cross-encoder with one, such as "
            "cross-encoder/stsb-roberta-large, or --relevance encoder:NAME"
        )
    return reader


def similarities(reader: Reader, pairs: Sequence[Pair]) -> list[Tensor]:
    """The similarity of each pair, a scalar in [0, 1]: the logistic function of the model's output."""
    return reader.read(pairs, lambda out, _: list(out.logits.float().sigmoid()[:, 0]))


def without(ids: Sequence[int], span: Span, decode: Decode) -> tuple[str, dict[int, str]]:
    """An answer's text, and by token the text without it, where that is another.

    Args:
        ids: of the whole continuation.
        span: of the answer in it.
        decode: the tokenizer's.
    """
    parts = pieces(ids[slice(*span)], decode)
    whole = "".join(parts).strip()
    cut = {span[0] + i: "".join((*parts[:i], *parts[i + 1 :])).strip() for i in range(len(parts))}
    return whole, {token: text for token, text in cut.items() if text != whole}


def relevance(count: int, whole: str, cut: dict[int, str], similarity: Callable[[Pair], Tensor]) -> Tensor:
    """R_t = 1 - similarity(answer, answer without token t), one number a token of the continuation.

    0 for a token without which the answer reads the same: one outside of it, a special token, part of a character.
    """
    found = torch.zeros(count)
    for token, text in cut.items():
        found[token] = 1 - similarity((whole, text))
    return found
