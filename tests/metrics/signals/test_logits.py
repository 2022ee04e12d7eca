"""Each signal against closed forms and against slow float64 references that share no code with it."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch
from made_logits import SIZES, of, random_logits, random_tokens

from metrics.core import signals

INF = math.inf


# --- the softmax in its parts


def test_shifted_logits(chain):
    out = chain([[1.0, 4.0, -2.0], [-7.0, -7.0, -INF]])["shifted_logits"]
    assert out.tolist() == [[-3.0, 0.0, -6.0], [0.0, 0.0, -INF]]


def test_weights(chain):
    out = chain([[0.0, math.log(2.0), -INF]])["weights"]
    torch.testing.assert_close(out, torch.tensor([[0.5, 1.0, 0.0]]))


def test_normalizer(chain):
    out = chain([[0.0, math.log(2.0), -INF], [3.0, 3.0, 3.0]])["normalizer"]
    torch.testing.assert_close(out, torch.tensor([1.5, 3.0]))


@pytest.mark.parametrize("vocab", SIZES)
def test_log_probabilities(chain, log_softmax64, vocab):
    logits = random_logits(5, vocab)
    np.testing.assert_allclose(chain(logits)["log_probabilities"], log_softmax64(logits), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vocab", SIZES)
def test_probabilities(chain, vocab):
    logits = random_logits(5, vocab)
    out = chain(logits)["probabilities"]
    np.testing.assert_allclose(out, scipy.special.softmax(logits.double().numpy(), -1), rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(out.sum(-1), torch.ones(5))


def test_logits_of_ten_thousand_neither_overflow_nor_vanish(chain):
    out = chain([[1e4, 1e4 - 1, -1e4], [-1e4, -1e4, -1e4]], [0, 1])
    top = -math.log1p(math.exp(-1))
    torch.testing.assert_close(out["log_probabilities"][0], torch.tensor([top, top - 1, top - 2e4]))
    torch.testing.assert_close(out["logprob"], torch.tensor([top, -math.log(3)]))
    p = 1 / (1 + math.exp(-1))
    assert out["entropy"][0].item() == pytest.approx(-p * math.log(p) - (1 - p) * math.log(1 - p), rel=1e-5)
    assert all(v.isfinite().all() for n, v in out.items() if n != "top_logprobs")
    certain = chain([[1e4, 0.0, 0.0]], [1])
    assert certain["entropy"].item() == certain["varentropy"].item() == 0
    assert certain["logprob"].item() == -1e4
    assert certain["rank"].item() == 1


# --- one number a token


@pytest.mark.parametrize("vocab", SIZES)
def test_logprob(chain, log_softmax64, vocab):
    logits, tokens = random_logits(7, vocab), random_tokens(7, vocab)
    out = chain(logits, tokens)["logprob"]
    reference = torch.distributions.Categorical(logits=logits.double()).log_prob(tokens)
    torch.testing.assert_close(out.double(), reference, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(out, log_softmax64(logits)[np.arange(7), tokens], rtol=1e-6, atol=1e-6)


def test_logprob_of_a_token_that_is_ruled_out_is_minus_infinity(chain):
    out = chain([[0.0, 0.0, -INF]] * 2, [2, 1])["logprob"]
    assert out[0].item() == -INF
    assert out[1].item() == pytest.approx(-math.log(2))


@pytest.mark.parametrize("vocab", SIZES)
def test_entropy(chain, vocab):
    logits = random_logits(7, vocab)
    out = chain(logits)["entropy"]
    p = scipy.special.softmax(logits.double().numpy(), -1)
    np.testing.assert_allclose(out, scipy.stats.entropy(p, axis=-1), rtol=1e-5, atol=1e-6)
    reference = torch.distributions.Categorical(logits=logits.double()).entropy()
    torch.testing.assert_close(out.double(), reference, rtol=1e-5, atol=1e-6)


def test_entropy_closed_forms(chain):
    out = chain(torch.stack([of([0.25] * 4), of([1.0, 0, 0, 0]), of([0.5, 0.5, 0, 0]), of([0.9, 0.1, 0, 0])]))[
        "entropy"
    ]
    two = -0.9 * math.log(0.9) - 0.1 * math.log(0.1)
    torch.testing.assert_close(out, torch.tensor([math.log(4), 0.0, math.log(2), two]))


@pytest.mark.parametrize("vocab", SIZES)
def test_varentropy(chain, vocab):
    logits = random_logits(7, vocab)
    p = scipy.special.softmax(logits.double().numpy(), -1)
    expected = []
    for row in p:
        surprisal = [-math.log(q) for q in row]
        mean = math.fsum(q * s for q, s in zip(row, surprisal))
        expected.append(math.fsum(q * (s - mean) ** 2 for q, s in zip(row, surprisal)))
    np.testing.assert_allclose(chain(logits)["varentropy"], expected, rtol=1e-5, atol=1e-6)


def test_varentropy_closed_forms(chain):
    rows = [of([0.25] * 4), of([1.0, 0, 0, 0]), of([0.5, 0.5, 0, 0]), of([0.9, 0.1, 0, 0])]
    two = 0.9 * 0.1 * math.log(9) ** 2  # a Bernoulli: p q (ln p/q)^2
    torch.testing.assert_close(
        chain(torch.stack(rows))["varentropy"], torch.tensor([0.0, 0.0, 0.0, two]), rtol=1e-5, atol=1e-11
    )


@pytest.mark.parametrize("scale", [0.1, 1.0, 3.0, 10.0])
def test_a_vocabulary_of_128k_loses_nothing_in_float32(chain, scale):
    logits = random_logits(2, 128_256, scale)
    out = chain(logits, [0, 5])
    lp = logits.double().log_softmax(-1)
    h = -(lp.exp() * lp).sum(-1)
    v = (lp.exp() * (lp + h[:, None]) ** 2).sum(-1)
    half = (logits.double() / 2).softmax(-1).sqrt().sum(-1).log()
    for name, expected in {
        "entropy": h,
        "varentropy": v,
        "mean_log_probability": lp.mean(-1),
        "log_half_power": half,
        "logprob": lp[[0, 1], [0, 5]],
    }.items():
        torch.testing.assert_close(out[name].double(), expected, rtol=3e-6, atol=3e-6, msg=f"{name}: {out[name]}")


def test_a_uniform_vocabulary_of_128k(chain):
    out = chain(torch.full((1, 128_256), -3.3))
    ln_v = math.log(128_256)
    assert out["entropy"].item() == pytest.approx(ln_v, rel=1e-6)
    assert 0 <= out["varentropy"].item() < 1e-9
    assert out["mean_log_probability"].item() == pytest.approx(-ln_v, rel=1e-6)
    assert out["log_half_power"].item() == pytest.approx(ln_v / 2, rel=1e-6)


def test_possible(chain):
    out = chain([[0.0, -INF, 3.0, -INF], [1.0, 1.0, 1.0, -1e4], [-INF, -INF, -INF, 2.0]])["possible"]
    assert out.tolist() == [2, 4, 1]


def test_mean_log_probability(chain):
    logits = [[0.0, -INF, math.log(3.0)], [2.0, 2.0, 2.0]]
    out = chain(logits)["mean_log_probability"]
    torch.testing.assert_close(out, torch.tensor([(math.log(0.25) + math.log(0.75)) / 2, -math.log(3)]))


def test_log_vocabulary(chain):
    out = chain([[0.0, -INF, 3.0], [1.0, 1.0, 1.0], [-INF, 0.0, -INF]])["log_vocabulary"]
    torch.testing.assert_close(out, torch.tensor([math.log(2), math.log(3), 0.0]))


@pytest.mark.parametrize("vocab", SIZES)
def test_log_half_power(chain, vocab):
    logits = random_logits(5, vocab)
    q = scipy.special.softmax(logits.double().numpy() / 2, -1)  # temperature 2
    np.testing.assert_allclose(chain(logits)["log_half_power"], np.log(np.sqrt(q).sum(-1)), rtol=1e-5, atol=2e-6)


def test_log_half_power_by_hand(chain):
    # p = (16, 1) / 17 -> q = (4, 1) / 5 -> sqrt q = (2, 1) / sqrt 5
    out = chain(torch.stack([of([16 / 17, 1 / 17]), of([1.0, 0.0]), of([0.5, 0.5])]))["log_half_power"]
    torch.testing.assert_close(out, torch.tensor([math.log(3 / math.sqrt(5)), 0.0, math.log(2) / 2]))


# --- rank


def test_rank(chain):
    logits = [[3.0, 1.0, 2.0, 1.0, -INF]] * 5
    assert chain(logits, [0, 1, 2, 3, 4])["rank"].tolist() == [0, 2, 1, 2, 4]


@pytest.mark.parametrize("vocab", SIZES)
def test_rank_of_random_tokens(chain, vocab):
    logits, tokens = random_logits(9, vocab), random_tokens(9, vocab)
    expected = [sum(v > row[t] for v in row) for row, t in zip(logits.tolist(), tokens.tolist())]
    assert chain(logits, tokens)["rank"].tolist() == expected


def test_all_tied_is_rank_zero(chain):
    assert chain(torch.zeros(3, 30), [0, 15, 29])["rank"].tolist() == [0, 0, 0]


# --- what no model should send, and does


@pytest.mark.parametrize("bad", [math.nan, INF])
@pytest.mark.parametrize("vocab", [1, 5, 20, 300])
def test_nan_and_plus_infinity_spoil_their_own_row_only(chain, bad, vocab):
    logits = random_logits(3, vocab)
    clean = chain(logits, [0, 0, 0])
    logits[1, -1] = bad
    out = chain(logits, [0, 0, 0])
    for name in ("logprob", "entropy", "varentropy", "mean_log_probability", "log_vocabulary", "log_half_power"):
        assert out[name].isnan().tolist() == [False, True, False], name
    assert out["boosted_probability"].isnan().tolist() == [False, True, False]
    assert out["top_logprobs"][1, : min(20, vocab)].isnan().all()
    assert out["rank"][1].item() == -1
    assert (out["top_tokens"][1] == -1).all()
    for name, value in clean.items():
        assert not signals()[name].kept or torch.equal(out[name][[0, 2]], value[[0, 2]]), name


def test_a_row_of_minus_infinities_is_undefined(chain):
    out = chain([[-INF, -INF]])
    assert all(out[n].isnan().all() for n in ("logprob", "entropy", "varentropy", "log_vocabulary", "log_half_power"))


def test_tokens_ruled_out_equal_a_smaller_vocabulary(chain):
    inner = random_logits(6, 30)
    outer = torch.full((6, 77), -INF)
    outer[:, 20:50] = inner
    tokens = random_tokens(6, 30)
    small, large = chain(inner, tokens), chain(outer, tokens + 20)
    for name in ("logprob", "entropy", "varentropy", "mean_log_probability", "log_vocabulary", "log_half_power"):
        torch.testing.assert_close(large[name], small[name], rtol=1e-5, atol=1e-6, msg=name)
    torch.testing.assert_close(large["boosted_probability"], small["boosted_probability"])
    assert torch.equal(large["rank"], small["rank"])
    assert torch.equal(large["top_tokens"], small["top_tokens"] + 20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_lowest_number_of_a_type_rules_out_as_minus_infinity_does(chain, dtype):
    """Chameleon in transformers writes finfo.min into the logits of image tokens."""
    logits = torch.tensor([[1.0, 0.5, -0.5, 0.0]] * 2, dtype=dtype)
    lowest, infinite = logits.clone(), logits.clone()
    lowest[:, 2] = torch.finfo(dtype).min
    infinite[:, 2] = -INF
    got, expected = chain(lowest, [0, 2]), chain(infinite, [0, 2])
    for name, value in expected.items():
        assert name == "shifted_logits" or torch.equal(got[name], value), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_lifted_before_anything_else(chain, dtype):
    """Logits that the half type holds exactly give what float32 gives, to the last bit."""
    logits = random_logits(8, 500).to(dtype)
    tokens = random_tokens(8, 500)
    half, single = chain(logits, tokens), chain(logits.float(), tokens)
    for name, value in single.items():
        assert half[name].dtype == value.dtype
        assert torch.equal(half[name], value), name


def test_float64_is_taken_too(chain):
    logits = random_logits(3, 40)
    assert torch.equal(chain(logits.double())["entropy"], chain(logits)["entropy"])


def test_a_constant_added_to_the_logits_changes_nothing(chain):
    logits, tokens = random_logits(4, 64).round(decimals=2), random_tokens(4, 64)
    base, moved = chain(logits, tokens), chain(logits + 64, tokens)
    for name, value in base.items():
        expected = value + 64 if name == "log_normalizer" else value
        torch.testing.assert_close(moved[name], expected, rtol=1e-4, atol=1e-4, msg=name)


def test_no_token_is_no_error(chain):
    out = chain(torch.zeros(0, 30))
    assert out["entropy"].shape == (0,)
    assert out["top_logprobs"].shape == (0, 20)
