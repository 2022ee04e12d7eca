"""Influences against values by hand, closed forms, and whole squares in float64 (`slow_influence`)."""

import dataclasses
import math

import numpy as np
import pytest
import slow_influence
import torch

from metrics.core import signals
from metrics.influence import (
    Block,
    Fold,
    fold,
    lens_change,
    matrices,
    needs,
    own,
    read,
    receptive_field,
    turn,
    value_norms,
    with_residual,
)
from metrics.recipes import FLOW_TOKENS, RECIPES

FLOW = "attention_flow"
STOCHASTIC = ("rollout", "influence_guide")
"""Read in the last row of a product of stochastic matrices."""


def text(prompt, tokens, layers=3, heads=2, dim=5, seed=0):
    """Random parts of a text, as full float64 arrays with the prompt (`slow_influence`)."""
    rng = np.random.default_rng(seed)
    n = prompt + tokens
    scores = np.where(np.tril(np.ones((n, n))) > 0, rng.normal(size=(layers, heads, n, n)) * 2, -np.inf)
    attention = np.exp(scores - scores.max(-1, keepdims=True))
    states = rng.normal(size=(layers + 1, n, dim))
    return {
        "attention": attention / attention.sum(-1, keepdims=True),
        "before": states[:-1],
        "output": rng.normal(size=(layers, n, dim)),
        "after": states[1:],
        "carried": rng.normal(size=(layers, heads, n, dim)),
    }


def blocks_of(parts, prompt):
    """The same as `Block`s of the continuation."""
    made = []
    for k in range(len(parts["before"])):
        attention, before, output, after, carried = (
            torch.tensor(parts[name][k], dtype=torch.float32)
            for name in ("attention", "before", "output", "after", "carried")
        )
        rows = attention[:, prompt:]
        one = torch.eye(carried.shape[-1]).expand(len(rows), -1, -1)
        streams = (before[prompt:], output[prompt:], after[prompt:])
        made.append(Block(rows.mean(0), rows.amax(0), value_norms(rows, carried, one), *streams))
    return made


def simple(*attentions, prompt=0):
    """Blocks of one head and of states that no recipe by attention alone looks at."""
    found = []
    for attention in attentions:
        rows = torch.as_tensor(attention, dtype=torch.float32)[prompt:]
        state = torch.ones(len(rows), 2)
        found.append(Block(rows, rows, rows, state, state, state + torch.tensor([1.0, 0.0])))
    return found


def close(found, expected, **tolerance):
    expected = torch.as_tensor(np.asarray(expected), dtype=torch.float32)
    torch.testing.assert_close(found, expected, **{"rtol": 1e-4, "atol": 1e-6, **tolerance})


# --- by hand: three positions, the first of them the prompt, two blocks

FIRST = [[1, 0, 0], [0.5, 0.5, 0], [0.2, 0.3, 0.5]]
SECOND = [[1, 0, 0], [0.25, 0.75, 0], [0.5, 0.25, 0.25]]
BY_HAND = {
    # halves with the identity: (.25 .75 0), (.1 .15 .75) and (.125 .875 0), (.25 .125 .625)
    "rollout": [0.125 * 0.75 + 0.625 * 0.15, 0.625 * 0.75],
    "rollout_max": [0.875 * 0.75, 0.625 * 0.75],
    "rollout_mean": [(0.875 * 0.75 + 0.1875) / 2, 0.46875],
    "rollout_residual": [(0.975 * 0.95 + 0.025 * 0.95 + 0.925 * 0.03) / 2, 0.925 * 0.95],
    "additive_mean": [(0.625 + 0.275) / 2, 0.375],
    "additive_max": [0.625, 0.375],
    "geometric_max": [math.sqrt(0.505 * 0.7525), math.sqrt(0.505 * 0.2575)],
    "macs": [0.86 * 0.85, 0.9 * 0.85],
    "macs_max": [0.9 * 0.95, 0.9 * 0.85],
    # 2 -> 1: by 2 then 1, and by 1 then 1; into the last, by itself alone
    "attention_flow": [0.275, 0.625],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    close(fold(simple(FIRST, SECOND, prompt=1), [name])[name], BY_HAND[name])


def test_receptive_fields_by_hand():
    """One block of FIRST: columns by 3, 2, 1; elements of the last row by 3, 2, 1 and of the one before by 2, 1."""
    found = fold(simple(FIRST, prompt=1), ["rollout_column", "rollout_element"])
    close(
        found["rollout_column"], [(0.5 + 0.5 * 0.6 + 0.5 * 0.15 / (0.2 / 3 + 0.65)) / 2, 0.5 + 0.25 / (0.2 / 3 + 0.65)]
    )
    close(
        found["rollout_element"],
        [(0.5 + 0.5 * 0.5 / 0.75 + 0.5 * 0.15 / (0.2 / 3 + 0.65)) / 2, 0.5 + 0.25 / (0.2 / 3 + 0.65)],
    )


def test_residual_shares_by_hand():
    """x = (3, 4), a = (0, -12): norms 5 and 12, sums 7 and 12, projections 23 and 96 over |(3, -8)|, cos by -23."""
    x, a = torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, -12.0]])
    block = dataclasses.replace(simple([[1.0]])[0], before=x, output=a)
    row = torch.tensor([[0.5, 0.5]])
    turn = 1 - (9 - 32) / math.sqrt(25 * 73)
    for residual, kept in (("norm", 5 / 17), ("norm1", 7 / 19), ("projection", 23 / 119), ("cosine", 1 / (1 + turn))):
        close(with_residual(row, block, residual, 0.5), [[(1 - kept) / 2, (1 - kept) / 2 + kept]])


def test_turn_by_hand():
    """Of a right angle, of none, of a small one that 1 - cos would lose to rounding, and of a vector of no length."""
    a = torch.tensor([[2.0, 0.0], [3.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    b = torch.tensor([[0.0, 5.0], [1.0, 0.0], [1.0, 1e-4], [1.0, 0.0]])
    close(turn(a, b), [1.0, 0.0, 5e-9, math.nan], atol=0, equal_nan=True)


def test_norms_by_hand():
    """Two heads that carry (3, 0) and (0, 4) with half the weight each: 2.5; opposed, nothing."""
    values = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[0.0, 4.0], [-1.0, 0.0]]])
    weights = torch.tensor([[[0.5, 0.5]], [[0.5, 0.5]]])
    close(value_norms(weights, values, torch.eye(2).expand(2, -1, -1)), [[2.5, 0.0]])


def test_lens_change_by_hand():
    """From (1/2, 1/2) to (3/4, 1/4): a quarter; and the blocks' columns weighted 1 to 3."""
    logits = torch.tensor([[0.0, 0.0], [0.75, 0.25]])
    logits[1] = logits[1].log() + 7
    close(lens_change(logits[:1], logits[1:]), [0.25])
    expected = [((0.5 + 0.3) / 2 + 3 * (0.75 + 0.25) / 2) / 4, (0.5 + 3 * 0.25) / 4]
    close(fold(simple(FIRST, SECOND, prompt=1), ["additive_lens"], torch.tensor([0.1, 0.3]))["additive_lens"], expected)


def test_weights_of_layers_by_hand():
    """The first block turns the state by a right angle, the second turns it round: weights 1 and 2."""
    turns = (([1.0, 0.0], [0.0, 1.0]), ([0.0, 1.0], [0.0, -1.0]))
    blocks = [
        dataclasses.replace(block, before=torch.tensor([a, a]), after=torch.tensor([b, b]))
        for block, (a, b) in zip(simple(FIRST, SECOND, prompt=1), turns)
    ]
    expected = [(2 / 3 + (0.3 + 0.5) / 3) / 2, (0.5 + 0.5) / 3]
    close(fold(blocks, ["additive_state"])["additive_state"], expected)


# --- closed forms


@pytest.mark.parametrize("name", [n for n, r in RECIPES.items() if r.join == "rollout" and r.of == "attention"])
def test_attention_to_oneself_alone_leaves_every_token_its_own(name):
    found = fold(simple(torch.eye(4), torch.eye(4)), [name])[name]
    expected = {"last": [0, 0, 0, 1], "max": [1, 1, 1, 1], "mean": [1 / 4, 1 / 3, 1 / 2, 1]}
    close(found, expected[RECIPES[name].rows])


def test_uniform_attention():
    """A[i, j] = 1 / (i + 1): a column's mean is a difference of harmonic numbers."""
    n = 6
    uniform = torch.tril(torch.ones(n, n)) / torch.arange(1, n + 1).unsqueeze(-1)
    found = fold(simple(uniform, uniform), ["additive_mean", "additive_max", "rollout_max", "attention_flow"])
    harmonic = np.cumsum([0.0, *(1 / i for i in range(1, n + 1))])
    close(found["additive_mean"], [(harmonic[n] - harmonic[j]) / (n - j) for j in range(n)])
    close(found["additive_max"], [1 / (j + 1) for j in range(n)])
    close(found["rollout_max"][-1], (0.5 + 0.5 / n) ** 2)
    once = fold(simple(uniform), ["rollout", "attention_flow"])
    close(once["rollout"], [0.5 / n] * (n - 1) + [0.5 + 0.5 / n])
    close(once["attention_flow"], once["rollout"])  # one block leaves one path


@pytest.mark.parametrize("name", STOCHASTIC)
def test_rows_stay_stochastic(name):
    found = fold(blocks_of(text(0, 12, layers=6), 0), [name])[name]
    assert (found >= 0).all()
    close(found.sum(), 1.0, atol=1e-5)


@pytest.mark.parametrize("residual", ["share", "norm", "norm1", "projection", "cosine"])
@pytest.mark.parametrize("field", ["none", "column", "element"])
def test_every_mixture_is_stochastic_and_causal(residual, field):
    block = blocks_of(text(3, 5), 3)[0]
    mixed = with_residual(receptive_field(block.attention * 0.7, field), block, residual, 0.3)
    close(mixed.sum(-1), [1.0] * 5)
    assert (mixed >= 0).all() and mixed.shape == (5, 8)
    assert torch.equal(own(mixed), own(mixed).tril())


# --- whole squares in float64


@pytest.mark.parametrize(("prompt", "tokens"), [(4, 6), (1, 9), (1, 1), (7, 1), (2, 2)])
def test_equals_whole_squares(prompt, tokens):
    parts = text(prompt, tokens)
    changes = [0.2, 0.0, 0.7]
    expected = slow_influence.influences(parts, prompt, changes)
    assert {*expected, FLOW} == set(RECIPES)
    found = fold(blocks_of(parts, prompt), RECIPES, torch.tensor(changes))
    for name, value in expected.items():
        close(found[name], value, msg=lambda m, name=name: f"{name}: {m}")
    assert all(v.isfinite().all() and (v >= 0).all() and v.dtype == torch.float32 for v in found.values())


def test_flow_is_the_smallest_cut():
    parts = text(0, 3, layers=2)
    squares = [0.5 * a.mean(0) + 0.5 * np.eye(3) for a in parts["attention"]]
    expected = [slow_influence.smallest_cut(squares, to) for to in range(3)]
    close(fold(blocks_of(parts, 0), [FLOW])[FLOW], expected)


def test_flow_of_a_continuation_is_that_of_the_whole_text():
    """What flows to a token has come through tokens behind it alone."""
    parts = text(4, 7)
    whole = fold(blocks_of(parts, 0), [FLOW])[FLOW]
    torch.testing.assert_close(fold(blocks_of(parts, 4), [FLOW])[FLOW], whole[4:])


def test_many_layers_neither_underflow_nor_lose_their_rows():
    found = fold(blocks_of(text(3, 8, layers=96), 3), [n for n in RECIPES if n != FLOW], torch.ones(96))
    assert all((value > 0).all() for value in found.values())


# --- edges


def test_norms_do_not_depend_on_how_many_keys_are_taken_at_a_time():
    generator = torch.Generator().manual_seed(0)
    weights, values = torch.rand(3, 4, 150, generator=generator), torch.randn(3, 150, 4, generator=generator)
    projection = torch.randn(3, 4, 9, generator=generator)
    carried = torch.einsum("hkw,hwd->hkd", values.double(), projection.double())
    expected = torch.einsum("hqk,hkd->qkd", weights.double(), carried).norm(dim=-1)
    torch.testing.assert_close(value_norms(weights, values, projection), expected.float(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", RECIPES)
def test_nan_comes_through(name):
    blocks = blocks_of(text(2, 4), 2)
    bad = {
        f.name: torch.full_like(v, torch.nan)
        for f in dataclasses.fields(Block)
        if (v := getattr(blocks[1], f.name)) is not None
    }
    blocks[1] = Block(**bad)
    assert fold(blocks, [name], torch.tensor([0.1, 0.2, 0.3]))[name].isnan().all()


def test_flow_of_a_long_answer_is_nan_and_the_rest_is_not():
    tokens = FLOW_TOKENS + 1
    uniform = torch.tril(torch.ones(tokens, tokens))
    found = fold(simple(uniform), [FLOW, "rollout"])
    assert found[FLOW].shape == (tokens,) and found[FLOW].isnan().all()
    assert found["rollout"].isfinite().all()


def test_a_state_that_nothing_turns_weights_no_layer():
    """0 / 0, which is undefined."""
    block = simple(FIRST, prompt=1)[0]
    still = dataclasses.replace(block, after=torch.tensor([[2.0, 0.0]] * 2), before=torch.tensor([[1.0, 0.0]] * 2))
    assert fold([still], ["additive_state"])["additive_state"].isnan().all()


def test_rows_below_one_are_brought_to_one():
    """A learned sink takes part of a row; what is left is divided as it was."""
    names = [n for n, r in RECIPES.items() if r.join in ("rollout", "mean", "flow") and r.layers != "lens"]
    whole, half = blocks_of(text(2, 4), 2), []
    for block in whole:
        half.append(dataclasses.replace(block, attention=block.attention / 2, norms=block.norms / 2))
    found, expected = fold(half, names), fold(whole, names)
    for name in names:
        torch.testing.assert_close(found[name], expected[name])


def test_reads_by_hand():
    square = torch.tensor([[1.0, 0.0], [0.2, 0.6]])
    close(read(square, "last"), [0.2, 0.6])
    close(read(square, "max"), [1.0, 0.6])
    close(read(square, "mean"), [0.6, 0.6])


def test_refusals():
    with pytest.raises(ValueError, match=r"unknown influence 'rolout'; known: rollout, "):
        Fold(["rolout"])
    with pytest.raises(ValueError, match="no block was added"):
        Fold(["rollout"]).result()
    with pytest.raises(ValueError, match="no norms"):
        fold([dataclasses.replace(simple(FIRST)[0], norms=None)], ["value_norms"])


def test_what_recipes_need_and_share():
    assert needs(["rollout", "value_norms"], "norms") and not needs(["rollout"], "norms")
    assert needs(RECIPES, "flow") and not needs([n for n in RECIPES if n != FLOW], "flow")
    assert matrices(["rollout", "rollout_mean", "rollout_max"]) == 1
    assert matrices(["rollout", "rollout_residual", "macs", "macs_max"]) == 3


def test_every_recipe_is_a_signal():
    known = signals()
    for name, made in RECIPES.items():
        assert known[name].axes == ("token",) and known[name].cost == "influence" and known[name].kept
        assert known[name].summary == made.summary and known[name].family == "influence"
