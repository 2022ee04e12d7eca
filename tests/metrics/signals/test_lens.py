"""Signals of the lens against float64 references made with loops and SciPy, which share no code with them."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from scipy.spatial.distance import jensenshannon

from metrics.plan import derive, make_plan

INF = math.inf
ORDER = make_plan((), "lens").compute
LAYERS, TOKENS = 5, 7


def logits_of(vocab, scale=3.0, seed=0, layers=LAYERS):
    """Layers that come closer to the last, as those of a model do."""
    generator = torch.Generator().manual_seed(seed)
    last, first = (torch.randn(TOKENS, vocab, generator=generator) * scale for _ in range(2))
    return torch.stack([first + (last - first) * i / max(1, layers - 1) for i in range(layers)])


def tokens_of(vocab, seed=3):
    return torch.randint(0, vocab, (TOKENS,), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


def made(logits, tokens=None, last=None):
    """All signals of the lens; the last of the layers is the model's last unless one is given."""
    logits = torch.as_tensor(logits)
    tokens = torch.zeros(logits.shape[1], dtype=torch.int32) if tokens is None else torch.as_tensor(tokens)
    raw = {"lens_logits": logits, "lens_last_logits": logits[-1] if last is None else last, "tokens": tokens}
    return derive(ORDER, raw)


def softmax(logits):
    return scipy.special.softmax(logits.double().numpy(), -1)


def of(probabilities):
    """Logits of a distribution, moved by a constant that must not matter; 0 becomes -inf."""
    return (torch.tensor(probabilities, dtype=torch.float64).log() + 5.25).float()


@pytest.fixture(params=[2, 3, 40, 1000])
def case(request):
    logits, tokens = logits_of(request.param), tokens_of(request.param)
    return made(logits, tokens), softmax(logits), tokens


def test_lens_entropy(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_entropy"], scipy.stats.entropy(p, axis=-1), rtol=1e-5, atol=1e-6)


def test_lens_logprob(case):
    found, p, tokens = case
    slow = [[math.log(p[i, t, int(token)]) for t, token in enumerate(tokens)] for i in range(LAYERS)]
    np.testing.assert_allclose(found["lens_logprob"], slow, rtol=1e-5, atol=1e-6)


def test_lens_rank(case):
    found, p, tokens = case
    slow = [[sum(q > p[i, t, int(token)] for q in p[i, t]) for t, token in enumerate(tokens)] for i in range(LAYERS)]
    assert found["lens_rank"].tolist() == slow
    assert found["lens_rank"].dtype == torch.int32


def test_lens_rank_of_ties_counts_none_of_them():
    assert made([[[1.0, 1.0, 1.0, 2.0]]], [1])["lens_rank"].tolist() == [[1]]


def test_lens_kl(case):
    found, p, _ = case
    slow = [[sum(scipy.special.rel_entr(p[i, t], p[-1, t])) for t in range(TOKENS)] for i in range(LAYERS)]
    np.testing.assert_allclose(found["lens_kl"], slow, rtol=1e-4, atol=3e-6)
    assert (found["lens_kl"][-1] == 0).all()


def test_lens_jsd(case):
    found, p, _ = case
    slow = [[jensenshannon(p[i, t], p[-1, t]) ** 2 for t in range(TOKENS)] for i in range(LAYERS - 1)]
    np.testing.assert_allclose(found["lens_jsd"][:-1], slow, rtol=1e-4, atol=3e-6)
    np.testing.assert_allclose(found["lens_jsd"][-1], 0, atol=3e-6)


def test_lens_top(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_top"], p.max(-1), rtol=1e-5)


def test_lens_margin(case):
    found, p, _ = case
    ordered = np.sort(p, -1)
    np.testing.assert_allclose(found["lens_margin"], ordered[..., -1] - ordered[..., -2], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("layers", "quarter"), [(1, 1), (3, 1), (4, 1), (8, 2), (33, 8)])
def test_lens_quarter_kl(layers, quarter):
    logits = logits_of(50, layers=layers)
    p = softmax(logits)
    early, late = p[:quarter].mean(0), p[-quarter:].mean(0)
    slow = scipy.special.rel_entr(early, late).sum(-1)
    np.testing.assert_allclose(made(logits)["lens_quarter_kl"], slow, rtol=1e-4, atol=1e-6)


# --- by hand


def test_values_by_hand():
    found = made(of([[[0.5, 0.5]], [[0.75, 0.25]]]), [1])
    kl = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)
    middle = [0.625, 0.375]
    jsd = 0.5 * sum(0.5 * math.log(0.5 / m) for m in middle)
    jsd += 0.5 * (0.75 * math.log(0.75 / middle[0]) + 0.25 * math.log(0.25 / middle[1]))
    expected = {
        "lens_entropy": [math.log(2), -0.75 * math.log(0.75) - 0.25 * math.log(0.25)],
        "lens_logprob": [math.log(0.5), math.log(0.25)],
        "lens_rank": [0, 1],
        "lens_kl": [kl, 0.0],
        "lens_jsd": [jsd, 0.0],
        "lens_top": [0.5, 0.75],
        "lens_margin": [0.0, 0.5],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name][:, 0], values, atol=1e-6, err_msg=name)


def test_distributions_without_common_tokens_are_ln_2_apart():
    found = made(of([[[1.0, 0.0, 0.0]], [[0.0, 0.5, 0.5]]]), [1])
    assert found["lens_jsd"][0, 0].item() == pytest.approx(math.log(2), abs=1e-6)
    assert found["lens_kl"].tolist() == [[INF], [0.0]]
    assert found["lens_quarter_kl"].tolist() == [INF]
    assert found["lens_logprob"][0].tolist() == [-INF]
    assert found["lens_rank"].tolist() == [[1], [0]]


def test_tokens_that_all_layers_rule_out_leave_no_trace():
    logits = logits_of(20)
    wider = torch.cat([logits, torch.full((LAYERS, TOKENS, 3), -INF)], -1)
    plain, masked = made(logits), made(wider)
    for name, value in plain.items():
        if value.shape[-1:] == (TOKENS,):
            torch.testing.assert_close(masked[name], value, msg=name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_lowest_number_of_half_precision_is_probability_zero(dtype):
    logits = logits_of(20).to(dtype)
    wider = torch.cat([logits, torch.full((LAYERS, TOKENS, 3), torch.finfo(dtype).min, dtype=dtype)], -1)
    plain, masked = made(logits.float()), made(wider)
    for name in ("lens_entropy", "lens_kl", "lens_jsd", "lens_quarter_kl", "lens_margin"):
        torch.testing.assert_close(masked[name], plain[name], rtol=1e-5, atol=1e-6, msg=name)


def test_probabilities_that_underflow_are_no_nan():
    """A sharp layer of a large vocabulary has many."""
    found = made(logits_of(1000, scale=80.0))
    for name in ("lens_entropy", "lens_kl", "lens_jsd", "lens_quarter_kl"):
        assert not found[name].isnan().any(), name
    assert found["lens_jsd"].max() <= math.log(2) + 1e-6


def test_close_layers_of_a_large_vocabulary_are_told_apart_to_a_millionth():
    last = torch.randn(TOKENS, 32_000, generator=torch.Generator().manual_seed(0))
    near = last + 0.01 * torch.randn(TOKENS, 32_000, generator=torch.Generator().manual_seed(1))
    found = made(torch.stack([near, last]))
    p, q = softmax(near), softmax(last)
    np.testing.assert_allclose(found["lens_jsd"][0], jensenshannon(p, q, axis=-1) ** 2, atol=5e-6)
    np.testing.assert_allclose(found["lens_kl"][0], scipy.special.rel_entr(p, q).sum(-1), atol=5e-6)


def test_nan_in_one_layer_stays_there():
    logits = logits_of(20)
    logits[1, 2, 4] = torch.nan
    found = made(logits)
    for name in ("lens_entropy", "lens_logprob", "lens_kl", "lens_jsd", "lens_top", "lens_margin"):
        assert found[name].isnan().sum() == 1, name
        assert found[name][1, 2].isnan(), name
    assert found["lens_rank"][1, 2] == -1


def test_the_last_layer_need_not_be_among_those_recorded():
    logits, tokens = logits_of(30), tokens_of(30)
    whole, part = made(logits, tokens), made(logits[1:3], tokens, logits[-1])
    for name in ("lens_kl", "lens_jsd", "lens_entropy"):
        assert torch.equal(part[name], whole[name][1:3]), name


# --- the parts


def test_lens_log_probabilities(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_log_probabilities"], np.log(p), rtol=1e-5, atol=1e-5)


def test_lens_probabilities(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_probabilities"], p, rtol=1e-5, atol=1e-8)


def test_lens_largest(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_largest"], np.log(np.sort(p, -1)[..., :-3:-1]), rtol=1e-5, atol=1e-5)


def test_lens_last_log_probabilities(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_last_log_probabilities"], np.log(p[-1]), rtol=1e-5, atol=1e-5)


def test_lens_last_probabilities(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_last_probabilities"], p[-1], rtol=1e-5, atol=1e-8)


def test_lens_last_entropy(case):
    found, p, _ = case
    np.testing.assert_allclose(found["lens_last_entropy"], scipy.stats.entropy(p[-1], axis=-1), rtol=1e-5, atol=1e-6)
