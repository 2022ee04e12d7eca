import math

import numpy as np
import pytest
import scipy.special
import scipy.stats
import torch

from metrics.uncertainty.choices import choice_entropy, choice_margin, choice_probability, option_probabilities

INF = math.inf
ALL = [choice_entropy, choice_margin, choice_probability]


def options(loglikelihood, tokens=None, bytes_=None):
    ones = [1.0] * len(loglikelihood)
    return tuple(torch.tensor(v, dtype=torch.float32) for v in (loglikelihood, tokens or ones, bytes_ or ones))


def of(*probabilities):
    return options([math.log(p) - 40 if p else -INF for p in probabilities])


def test_choice_entropy():
    assert choice_entropy(*of(0.25, 0.25, 0.25, 0.25)).item() == pytest.approx(math.log(4))
    assert choice_entropy(*of(0.5, 0.25, 0.25)).item() == pytest.approx(1.5 * math.log(2), rel=1e-5)
    assert choice_entropy(*of(1.0, 0.0)).item() == 0


def test_choice_margin():
    assert choice_margin(*of(0.5, 0.3, 0.2)).item() == pytest.approx(0.2, rel=1e-4)
    assert choice_margin(*of(0.2, 0.5, 0.3)).item() == pytest.approx(0.2, rel=1e-4)
    assert choice_margin(*of(1.0, 0.0)).item() == 1


def test_choice_probability():
    assert choice_probability(*of(0.2, 0.5, 0.3)).item() == pytest.approx(0.5, rel=1e-4)
    assert choice_probability(*of(0.0, 1.0)).item() == 1


@pytest.mark.parametrize(("norm", "lengths"), [("none", [1, 1, 1]), ("tokens", [2, 4, 5]), ("bytes", [10, 20, 30])])
def test_norms_against_scipy(norm, lengths):
    loglikelihood = [-8.0, -11.0, -17.5]
    inputs = options(loglikelihood, [2, 4, 5], [10, 20, 30])
    q = scipy.special.softmax(np.array(loglikelihood) / lengths)
    np.testing.assert_allclose(option_probabilities(*inputs, norm), q)
    assert choice_entropy(*inputs, norm=norm).item() == pytest.approx(scipy.stats.entropy(q))
    assert choice_margin(*inputs, norm=norm).item() == pytest.approx(np.sort(q)[-1] - np.sort(q)[-2])
    assert choice_probability(*inputs, norm=norm).item() == pytest.approx(q.max())


def test_norms_may_disagree_about_the_best_option():
    inputs = options([-8.0, -9.0], [1, 3], [4, 3])
    assert [int(option_probabilities(*inputs, norm).argmax()) for norm in ("none", "tokens", "bytes")] == [0, 1, 0]


def test_one_option():
    inputs = options([-7.0])
    assert choice_entropy(*inputs).item() == 0
    assert choice_margin(*inputs).isnan()
    assert choice_probability(*inputs).item() == 1


@pytest.mark.parametrize("count", [2, 3, 10])
def test_all_options_tied(count):
    inputs = options([-5.5] * count)
    assert choice_entropy(*inputs).item() == pytest.approx(math.log(count))
    assert choice_margin(*inputs).item() == 0
    assert choice_probability(*inputs).item() == pytest.approx(1 / count)


def test_an_option_of_likelihood_zero_takes_no_part():
    with_zero, without = options([-3.0, -INF, -4.0]), options([-3.0, -4.0])
    for metric in ALL:
        assert metric(*with_zero).item() == pytest.approx(metric(*without).item())


@pytest.mark.parametrize("loglikelihood", [[-INF, -INF], [-1.0, math.nan], [math.nan, math.nan], [-1.0, INF]])
def test_the_undefined_is_nan(loglikelihood):
    for metric in ALL:
        assert metric(*options(loglikelihood)).isnan(), metric.__name__


@pytest.mark.parametrize(("norm", "which"), [("tokens", 1), ("bytes", 2)])
@pytest.mark.parametrize("empty", [-4.0, 0.0])
def test_an_option_of_no_length_is_undefined(norm, which, empty):
    inputs = list(options([-1.0, empty]))
    inputs[which] = torch.tensor([2.0, 0.0])
    for metric in ALL:
        assert metric(*inputs, norm=norm).isnan(), metric.__name__
        assert not metric(*inputs).isnan()


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm='chars' is not known; choose one of none, tokens, bytes"):
        choice_entropy(*options([-1.0, -2.0]), norm="chars")


def test_thousands_of_nats_below_zero_lose_nothing():
    near, far = options([-1.0, -2.0]), options([-4097.0, -4098.0])
    for metric in ALL:
        assert metric(*far).item() == pytest.approx(metric(*near).item(), rel=1e-12)
