"""The frozen answers of tests/data/peers as records, and what peers' own code says of them."""

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from metrics.choosing import choose
from metrics.plan import derive, make_plan

FOLDER = Path(__file__).resolve().parents[1] / "data" / "peers"
PROMPT, ANSWERS, VOCAB = 5, 4, 64


POLYGRAPH = "lm-polygraph"


def same(ours, raw):
    return ours


def negated(ours, raw):
    return -ours


class Row(NamedTuple):
    """A value of a peer, our metric, what the peer's value is of our score, and why when they differ."""

    peer: str
    value: str
    ours: str
    theirs: Callable = same
    why: str = ""
    rel: float = 2e-5
    at: int | None = None
    """The peer's layer, where its value is a list of them."""

    def __str__(self):
        return f"{self.peer} {self.value}{'' if self.at is None else f' {self.at}'} - {self.ours}"

    @property
    def values(self):
        """The peer's value of each answer; None where its code fails."""
        found = values()[self.peer]
        found = (found["one by one"] if self.peer == POLYGRAPH else found)[self.value]
        return found if self.at is None else [layers[self.at] for layers in found]


def compare(row):
    """Each answer's score against the peer's value."""
    assert len(row.values) == ANSWERS
    assert sum(value is not None for value in row.values) >= 3
    for answer, value in enumerate(row.values):
        if value is not None:
            raw = record(answer)
            ours = row.theirs(score(row.ours, raw), raw)
            assert ours == pytest.approx(value, rel=row.rel, abs=row.rel / 10), f"answer {answer}"


def differs(row):
    """Says why where our score is not the peer's value, and really is not."""
    assert row.why
    assert score(row.ours, record(2)) != pytest.approx(row.values[2], rel=1e-2)


def peers_or_reasons(table, without):
    """The metrics that have a row of a table, or a reason why there is none; never both."""
    compared = {choose(row.ours)[0].metric.name for row in table}
    assert not compared & set(without)
    return compared | set(without)


@functools.cache
def values():
    """Peer, then name of a value, then one value an answer."""
    return json.loads((FOLDER / "values.json").read_text())


@functools.cache
def tensors():
    with np.load(FOLDER / "tensors.npz", allow_pickle=False) as file:
        return {name: torch.tensor(file[name]) for name in file.files}


def final_norm(hidden):
    """The RMSNorm of the frozen model."""
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * tensors()["norm"]


def record(answer):
    """The raw signals of one frozen answer, as the pass hands them over."""
    made = {name: tensors()[f"{name}_{answer}"] for name in ("tokens", "hidden", "logits", "attention", "elicited")}
    hidden, maps, tokens = made["hidden"], made["attention"], made["tokens"][PROMPT:]
    states = hidden[:, PROMPT - 1 :]
    lens = final_norm(states[:, :-1]) @ tensors()["head"].T
    alone = tensors()[f"alone_logits_{answer}"][:-1].log_softmax(-1)
    return {
        "logits": made["logits"][PROMPT - 1 : -1],
        "tokens": tokens,
        "token_count": torch.tensor(len(tokens)),
        "prompt_count": torch.tensor(PROMPT),
        "hidden": states,
        "hidden_before": torch.cat([torch.full_like(states[:1], math.nan), states[:-1]]),
        "hidden_start": hidden[:, 0],
        "lens_logits": lens,
        "lens_last_logits": lens[-1],
        "attention": maps[:, :, PROMPT - 1 :],
        "attention_columns": maps.sum(-2),
        "attention_self": maps.diagonal(dim1=-2, dim2=-1),
        "logprob_alone": alone.gather(-1, tokens.long()[:, None])[:, 0],
        "true_logprob_polygraph": tensors()[f"true_logprob_{answer}"][0],
        "csl_weight": made["elicited"].mean((0, 1)),
    }


def score(metric, raw):
    """A metric's score, by way of the signals it needs."""
    (choice,) = choose(metric)
    return choice({**raw, **derive(make_plan(metric).compute, raw)}).item()


def signal(name, raw):
    """A derived signal."""
    return {**raw, **derive(make_plan((), name).compute, raw)}[name]
