"""Scores of further passes, by hand, and as lm-polygraph 0.7.0 scores the same numbers."""

import math

import pytest
import torch

from metrics.core import metrics

L = torch.tensor([-0.5, -1.25, -0.125, -3.0])
ALONE = torch.tensor([-7.0, -2.0, -4.5, -1.5])
H = torch.tensor([1.0, 0.05, 0.0656, 2.0])
HEADS = torch.tensor([[0.1, 0.2, 0.05, 0.15], [0.02, 0.3, 0.01, 0.07], [0.4, 0.1, 0.2, 0.2]])
WITHOUT_FIRST = torch.tensor([0.0, -2.0, -4.5, -1.5])
"""lm-polygraph has no row for the first token, and takes 0 for it."""

POLYGRAPH = {"pmi": -0.78125, "cpmi": -4.17975, "csl": 1.2791666666666668, "p_true": 0.75}
"""MeanPointwiseMutualInformation, MeanConditionalPointwiseMutualInformation, CSL and PTrue of lm-polygraph 0.7.0,
called with the numbers above as greedy_log_likelihoods, greedy_lm_log_likelihoods, entropy and
attention_weights_eliciting_prompt, and with p_true=-0.75."""


def score(name, *signals, **options):
    return metrics()[name].compute(*signals, **options)


def near(value, expected):
    assert float(value) == pytest.approx(float(expected), rel=1e-6)


def test_pmi():
    near(score("pmi", L, ALONE), -((-0.5 + 7) + (-1.25 + 2) + (-0.125 + 4.5) + (-3 + 1.5)) / 4)
    near(score("pmi", L, WITHOUT_FIRST), POLYGRAPH["pmi"])
    near(score("pmi", L[:1], ALONE[:1]), 0.5 - 7)


def test_cpmi():
    by_hand = [-0.5 + 3.599 * 7, -1.25, -0.125 + 3.599 * 4.5, -3 + 3.599 * 1.5]  # the third is at the threshold
    near(score("cpmi", L, ALONE, torch.tensor([1.0, 0.05, 0.07, 2.0])), -sum(by_hand) / 4)
    near(score("cpmi", L.double(), WITHOUT_FIRST.double(), H.double() + 1e-9), POLYGRAPH["cpmi"])
    near(score("cpmi", L, ALONE, H, weight=0.0), -L.mean())
    near(score("cpmi", L, ALONE, H, weight=1.0, threshold=0.0), score("pmi", L, ALONE))


def test_cpmi_where_the_model_is_sure_takes_nothing_off_what_is_impossible_alone():
    near(score("cpmi", L[:1], torch.tensor([-math.inf]), torch.tensor([0.01])), 0.5)


def test_p_true():
    near(-score("p_true", torch.tensor(-0.75)).log(), POLYGRAPH["p_true"])


def test_p_true_relative():
    near(score("p_true_relative", torch.tensor(0.3).log(), torch.tensor(0.1).log()), 0.75)
    near(score("p_true_relative", torch.tensor(-300.0), torch.tensor(-300.0)), 0.5)


def test_p_true_polygraph():
    near(score("p_true_polygraph", torch.tensor(0.2).log()), 0.2)


def test_csl():
    near(score("csl", L, HEADS.mean(0)), POLYGRAPH["csl"])
    near(score("csl", L, torch.full((4,), 0.01)), -L.mean())
    near(score("csl", L[:1], torch.tensor([0.03])), 0.5)


def test_csl_by_head():
    """The authors' code scores each head and averages the scores; that is no longer lm-polygraph's value."""
    each = [-(head * L).sum() / head.sum() for head in HEADS]
    shares = (HEADS / HEADS.sum(-1, keepdim=True)).mean(0)
    near(score("csl_by_head", L, shares), float(sum(each) / 3))
    assert abs(float(score("csl_by_head", L, shares)) - POLYGRAPH["csl"]) > 0.01


def test_csl_next():
    near(score("csl_next", L, torch.tensor([1.0, 0.0, 0.0, 3.0])), (0.5 + 9) / 4)


@pytest.mark.parametrize(
    ("name", "signals"),
    [
        ("pmi", (L, ALONE)),
        ("cpmi", (L, ALONE, H)),
        ("csl", (L, ALONE.exp())),
        ("csl_by_head", (L, ALONE.exp())),
        ("csl_next", (L, ALONE.exp())),
    ],
)
def test_nan_in_any_signal_gives_nan(name, signals):
    for spoilt in range(len(signals)):
        given = [s.clone() for s in signals]
        given[spoilt][1] = math.nan  # where the model is sure, too
        if name == "cpmi" and spoilt == 1:
            given[spoilt][:] = math.nan
        assert score(name, *given).isnan()


def test_no_weight_at_all_is_undefined():
    assert score("csl", L, torch.zeros(4)).isnan()
