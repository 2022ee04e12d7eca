import math

import numpy as np
import pytest
import scipy.stats
import torch

from metrics.signals.attention import attention_diagonal, attention_row_entropy, attention_sink


def maps(prompt, tokens, layers=3, heads=2, seed=0):
    """Rows prompt-1 .. prompt+tokens-1 of causal attention over prompt+tokens keys."""
    length = prompt + tokens
    scores = torch.randn(layers, heads, length, length, generator=torch.Generator().manual_seed(seed))
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    return scores.softmax(-1)[:, :, prompt - 1 :]


def test_attention_diagonal():
    rows = torch.tensor([[[[0.9, 0.1, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]]]])  # prompt of two
    torch.testing.assert_close(attention_diagonal(rows), torch.tensor([[[0.1, 0.5, 0.4]]]))


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 1), (1, 5), (7, 1), (7, 5)])
def test_attention_diagonal_is_the_own_position(prompt, tokens):
    rows = maps(prompt, tokens)
    out = attention_diagonal(rows)
    assert out.shape == (3, 2, tokens + 1)
    for step in range(tokens + 1):
        assert torch.equal(out[:, :, step], rows[:, :, step, prompt - 1 + step])


def test_attention_row_entropy():
    rows = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]]])
    torch.testing.assert_close(attention_row_entropy(rows), torch.tensor([[[0.0, math.log(2), math.log(4)]]]))


def test_attention_row_entropy_against_scipy():
    rows = maps(5, 4)
    np.testing.assert_allclose(
        attention_row_entropy(rows), scipy.stats.entropy(rows.double().numpy(), axis=-1), rtol=1e-5, atol=1e-6
    )


def with_sink(prompt, tokens, logit=0.5, seed=0):
    """Attention whose softmax has one more entry, and what that entry takes."""
    length = prompt + tokens
    scores = torch.randn(3, 2, length, length, generator=torch.Generator().manual_seed(seed))
    scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf)
    whole = torch.cat([scores, torch.full_like(scores[..., :1], logit)], -1).softmax(-1)[:, :, prompt - 1 :]
    return whole[..., :-1], whole[..., -1]


def test_attention_sink():
    rows = torch.tensor([[[[0.5, 0.25, 0.0], [0.125, 0.125, 0.5], [0.0, 0.0, 0.0], [0.25, 0.25, 0.5]]]])
    assert attention_sink(rows).tolist() == [[[0.25, 0.25, 1.0, 0.0]]]


def test_attention_sink_is_what_the_sinks_entry_takes():
    rows, sink = with_sink(5, 4)
    torch.testing.assert_close(attention_sink(rows), sink)
    torch.testing.assert_close(attention_sink(maps(5, 4)), torch.zeros(3, 2, 5), atol=1e-6, rtol=0)


def test_attention_sink_of_one_key():
    """The first position, a prompt of one token: softmax over its own score and the sink's."""
    rows = torch.sigmoid(torch.tensor(1.5)).reshape(1, 1, 1, 1)
    torch.testing.assert_close(attention_sink(rows), torch.sigmoid(torch.tensor(-1.5)).reshape(1, 1, 1))


def test_rows_with_a_sink_are_not_renormalised():
    rows, sink = with_sink(5, 4)
    entropy = attention_row_entropy(rows).double().numpy()
    whole = torch.cat([rows, sink.unsqueeze(-1)], -1).double().numpy()
    s = sink.double().numpy()
    np.testing.assert_allclose(entropy - s * np.log(s), scipy.stats.entropy(whole, axis=-1), rtol=1e-5)
    alone = scipy.stats.entropy(rows.double().numpy(), axis=-1)  # scipy renormalises
    np.testing.assert_allclose(entropy / (1 - s) + np.log1p(-s), alone, rtol=1e-5)
    assert np.abs(entropy - alone).max() > 0.1


def test_positions_that_cannot_be_seen_add_nothing():
    rows = maps(5, 4)
    wider = torch.cat([torch.zeros(*rows.shape[:-1], 3), rows], -1)
    torch.testing.assert_close(attention_row_entropy(wider), attention_row_entropy(rows))
    assert torch.equal(attention_diagonal(wider), attention_diagonal(rows))
    torch.testing.assert_close(attention_sink(wider), attention_sink(rows))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_first(dtype):
    rows = maps(5, 4).to(dtype)
    for compute in (attention_diagonal, attention_row_entropy, attention_sink):
        assert compute(rows).dtype == torch.float32
        assert torch.equal(compute(rows), compute(rows.float()))


def test_nan_stays_in_its_row():
    rows = maps(5, 4)
    rows[1, 0, 2] = math.nan
    for compute in (attention_diagonal, attention_row_entropy, attention_sink):
        assert compute(rows).isnan().nonzero().tolist() == [[1, 0, 2]]
