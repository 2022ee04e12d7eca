"""Each signal against closed forms and against slow float64 references that share no code with it."""

import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from metrics.core import signals

INF = math.inf
SIZES = [1, 2, 3, 19, 20, 21, 199, 200, 201, 1000]


def random_logits(n, vocab, scale=3.0, seed=0):
    return torch.randn(n, vocab, generator=torch.Generator().manual_seed(seed)) * scale


def random_tokens(n, vocab, seed=0):
    return torch.randint(0, vocab, (n,), generator=torch.Generator().manual_seed(seed))


def of(probabilities):
    """Logits of a distribution, moved by a constant that must not matter; 0 becomes -inf."""
    return (torch.tensor(probabilities, dtype=torch.float64).log() + 5.25).float()


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


# --- the largest


@pytest.mark.parametrize("vocab", SIZES)
def test_top_logprobs(chain, log_softmax64, vocab):
    logits = random_logits(4, vocab)
    out = chain(logits)["top_logprobs"]
    assert out.shape == (4, 20)
    k = min(20, vocab)
    np.testing.assert_allclose(out[:, :k], -np.sort(-log_softmax64(logits))[:, :k], rtol=1e-6, atol=1e-6)
    assert (out[:, k:] == -INF).all()


@pytest.mark.parametrize("vocab", SIZES)
def test_top_tokens(chain, vocab):
    logits = random_logits(4, vocab)
    out = chain(logits)
    k = min(20, vocab)
    assert out["top_tokens"].shape == (4, 20)
    assert out["top_tokens"][:, :k].tolist() == np.argsort(-logits.numpy(), -1, kind="stable")[:, :k].tolist()
    assert (out["top_tokens"][:, k:] == -1).all()
    own = out["log_probabilities"].gather(-1, out["top_tokens"][:, :k].long())
    assert torch.equal(own, out["top_logprobs"][:, :k])


def test_tokens_that_are_ruled_out_are_not_among_the_largest(chain):
    logits = torch.full((1, 50), -INF)
    logits[0, [7, 3]] = torch.tensor([1.0, 0.0])
    out = chain(logits)
    assert out["top_tokens"][0].tolist() == [7, 3] + [-1] * 18
    assert (out["top_logprobs"][0, 2:] == -INF).all()
    assert out["top_logprobs"][0, :2].exp().sum().item() == pytest.approx(1)


WIDE = [*SIZES, 1279, 1280, 1281, 1295, 3333, 12_799, 12_800, 12_801, 12_817, 40_000]


@pytest.mark.parametrize("vocab", WIDE)
@pytest.mark.parametrize("scale", [0.0, 0.2, 4.0])
def test_largest(chain, vocab, scale):
    """All that matter to BoostedProb, whatever shortcut finds them; scale 0 ties all, the next leaves many."""
    out = chain((random_logits(3, vocab, scale) * 8).round() / 8)
    ordered = out["log_probabilities"].sort(-1, descending=True).values
    width = out["largest"].shape[-1]
    assert min(20, vocab) <= width <= min(200, vocab)
    assert torch.equal(out["largest"], ordered[:, :width])
    assert width == 200 or (ordered[:, width:].exp() <= 0.005).all()


@pytest.mark.parametrize("vocab", WIDE)
@pytest.mark.parametrize("scale", [0.0, 0.2, 4.0])
def test_largest_tokens(chain, vocab, scale):
    out = chain((random_logits(3, vocab, scale) * 8).round() / 8)
    width = out["largest_tokens"].shape[-1]
    assert min(20, vocab) <= width <= min(200, vocab)
    assert torch.equal(out["log_probabilities"].gather(-1, out["largest_tokens"]), out["largest"][:, :width])
    assert all(len(set(row)) == width for row in out["largest_tokens"].tolist())
    k = min(20, vocab)
    own = out["log_probabilities"].gather(-1, out["top_tokens"][:, :k].long())
    assert torch.equal(own, out["top_logprobs"][:, :k])


def test_the_largest_of_a_peaked_row_beside_a_flat_one(chain):
    """Rows that are reduced together may differ in how many tokens matter."""
    logits = torch.zeros(3, 5000)
    logits[0, 4321] = 30.0
    logits[1, 100:280] = 20.0
    tokens = [4321, 279, 280]
    together = chain(logits, tokens)
    np.testing.assert_allclose(together["boosted_probability"], [1, 1, 1 / 5000], rtol=1e-4)
    for row in range(3):
        alone = chain(logits[row : row + 1], tokens[row : row + 1])
        for name in ("top_logprobs", "boosted_probability", "rank"):
            assert torch.equal(alone[name][0], together[name][row]), name


# --- BoostedProb


def boosted_by_loop(logits, token):
    """The definition, one token at a time, in float64."""
    z = [float(v) for v in logits]
    top = max(z)
    w = [math.exp(v - top) for v in z]
    p = [v / math.fsum(w) for v in w]
    order = sorted(range(len(p)), key=lambda v: -p[v])
    last = -1
    for i in range(len(p) - 1):
        drop = p[order[i]] - p[order[i + 1]]
        if drop > 0.3 * p[order[i]] and drop > 0.005:
            last = i
    dominant = order[: last + 1]
    return math.fsum(p[v] for v in dominant) if token in dominant else p[token]


@pytest.mark.parametrize("vocab", [v for v in SIZES if v > 1])
@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0, 8.0])
def test_boosted_probability(chain, vocab, scale):
    logits = random_logits(12, vocab, scale, seed=vocab)
    tokens = torch.where(torch.arange(12) % 2 == 0, logits.argmax(-1), random_tokens(12, vocab))
    expected = [boosted_by_loop(row, int(t)) for row, t in zip(logits, tokens)]
    np.testing.assert_allclose(chain(logits, tokens)["boosted_probability"], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("p", "token", "expected"),
    [
        ([0.5, 0.4, 0.06, 0.04], 1, 0.96),  # .06 -> .04 is the last drop above 30 %
        ([0.5, 0.4, 0.06, 0.04], 3, 0.04),
        ([0.45, 0.45, 0.05, 0.05], 1, 0.9),  # two tied tokens dominate
        ([0.45, 0.45, 0.05, 0.05], 2, 0.05),
        ([0.25, 0.25, 0.25, 0.25], 2, 0.25),  # no drop, nobody dominates
        ([0.5, 0.5, 0.0, 0.0], 0, 1.0),
        ([1.0, 0.0, 0.0, 0.0], 0, 1.0),
        ([1.0, 0.0, 0.0, 0.0], 3, 0.0),
        ([0.28, 0.26, 0.24, 0.22], 0, 0.28),  # drops too small
        ([0.9, 0.1], 1, 0.1),
        ([1.0], 0, 1.0),
    ],
)
def test_boosted_probability_by_hand(chain, p, token, expected):
    assert chain(of([p]), [token])["boosted_probability"].item() == pytest.approx(expected, abs=1e-6)


def test_boosted_probability_looks_only_at_drops_above_half_a_percent(chain):
    p = [0.99 - 0.006 - 0.001, 0.0075, 0.0014, 0.0001]
    p = [v / sum(p) for v in p]
    # .0075 -> .0014 drops by .0061, counted; .0014 -> .0001 by .0013, not counted
    assert chain(of([p]), [0])["boosted_probability"].item() == pytest.approx(p[0] + p[1], abs=1e-6)
    assert chain(of([p]), [2])["boosted_probability"].item() == pytest.approx(p[2], rel=1e-4)


def test_boosted_probability_sees_the_199th_token(chain):
    """198 equal tokens above the cut and a long flat tail: the last cut is as deep as a cut can be."""
    p = [1 / 198 - 1e-6] * 198 + [198e-6 / 5000] * 5000
    out = chain(of([p, p]), [197, 4000])["boosted_probability"]
    np.testing.assert_allclose(out, [1 - 198e-6, 198e-6 / 5000], rtol=1e-4)


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
