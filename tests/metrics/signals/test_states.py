"""Which step each of the states of single tokens is."""

import math

import pytest
import torch

from metrics.plan import make_plan
from metrics.signals.states import hidden_last, hidden_prompt, hidden_second_last

STATES = (hidden_prompt, hidden_last, hidden_second_last)


def numbered(tokens, layers=2, dim=3):
    """States that say which they are: 10 times the layer and the step, in every dimension."""
    step = torch.arange(tokens + 1.0)
    return (10 * torch.arange(layers)[:, None] + step)[..., None].expand(-1, -1, dim).clone()


def test_hidden_prompt():
    for tokens in (0, 1, 4):
        assert hidden_prompt(numbered(tokens)).tolist() == [[0.0] * 3, [10.0] * 3]


def test_hidden_last():
    assert hidden_last(numbered(4)).tolist() == [[4.0] * 3, [14.0] * 3]
    assert hidden_last(numbered(1)).tolist() == [[1.0] * 3, [11.0] * 3]
    assert hidden_last(numbered(0)).isnan().all()


def test_hidden_last_of_a_token_beyond_the_table_of_positions():
    hidden = numbered(4)
    hidden[:, -1] = math.nan
    assert hidden_last(hidden).tolist() == [[3.0] * 3, [13.0] * 3]
    assert hidden_second_last(hidden).tolist() == [[3.0] * 3, [13.0] * 3]  # the second last that was generated
    alone = numbered(1)
    alone[:, -1] = math.nan
    assert hidden_last(alone).isnan().all()


def test_hidden_second_last():
    assert hidden_second_last(numbered(4)).tolist() == [[3.0] * 3, [13.0] * 3]
    assert hidden_second_last(numbered(2)).tolist() == [[1.0] * 3, [11.0] * 3]
    assert hidden_second_last(numbered(1)).isnan().all()  # step 0 is the prompt's
    assert hidden_second_last(numbered(0)).isnan().all()


@pytest.mark.parametrize("state", STATES)
def test_half_precision_holds_states_of_bfloat16_models(state):
    hidden = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)).bfloat16() * 30
    assert torch.equal(state(hidden).float(), state(hidden.float()).float())
    exact = {hidden_prompt: 0, hidden_last: 4, hidden_second_last: 3}[state]
    assert torch.equal(state(hidden).bfloat16(), hidden[:, exact])
    assert state(torch.full((1, 4, 2), 7e4)).isinf().all()


def test_states_are_kept_when_asked_for_and_only_then():
    names = {state.__name__ for state in STATES}
    assert set(make_plan((), "states").keep) == names
    assert names.isdisjoint(make_plan("all").keep)
