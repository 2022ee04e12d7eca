import numpy as np
import pytest
from scipy.stats import spearmanr

from metrics.cases import Case
from metrics.figures import scores


def case(n=60, wrong=None, **given):
    rng = np.random.default_rng(0)
    wrong = rng.random(n) < 0.4 if wrong is None else np.asarray(wrong)
    names = ("answer_length", "random", "mean_nll", "mean_entropy", "margin")
    made = {name: rng.normal(size=len(wrong)) + wrong for name in names} | given
    return Case("t", "acc@none", made, (~wrong).astype(float), wrong)


NAMES = ("mean_nll", "mean_entropy", "margin")


def test_every_answer_is_in_one_bar_of_each_distribution():
    one = case(margin=np.where(np.arange(60) % 10 == 0, np.inf, np.arange(60.0)))
    numbers = scores.distributions(one, NAMES).numbers
    counts = numbers.groupby("metric")[["right", "wrong"]].sum()
    assert (counts["right"] == (~one.wrong).sum()).all() and (counts["wrong"] == one.wrong.sum()).all()
    entropy = numbers[numbers["metric"] == "mean_entropy"]
    score = one.scores["mean_entropy"]
    for _, bar in entropy.iterrows():
        inside = (score >= bar["from"]) & (score < bar["to"])
        assert bar["right"] == (inside & ~one.wrong).sum() and bar["wrong"] == (inside & one.wrong).sum()


def test_a_metric_of_confidence_is_shown_with_its_own_sign():
    one = case(margin=-np.arange(60.0))  # oriented: high = uncertain, so the margins themselves are 0 to 59
    numbers = scores.distributions(one, ["margin"]).numbers
    assert 0 <= numbers["from"].iloc[1] < numbers["to"].iloc[-2] <= 59


def test_unscored_answers_are_in_no_bar():
    one = case(margin=np.where(np.arange(60) < 7, np.nan, 1.0))
    numbers = scores.distributions(one, ["margin"]).numbers
    assert numbers[["right", "wrong"]].to_numpy().sum() == 53


def test_the_numbers_of_a_roc_figure_are_its_curve_and_band():
    one = case()
    numbers = scores.roc(one, NAMES, seed=0, replicates=50).numbers
    of = numbers[numbers["metric"] == "margin"]
    score, wrong = one.scores["margin"], one.wrong
    threshold = np.sort(score[~wrong])[::-1][11]  # the twelfth of the right ones is flagged, and no tie
    rate = float((score[~wrong] >= threshold).mean())
    height = float((score[wrong] >= threshold).mean())
    assert np.interp(rate, of["fpr"], of["tpr"]) == pytest.approx(height, abs=0.05)
    assert (of["lower"] <= of["upper"]).all() and list(of["fpr"]) == list(np.linspace(0, 1, 101))


def test_the_numbers_of_risk_and_coverage_are_running_error_rates():
    one = case()
    numbers = scores.coverage(one, ["margin"]).numbers
    surest_first = one.wrong[np.argsort(one.scores["margin"])]
    assert np.allclose(numbers["risk"], [surest_first[:k].mean() for k in range(1, 61)])


@pytest.mark.parametrize("wrong", [np.ones(20, bool), np.zeros(20, bool), np.arange(3) == 1, np.ones(1, bool)])
def test_one_class_and_few_documents_are_drawn(wrong):
    one = case(wrong=wrong)
    scores.roc(one, NAMES, seed=0, replicates=5)
    scores.coverage(one, NAMES)
    assert len(scores.distributions(one, NAMES).numbers)


def test_a_graded_label_is_refused_with_the_remedy():
    one = Case("t", "f1@none", case().scores, np.linspace(0, 1, 60), None)
    with pytest.raises(ValueError, match="--threshold"):
        scores.roc(one, NAMES, seed=0, replicates=5)


def test_correlations_are_scipys_over_pairs_that_both_score():
    rng = np.random.default_rng(2)
    table = rng.normal(size=(4, 50)).round(1)
    table[1, :10] = np.nan
    table[3] = 1.0
    rho = scores.rank_correlations(table)
    both = ~np.isnan(table[1])
    assert rho[0, 1] == pytest.approx(spearmanr(table[0][both], table[1][both]).statistic)
    assert rho[0, 2] == rho[2, 0] == pytest.approx(spearmanr(table[0], table[2]).statistic)
    assert np.isnan(rho[3]).all() and np.isnan(rho[:, 3]).all() and rho[0, 0] == 1


def test_like_metrics_stand_together():
    base = np.array([[1.0, 0.1, 0.9, 0.2], [0.1, 1.0, 0.2, 0.9], [0.9, 0.2, 1.0, 0.1], [0.2, 0.9, 0.1, 1.0]])
    order = scores.clustered(base).tolist()
    assert abs(order.index(0) - order.index(2)) == 1 and abs(order.index(1) - order.index(3)) == 1


def test_the_matrix_of_correlations_is_written_in_the_order_drawn():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 30))
    picture = scores.correlation("t", {"mean_nll": x, "random": y, "perplexity": np.exp(x), "margin": np.ones(30)})
    names = list(picture.numbers["metric"])
    assert list(picture.numbers.columns[1:]) == names and abs(names.index("mean_nll") - names.index("perplexity")) == 1
    assert picture.numbers.set_index("metric").loc["mean_nll", "perplexity"] == pytest.approx(1)
    with pytest.raises(ValueError, match="two metrics"):
        scores.correlation("t", {"mean_nll": x})


def test_metrics_are_chosen_by_family_and_baselines_last():
    names = ["random", "mean_nll", "sequence_nll", "mean_entropy", "answer_length"]
    assert scores.first_of_families(names, 9) == ["mean_nll", "mean_entropy", "sequence_nll", "random", "answer_length"]
    assert scores.first_of_families(names, 2) == ["mean_nll", "mean_entropy"]
