import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from metrics.uncertainty import distribution as d

INF = math.inf
H = torch.tensor([0.5, 2.0, 1.0, 0.25, 0.75])


def random_logits(n, vocab, scale=3.0, seed=0):
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def top(*rows):
    """Top log-probabilities of rows of probabilities, padded to 20."""
    out = torch.full((len(rows), 20), -INF)
    for i, row in enumerate(rows):
        out[i, : len(row)] = torch.tensor(row).log()
    return out


# --- entropies


def test_mean_entropy():
    assert d.mean_entropy(H).item() == pytest.approx(0.9)


def test_max_entropy():
    assert d.max_entropy(H).item() == 2.0


@pytest.mark.parametrize(("share", "expected"), [(0.05, 2.0), (0.2, 2.0), (0.4, 1.5), (0.6, 1.25), (1.0, 0.9)])
def test_top_share_entropy(share, expected):
    assert d.top_share_entropy(H, share=share).item() == pytest.approx(expected)


def test_top_share_entropy_default_is_five_percent():
    h = torch.arange(40.0)
    assert d.top_share_entropy(h).item() == 38.5
    assert d.top_share_entropy(h[:39]).item() == 38.0


def test_mean_varentropy():
    assert d.mean_varentropy(torch.tensor([0.0, 3.0, 1.5])).item() == 1.5


# --- the largest probabilities


def test_margin():
    assert d.margin(top([0.7, 0.2, 0.1], [0.4, 0.4, 0.2])).item() == pytest.approx(0.25)
    assert d.margin(top([1.0])).item() == 1.0


@pytest.mark.parametrize("k", [2, 5, 19, 20])
def test_topk_negentropy(chain, k):
    logits = random_logits(9, 300)
    p = -np.sort(-scipy.special.softmax(logits.double().numpy(), -1))[:, :k]
    expected = np.mean(1 - scipy.stats.entropy(p, axis=-1) / math.log(k))  # scipy renormalises
    assert d.topk_negentropy(chain(logits)["top_logprobs"], k=k).item() == pytest.approx(expected, abs=1e-6)


def test_topk_negentropy_closed_forms(chain):
    uniform = chain(torch.zeros(3, 100))["top_logprobs"]
    assert d.topk_negentropy(uniform).item() == pytest.approx(0, abs=1e-6)
    assert d.topk_negentropy(uniform, k=2).item() == pytest.approx(0, abs=1e-6)
    assert d.topk_negentropy(chain([[50.0] + [0.0] * 99])["top_logprobs"]).item() == pytest.approx(1, abs=1e-6)
    two = 1 + (0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    assert d.topk_negentropy(top([0.6, 0.2, 0.2]), k=2).item() == pytest.approx(two, abs=1e-6)


@pytest.mark.parametrize("vocab", [2, 3, 19, 20, 21])
def test_topk_negentropy_in_a_small_vocabulary_takes_what_there_is(chain, vocab):
    logits = random_logits(4, vocab)
    k = min(20, vocab)
    p = -np.sort(-scipy.special.softmax(logits.double().numpy(), -1))[:, :k]
    expected = np.mean(1 - scipy.stats.entropy(p, axis=-1) / math.log(k))
    assert d.topk_negentropy(chain(logits)["top_logprobs"]).item() == pytest.approx(expected, abs=1e-6)


def test_topk_negentropy_counts_the_possible_tokens_row_by_row():
    rows = top([0.5, 0.5], [0.25] * 4, [1.0])
    assert d.topk_negentropy(rows).item() == pytest.approx((0 + 0 + 1) / 3, abs=1e-6)


@pytest.mark.parametrize("k", [-1, 0, 1, 21, 1000])
def test_topk_negentropy_refuses_k_out_of_range(k):
    with pytest.raises(ValueError, match=rf"k={k} is outside 2\.\.20"):
        d.topk_negentropy(top([0.5, 0.5]), k=k)


# --- distances from the uniform distribution


@pytest.mark.parametrize("vocab", [2, 20, 1000])
def test_self_certainty(chain, vocab):
    out = chain(random_logits(6, vocab))
    p = scipy.special.softmax(random_logits(6, vocab).double().numpy(), -1)
    expected = np.mean([scipy.stats.entropy(np.full(vocab, 1 / vocab), row) for row in p])  # KL(U || p)
    got = d.self_certainty(out["mean_log_probability"], out["log_vocabulary"]).item()
    assert got == pytest.approx(expected, rel=1e-5)


def test_self_certainty_by_hand(chain):
    # p = (.9, .1): -(ln 1.8 + ln .2) / 2
    out = chain([[math.log(9.0), 0.0, -INF]])
    got = d.self_certainty(out["mean_log_probability"], out["log_vocabulary"]).item()
    assert got == pytest.approx(-(math.log(1.8) + math.log(0.2)) / 2, rel=1e-5)


def test_self_certainty_is_no_monotone_function_of_the_entropy(chain):
    """More entropy and more self-certainty: one token all but ruled out among even ones, against a mild slope."""
    out = chain([[0.0, 0.0, 0.0, -30.0], [3.0, 0.0, 0.0, 0.0]])
    certainty = -(out["mean_log_probability"] + out["log_vocabulary"])
    assert out["entropy"][0] > out["entropy"][1]
    assert certainty[0] > certainty[1]


@pytest.mark.parametrize("vocab", [2, 20, 1000])
def test_renyi(chain, vocab):
    logits = random_logits(6, vocab)
    out = chain(logits)
    q = scipy.special.softmax(logits.double().numpy() / 2, -1)
    # D_a(q || u) = 1/(a-1) ln sum q^a u^(1-a), a = 1/2
    expected = np.mean([math.log(math.fsum(v**0.5 * (1 / vocab) ** 0.5 for v in row)) / (0.5 - 1) for row in q])
    assert d.renyi(out["log_half_power"], out["log_vocabulary"]).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("vocab", [2, 20, 1000])
def test_fisher_rao(chain, vocab):
    logits = random_logits(6, vocab)
    out = chain(logits)
    q = scipy.special.softmax(logits.double().numpy() / 2, -1)
    expected = np.mean([2 / math.pi * math.acos(math.fsum(math.sqrt(v / vocab) for v in row)) for row in q])
    assert d.fisher_rao(out["log_half_power"], out["log_vocabulary"]).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("vocab", [1, 2, 30, 128_256])
def test_the_uniform_distribution_is_at_distance_zero(chain, vocab):
    out = chain(torch.full((2, vocab), 2.2))
    half, log_v = out["log_half_power"], out["log_vocabulary"]
    assert d.self_certainty(out["mean_log_probability"], log_v).item() == pytest.approx(0, abs=1e-5)
    assert d.renyi(half, log_v).item() == pytest.approx(0, abs=1e-5)
    assert 0 <= d.fisher_rao(half, log_v).item() < 0.002


@pytest.mark.parametrize("vocab", [2, 30, 128_256])
def test_a_certain_distribution_is_at_the_far_end(chain, vocab):
    logits = torch.full((1, vocab), -1e4)
    logits[0, 0] = 0
    out = chain(logits)
    assert d.renyi(out["log_half_power"], out["log_vocabulary"]).item() == pytest.approx(math.log(vocab), rel=1e-5)
    far = 2 / math.pi * math.acos(vocab**-0.5)
    assert d.fisher_rao(out["log_half_power"], out["log_vocabulary"]).item() == pytest.approx(far, rel=1e-5)


def test_boosted_prob(chain):
    logits = torch.tensor([[0.5, 0.4, 0.06, 0.04], [0.25, 0.25, 0.25, 0.25]]).log()
    assert d.boosted_prob(chain(logits, [1, 1])["boosted_probability"]).item() == pytest.approx((0.96 + 0.25) / 2)


# --- DeepConf


def confident(*values):
    """Top log-probabilities whose token confidences are the values."""
    return -torch.tensor(values)[:, None].expand(-1, 20).clone()


def test_deepconf_mean(chain):
    logits = random_logits(9, 300)
    lp = scipy.special.log_softmax(logits.double().numpy(), -1)
    expected = np.mean([-np.sort(row)[::-1][:20].mean() for row in lp])
    assert d.deepconf_mean(chain(logits)["top_logprobs"]).item() == pytest.approx(expected, rel=1e-6)
    assert d.deepconf_mean(chain(torch.zeros(2, 1000))["top_logprobs"]).item() == pytest.approx(math.log(1000))


@pytest.mark.parametrize("vocab", [1, 2, 19, 20, 21])
def test_deepconf_mean_in_a_small_vocabulary(chain, vocab):
    logits = random_logits(5, vocab)
    lp = scipy.special.log_softmax(logits.double().numpy(), -1)
    expected = np.mean([-np.sort(row)[::-1][:20].mean() for row in lp])
    assert d.deepconf_mean(chain(logits)["top_logprobs"]).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_deepconf_leaves_out_what_the_model_rules_out(chain):
    """Else one token of probability 0 would make the confidence infinite; each row has its own."""
    logits = torch.full((2, 40), -INF)
    logits[0, :2] = 0.0
    logits[1, :4] = 0.0
    got = d.deepconf_mean(chain(logits)["top_logprobs"]).item()
    assert got == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_deepconf_tail():
    c = confident(1.0, 2.0, 3.0, 5.0)
    assert d.deepconf_tail(c, tokens=2).item() == 4.0
    assert d.deepconf_tail(c, tokens=1).item() == 5.0
    assert (
        d.deepconf_tail(c, tokens=4).item() == d.deepconf_tail(c, tokens=5).item() == d.deepconf_tail(c).item() == 2.75
    )


def test_deepconf_lowest_window():
    c = confident(4.0, 1.0, 3.0, 1.0, 9.0)
    assert d.deepconf_lowest_window(c, window=1).item() == 1.0
    assert d.deepconf_lowest_window(c, window=2).item() == 2.0
    assert d.deepconf_lowest_window(c, window=3).item() == pytest.approx(5 / 3)
    assert d.deepconf_lowest_window(c, window=5).item() == d.deepconf_lowest_window(c).item() == pytest.approx(3.6)


def test_deepconf_bottom():
    c = confident(*map(float, range(21)))  # windows of 2 have means .5, 1.5, ... 19.5
    assert d.deepconf_bottom(c, window=2).item() == 1.0  # the two lowest of twenty
    assert d.deepconf_bottom(c, window=2, share=0.05).item() == 0.5
    assert d.deepconf_bottom(c, window=2, share=0.01).item() == 0.5
    assert d.deepconf_bottom(c, window=2, share=1.0).item() == 10.0
    assert d.deepconf_bottom(c).item() == 10.0  # shorter than the window: one window


@pytest.mark.parametrize("n", [1, 3, 15, 16, 17, 60])
@pytest.mark.parametrize("width", [1, 16, 100])
def test_windows_against_a_loop(n, width):
    values = torch.rand(n, generator=torch.Generator().manual_seed(n))
    full = min(width, n)
    expected = [math.fsum(values[i : i + full].tolist()) / full for i in range(n - full + 1)]
    np.testing.assert_allclose(d.windows(values, width), expected, rtol=1e-5)


def test_options_out_of_range_are_refused():
    c = confident(1.0, 2.0)
    for width in (0, -1):
        with pytest.raises(ValueError, match=f"tokens={width} is below 1"):
            d.deepconf_tail(c, tokens=width)
        with pytest.raises(ValueError, match=f"window={width} is below 1"):
            d.deepconf_lowest_window(c, window=width)
        with pytest.raises(ValueError, match=f"window={width} is below 1"):
            d.deepconf_bottom(c, window=width)
    for share in (0, -1, 1.5):
        with pytest.raises(ValueError, match=f"share={share} is outside"):
            d.deepconf_bottom(c, share=share)
        with pytest.raises(ValueError, match=f"share={share} is outside"):
            d.top_share_entropy(H, share=share)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_nan_is_not_hidden(chain, row):
    """Also in the first token, whose padding must not decide for the others."""
    logits = random_logits(3, 50)
    logits[row, 4] = math.nan
    out = chain(logits)
    largest = out["top_logprobs"]
    for metric in (d.margin, d.topk_negentropy, d.deepconf_mean, d.deepconf_tail, d.deepconf_lowest_window):
        assert metric(largest).isnan(), metric.__name__
    for metric in (d.mean_entropy, d.max_entropy, d.top_share_entropy):
        assert metric(out["entropy"]).isnan(), metric.__name__
    for metric in (d.renyi, d.fisher_rao):
        assert metric(out["log_half_power"], out["log_vocabulary"]).isnan()
    assert d.self_certainty(out["mean_log_probability"], out["log_vocabulary"]).isnan()
    assert d.boosted_prob(out["boosted_probability"]).isnan()
    assert d.mean_varentropy(out["varentropy"]).isnan()
    assert d.deepconf_bottom(largest, window=1).isnan()


def test_entropy_distribution():
    values = [1.0, 3.0, 2.0, 2.0, 5.0, 5.0, 0.0]  # peaks: 3, and the run of 5
    found = d.entropy_distribution(torch.tensor(values)).tolist()
    mean = sum(values) / 7
    spread = (sum((v - mean) ** 2 for v in values) / 7) ** 0.5
    assert found == pytest.approx([mean, spread, 0, 0.6, 1.5, 2, 4, 5, 5, 2, 4, 2 / 7])
    assert d.entropy_distribution(torch.tensor([2.0])).tolist() == [2, 0, *[2] * 7, 1, 2, 1]
    assert d.entropy_distribution(torch.tensor([1.0, 1.0])).tolist()[-3:] == [1, 1, 0.5]
    assert d.entropy_distribution(torch.tensor([3.0, 1.0, 2.0])).tolist()[-3:] == pytest.approx([2, 2.5, 2 / 3])
    assert d.entropy_distribution(torch.tensor([1.0, torch.nan])).isnan().all()
