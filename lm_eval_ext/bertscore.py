"""BERTScore: how well the tokens of two texts match in the middle layers of an encoder (Zhang et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import AutoModel

from lm_eval_ext.readers import Reader, Setting, load_reader

LAYERS = {
    "roberta-base": 10,
    "roberta-large": 17,
    "bert-base-uncased": 9,
    "bert-large-uncased": 18,
    "bert-base-multilingual-cased": 9,
    "distilbert-base-uncased": 5,
    "xlm-roberta-base": 9,
    "microsoft/deberta-base": 9,
    "microsoft/deberta-v3-base": 9,
    "microsoft/deberta-large-mnli": 18,
    "microsoft/deberta-xlarge-mnli": 40,
}
"""The layer that the authors' package takes of a model; the last one of any other."""


def load_bertscore(name: str, layer: int | None, setting: Setting) -> tuple[Reader, int]:
    """An encoder, and the layer that is read.

    Raises:
        ValueError: it cannot be loaded, is no encoder, or lacks the layer.
    """
    reader = load_reader("--bertscore", name, AutoModel, setting)
    config = reader.model.config
    if getattr(config, "is_encoder_decoder", False):
        raise ValueError(f"--bertscore {name} is an encoder with a decoder; give an encoder, such as roberta-large")
    known = [
        LAYERS[key] for key in LAYERS if reader.name.removeprefix("FacebookAI/").removeprefix("google-bert/") == key
    ]
    chosen = layer if layer is not None else (known or [config.num_hidden_layers])[0]
    if not 0 <= chosen <= config.num_hidden_layers:
        raise ValueError(f"--bertscore-layer {chosen}: {name} has layers 0 to {config.num_hidden_layers}")
    return reader, chosen


def f1(reader: Reader, layer: int, pairs: Sequence[tuple[str, str]]) -> list[Tensor]:
    """BERTScore's F1 of each pair, a scalar; without idf weights and without rescaling.

    R = mean over the tokens of one text of the largest cosine with a token of the other, P the same the other way
    round, F1 = 2 P R / (P + R), so that the order of the two does not matter. As in the authors' package the special
    tokens are matched and not averaged; unlike there, padding takes no part. A text without tokens matches nothing: 0.
    """
    texts = list(dict.fromkeys(text for pair in pairs for text in pair))
    states = dict(zip(texts, _states(reader, layer, texts)))
    return [_f1(states[one], states[other]) for one, other in pairs]


def _states(reader: Reader, layer: int, texts: Sequence[str]) -> list[Tensor]:
    """``[token, dim + 1]``: unit vectors, and whether the token is no special one."""
    special = set(reader.tokenizer.all_special_ids)

    def look(out: object, padded: object) -> list[Tensor]:
        hidden = out.hidden_states[layer].float()  # type: ignore[attr-defined]
        unit = torch.nn.functional.normalize(hidden, dim=-1)
        ids, mask = padded["input_ids"], padded["attention_mask"].bool()  # type: ignore[index]
        counts = torch.tensor([[token not in special for token in row] for row in ids.tolist()])
        return [torch.cat((u[m].cpu(), c[m.cpu(), None].float()), -1) for u, m, c in zip(unit, mask, counts)]

    reader.model.config.output_hidden_states = True
    return reader.read(texts, look)


def _f1(one: Tensor, other: Tensor) -> Tensor:
    mine, theirs = one[:, -1].bool(), other[:, -1].bool()
    if not mine.any() or not theirs.any():
        return torch.zeros(())
    similar = one[:, :-1] @ other[:, :-1].mT
    precision, recall = similar.amax(1)[mine].mean(), similar.amax(0)[theirs].mean()
    total = precision + recall
    return 2 * precision * recall / total if total != 0 else torch.zeros(())
