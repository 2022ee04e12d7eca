import math

import numpy as np
import pytest
import scipy.stats
import torch

from metrics.signals.attention import (
    attention_diagonal,
    attention_first,
    attention_log_diagonal,
    attention_previous,
    attention_received,
    attention_row_entropy,
    attention_sink,
    laplacian_eigenvalues,
    lookback_ratio,
)

HALF = 2.0**-11
"""Relative error of rounding to half precision, of numbers above 6.2e-5; below, the absolute one is at most 3e-8."""

TINY = 3e-8


def maps(prompt, tokens, **kwargs):
    """Rows prompt-1 .. prompt+tokens-1 of causal attention over prompt+tokens keys."""
    return whole(prompt + tokens, **kwargs)[:, :, prompt - 1 :]


def whole(length, layers=3, heads=2, seed=0, scale=1.0):
    """Causal attention of a text, all queries."""
    scores = torch.randn(layers, heads, length, length, generator=torch.Generator().manual_seed(seed)) * scale
    return scores.masked_fill(torch.ones(length, length).triu(1).bool(), -math.inf).softmax(-1)


def close(value, expected, **tolerance):
    torch.testing.assert_close(value.double(), torch.as_tensor(expected).double(), **tolerance, equal_nan=True)


def test_attention_diagonal():
    rows = torch.tensor([[[[0.9, 0.1, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]]]])  # prompt of two
    close(attention_diagonal(rows), [[[0.1, 0.5, 0.4]]], rtol=HALF, atol=0)


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 1), (1, 5), (7, 1), (7, 5)])
def test_attention_diagonal_is_the_own_position(prompt, tokens):
    rows = maps(prompt, tokens)
    out = attention_diagonal(rows)
    assert out.shape == (3, 2, tokens + 1)
    for step in range(tokens + 1):
        assert torch.equal(out[:, :, step], rows[:, :, step, prompt - 1 + step].half())


def test_attention_previous():
    rows = torch.tensor([[[[0.9, 0.1, 0.0, 0.0], [0.2, 0.3, 0.5, 0.0], [0.1, 0.2, 0.3, 0.4]]]])  # prompt of two
    close(attention_previous(rows), [[[0.9, 0.3, 0.3]]], rtol=HALF, atol=0)
    after_one = torch.tensor([[[[1.0, 0.0], [0.7, 0.3]]]])  # the first position has none before it
    close(attention_previous(after_one), [[[math.nan, 0.7]]], rtol=HALF, atol=0)


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 1), (1, 5), (7, 1), (7, 5)])
def test_attention_previous_is_one_left_of_the_own_position(prompt, tokens):
    rows = maps(prompt, tokens)
    out = attention_previous(rows)
    for step in range(prompt == 1, tokens + 1):
        assert torch.equal(out[:, :, step], rows[:, :, step, prompt - 2 + step].half())


def test_lookback_ratio():
    rows = torch.tensor([[[[0.25, 0.75, 0.0, 0.0], [0.2, 0.4, 0.4, 0.0], [0.1, 0.1, 0.2, 0.6]]]])  # prompt of two
    close(lookback_ratio(rows, torch.tensor(2)), [[[1.0, 0.3 / 0.7, 0.1 / 0.5]]], rtol=HALF, atol=0)


@pytest.mark.parametrize(("prompt", "tokens"), [(1, 1), (1, 5), (7, 1), (7, 5)])
def test_lookback_ratio_against_the_authors_formula(prompt, tokens):
    """Means over the keys of context and generation, as in their step 1; at step 0 theirs is the mean of nothing."""
    rows = maps(prompt, tokens)
    out = lookback_ratio(rows, torch.tensor(prompt))
    assert (out[..., 0] == 1).all()
    for step in range(1, tokens + 1):
        seen = rows[:, :, step, : prompt + step].double()
        context, new = seen[..., :prompt].mean(-1), seen[..., prompt:].mean(-1)
        close(out[..., step], context / (context + new), rtol=1e-3, atol=TINY)
    assert maps(prompt, tokens)[0, 0, 0, prompt:prompt].mean().isnan()


def test_lookback_ratio_of_a_row_that_a_sink_takes_whole_is_undefined():
    rows = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    close(lookback_ratio(rows, torch.tensor(1)), [[[1.0, math.nan]]])


def test_attention_first():
    rows = torch.tensor([[[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.6, 0.4]]]])  # one layer, two heads
    torch.testing.assert_close(attention_first(rows), torch.tensor([[0.8, 0.4]]))


def test_attention_received():
    """Columns of a text of three: the first is seen by three queries, the last by itself alone."""
    maps = torch.tensor(
        [[[1.0, 0.0, 0.0], [0.4, 0.6, 0.0], [0.1, 0.2, 0.7]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.2, 0.3]]]
    )
    expected = torch.tensor([[(1.5 / 3 + 1.5 / 3) / 2, (0.8 / 2 + 1.2 / 2) / 2, (0.7 + 0.3) / 2]])
    torch.testing.assert_close(attention_received(maps.sum(-2)[None]), expected)


def test_attention_received_of_uniform_attention_falls():
    """Where every query looks everywhere alike, position i receives the mean of 1/(u + 1) over u >= i."""
    uniform = torch.ones(1, 2, 6, 6).tril() / torch.arange(1, 7)[:, None]
    expected = [[sum(1 / (u + 1) for u in range(i, 6)) / (6 - i) for i in range(6)]]
    close(attention_received(uniform.sum(-2)), expected, rtol=1e-6, atol=0)


def test_attention_log_diagonal():
    own = torch.tensor([[[1.0, 0.5, 0.25], [1.0, 0.125, 1e-30]]])
    expected = torch.tensor([[0.0, (math.log(0.5) + math.log(0.125)) / 2, (math.log(0.25) - 30 * math.log(10)) / 2]])
    torch.testing.assert_close(attention_log_diagonal(own), expected)
    assert attention_log_diagonal(torch.zeros(1, 2, 1)).item() == -math.inf


@pytest.mark.parametrize("length", [10, 17])
def test_laplacian_eigenvalues(length):
    """Against a general solver on the matrix itself, built in a loop."""
    attention = whole(length, scale=2.0)
    found = laplacian_eigenvalues(attention.sum(-2), attention.diagonal(dim1=-2, dim2=-1))
    for layer, head in np.ndindex(3, 2):
        a = attention[layer, head].double().numpy()
        degrees = [sum(a[u, i] for u in range(i, length)) / (length - i) for i in range(length)]
        values = np.linalg.eigvals(np.diag(degrees) - a)
        assert np.abs(values.imag).max() < 1e-6
        np.testing.assert_allclose(found[layer, head], np.sort(values.real)[::-1][:10], atol=1e-5)


def test_laplacian_eigenvalues_are_the_papers_not_the_codes():
    """The maps of the authors' own test, two positions and two layers, for which their code has other values.

    In its first layer it adds the next layer's A_ii to the column and divides by one more: (1 + 0.5 + 1) / 3 - 1 and
    (0.5 + 0.5) / 2 - 0.5. In its last it takes A_ii from the column and divides by one less: 0.5 / 1, and 0.
    """
    attention = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).expand(2, 3, 2, 2)
    found = laplacian_eigenvalues(attention.sum(-2), attention.diagonal(dim1=-2, dim2=-1))
    assert found[..., :2].tolist() == [[[0.0, -0.25]] * 3] * 2  # 1.5 / 2 - 1 and 0.5 / 1 - 0.5


def test_a_text_of_fewer_than_ten_positions_has_fewer_eigenvalues():
    attention = whole(4)
    found = laplacian_eigenvalues(attention.sum(-2), attention.diagonal(dim1=-2, dim2=-1))
    assert found.shape == (3, 2, 10)
    assert found[..., :4].isfinite().all()
    assert found[..., 4:].isnan().all()


def test_attention_row_entropy():
    rows = torch.tensor([[[[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]]])
    close(attention_row_entropy(rows), [[[0.0, math.log(2), math.log(4)]]], rtol=HALF, atol=0)


def test_attention_row_entropy_against_scipy():
    rows = maps(5, 4)
    np.testing.assert_allclose(
        attention_row_entropy(rows), scipy.stats.entropy(rows.double().numpy(), axis=-1), rtol=1e-3, atol=1e-6
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
    both = torch.cat([rows, torch.zeros_like(rows)], 1)
    assert attention_sink(rows).tolist() == [[0.25, 0.25, 1.0, 0.0]]
    assert attention_sink(both).tolist() == [[0.625, 0.625, 1.0, 0.5]]


def test_attention_sink_is_what_the_sinks_entry_takes():
    rows, sink = with_sink(5, 4)
    close(attention_sink(rows), sink.mean(1), rtol=1e-5, atol=0)
    close(attention_sink(maps(5, 4)), torch.zeros(3, 5), atol=1e-6, rtol=0)


def test_attention_sink_of_one_key():
    """The first position, a prompt of one token: softmax over its own score and the sink's."""
    rows = torch.sigmoid(torch.tensor(1.5)).reshape(1, 1, 1, 1)
    close(attention_sink(rows), [[1 / (1 + math.exp(1.5))]], rtol=1e-5, atol=0)


def test_rows_with_a_sink_are_not_renormalised():
    rows, sink = with_sink(5, 4)
    entropy = attention_row_entropy(rows).double().numpy()
    whole = torch.cat([rows, sink.unsqueeze(-1)], -1).double().numpy()
    s = sink.double().numpy()
    np.testing.assert_allclose(entropy - s * np.log(s), scipy.stats.entropy(whole, axis=-1), rtol=2e-3)
    alone = scipy.stats.entropy(rows.double().numpy(), axis=-1)  # scipy renormalises
    np.testing.assert_allclose(entropy / (1 - s) + np.log1p(-s), alone, rtol=2e-3)
    assert np.abs(entropy - alone).max() > 0.1


def test_positions_that_cannot_be_seen_add_nothing():
    rows = maps(5, 4)
    wider = torch.cat([torch.zeros(*rows.shape[:-1], 3), rows], -1)
    close(attention_row_entropy(wider), attention_row_entropy(rows), rtol=1e-3, atol=0)
    assert torch.equal(attention_diagonal(wider), attention_diagonal(rows))
    close(attention_sink(wider), attention_sink(rows), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_first(dtype):
    rows = maps(5, 4).to(dtype)
    for compute in (attention_diagonal, attention_row_entropy):
        assert compute(rows).dtype == torch.float16
        assert torch.equal(compute(rows), compute(rows.float()))
    own = rows.diagonal(dim1=-2, dim2=-1)
    assert torch.equal(attention_log_diagonal(own), attention_log_diagonal(own.float()))
    assert torch.equal(lookback_ratio(rows, torch.tensor(5)), lookback_ratio(rows.float(), torch.tensor(5)))


def test_nan_stays_in_its_row():
    rows = maps(5, 4)
    rows[1, 0, 2] = math.nan
    for compute in (attention_diagonal, attention_previous, attention_row_entropy):
        assert compute(rows).isnan().nonzero().tolist() == [[1, 0, 2]]
    assert attention_sink(rows).isnan().nonzero().tolist() == [[1, 2]]


def test_half_precision_keeps_weights_to_a_thousandth():
    """What is stored of single heads against double precision; weights below 6e-5 to 3e-8."""
    rows = maps(200, 40, scale=4.0)
    exact = {
        attention_diagonal: rows.double().diagonal(199, -2, -1),
        attention_previous: rows.double().diagonal(198, -2, -1),
        attention_row_entropy: torch.special.entr(rows.double()).sum(-1),
    }
    for compute, expected in exact.items():
        close(compute(rows), expected, rtol=1e-3, atol=TINY)
