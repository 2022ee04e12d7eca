"""Scores of the layers' predictions, by hand and against loops."""

import math

import numpy as np
import pytest
import torch

from metrics.uncertainty import lens

NAN = math.nan


def layers(*rows):
    return torch.tensor(rows, dtype=torch.float32)


def test_lens_entropy_mean():
    assert lens.lens_entropy_mean(layers([1.0, 2.0], [3.0, 6.0])).item() == 3.0


def test_entropy_profile():
    values = layers([1.0, 2.0, 3.0, 4.0], [5.0, 5.0, 7.0, 7.0])
    assert lens.entropy_profile(values, windows=2).tolist() == [1.5, 3.5, 5.0, 7.0]
    assert lens.entropy_profile(values, windows=1).tolist() == [2.5, 6.0]


@pytest.mark.parametrize("tokens", [1, 3, 8, 13])
def test_the_windows_of_a_profile_are_never_empty(tokens):
    values = torch.rand(2, tokens)
    slow = [
        [row[math.floor(w * tokens / 8) : math.ceil((w + 1) * tokens / 8)].mean().item() for w in range(8)]
        for row in values
    ]
    np.testing.assert_allclose(lens.entropy_profile(values), np.ravel(slow), rtol=1e-6)


def test_evolution_kl():
    """A constant over the layers that count stays that constant, whatever the others hold."""
    values = torch.cat([torch.full((28, 3), 9.0), torch.full((4, 3), 2.0), torch.zeros(1, 3)])
    assert lens.evolution_kl(values).item() == 2.0
    assert lens.evolution_kl(values, last=32).item() == pytest.approx((28 * 9 + 4 * 2) / 32)
    assert lens.evolution_kl(values, last=99) == lens.evolution_kl(values, last=32)


def test_evolution_kl_variance():
    values = torch.cat([torch.full((28, 3), 9.0), torch.full((4, 3), 2.0), torch.zeros(1, 3)])
    assert lens.evolution_kl_variance(values).item() == 0.0
    assert lens.evolution_kl_variance(layers([1.0, 2.0], [5.0, 4.0], [0.0, 0.0])).item() == (4.0 + 1.0) / 2
    assert lens.evolution_kl_variance(layers([1.0], [0.0])).item() == 0.0


def test_evolution_entropy():
    assert lens.evolution_entropy(layers([7.0, 7.0], [1.0, 3.0], [2.0, 4.0], [9.0, 9.0]), last=2).item() == 2.5


def test_evolution_entropy_variance():
    assert lens.evolution_entropy_variance(layers([1.0, 4.0], [3.0, 4.0], [9.0, 9.0])).item() == 0.5


def test_evolution_quarters():
    assert lens.evolution_quarters(torch.tensor([1.0, 2.0, 6.0])).item() == 3.0


@pytest.mark.parametrize(
    "score",
    [lens.evolution_kl, lens.evolution_kl_variance, lens.evolution_entropy, lens.evolution_entropy_variance],
)
def test_one_layer_alone_has_no_evolution(score):
    assert score(torch.ones(1, 4)).isnan()
    with pytest.raises(ValueError, match="last=0 is below 1"):
        score(torch.ones(3, 4), last=0)


def test_exit_depth_margin():
    values = layers(
        [0.95, 0.1, 0.1, 0.95],
        [0.2, 0.2, 0.9, 0.95],  # the first token's first layer was sure, and then not any more
        [0.9, 0.3, 0.95, 0.95],
        [0.99, 0.4, 0.1, 0.99],
        [0.99, 0.5, 0.99, 0.99],
    )
    expected = [2 / 4, 1.0, 1.0, 0.0]
    for column, depth in enumerate(expected):
        assert lens.exit_depth_margin(values[:, column : column + 1]).item() == depth
    assert lens.exit_depth_margin(values).item() == sum(expected) / 4
    assert lens.exit_depth_margin(values, threshold=0.05).item() == 0.0


def test_exit_depth_kl():
    values = layers([3.0, 0.1, 3.0], [0.2, 0.9, 2.0], [0.1, 0.2, 1.0], [0.0, 0.0, 0.0])
    assert lens.exit_depth_kl(values).item() == pytest.approx((1 / 3 + 2 / 3 + 1) / 3)


def test_a_boolean_that_never_holds_gives_the_last_layer_not_the_first():
    """`argmin` of a row of equal booleans gives 0 both when all hold and when none does."""
    assert lens.exit_depth_margin(torch.zeros(5, 2)).item() == 1.0
    assert lens.exit_depth_margin(torch.ones(5, 2)).item() == 0.0


def test_deep_thinking_ratio():
    count = 21  # L = 20: deep from layer 17 on
    values = torch.full((count, 4), 0.6)
    values[-1] = 0.0
    values[16, 0] = 0.5  # settles one too early, at the threshold
    values[17, 1] = 0.4
    values[2, 2] = 0.1  # settled once, whatever follows
    assert lens.deep_thinking_ratio(values).item() == 0.5
    assert lens.deep_thinking_ratio(values, depth=0.9).item() == 0.25
    assert lens.deep_thinking_ratio(values, threshold=0.65).item() == 0.0


def test_dola_contrast():
    jsd = layers([0.1, 0.3], [0.4, 0.3], [0.0, 0.0])
    logprob = layers([-9.0, -4.0], [-5.0, -8.0], [-1.0, -2.0])
    assert lens.dola_contrast(logprob, jsd).item() == ((-1.0 + 5.0) + (-2.0 + 4.0)) / 2  # of equals the first


@pytest.mark.parametrize("score", [lens.exit_depth_margin, lens.exit_depth_kl, lens.deep_thinking_ratio])
def test_nan_and_one_layer_have_no_depth(score):
    values = torch.rand(4, 3)
    values[1, 1] = NAN
    assert score(values).isnan()
    assert score(torch.rand(1, 3)).isnan()


def test_nan_has_no_contrast():
    whole, hole = torch.rand(3, 2), torch.rand(3, 2)
    hole[1, 0] = NAN
    assert lens.dola_contrast(whole, hole).isnan()
    assert lens.dola_contrast(hole, whole).isnan()
    assert lens.dola_contrast(whole[:1], whole[:1]).isnan()


def test_exit_depth_cosine():
    cosine = layers(
        [NAN] * 4, [0.95, 0.5, 0.95, 0.1], [0.2, 0.5, 0.95, 0.1], [0.9, 0.5, 0.95, 0.1], [0.99, 0.5, 0.95, 0.1]
    )
    assert lens.exit_depth_cosine(cosine).item() == pytest.approx((3 / 4 + 1 + 1 / 4) / 3)  # the last step is no token
    assert lens.exit_depth_cosine(cosine[1:], threshold=0.05).item() == 0.0


def test_exit_depth_test():
    """Against the ranks, counted one by one."""
    cosine = torch.rand(6, 31, generator=torch.Generator().manual_seed(0)) ** 0.1
    cosine[0] = NAN
    cosine[1:4] -= 0.5
    change = (1 - cosine[:, :-1]).tolist()
    slow = []
    for t in range(30):
        p = [(1 + sum(c >= change[i][t] for c in change[5])) / 31 for i in range(6)]
        slow.append(min((i for i in range(1, 6) if all(q > 0.2 for q in p[i:])), default=5) / 5)
    assert lens.exit_depth_test(cosine, level=0.2).item() == pytest.approx(np.mean(slow))
    assert 0.2 < np.mean(slow) < 1


def test_a_hole_in_the_cosines_is_nan():
    cosine = torch.rand(4, 3)
    cosine[2, 1] = NAN
    assert lens.exit_depth_cosine(cosine).isnan()
    assert lens.exit_depth_test(cosine).isnan()
