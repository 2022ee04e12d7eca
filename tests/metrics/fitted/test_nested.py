"""Nested cross-validation: nothing leaks, the better candidate is chosen, groups are respected."""

import numpy as np
import pytest
from scipy.stats import rankdata

from metrics.fitted.estimators import estimators
from metrics.fitted.nested import Candidate, Embeddings, High, Scheme, Wrong, best_split, choose, fit_nested
from metrics.stats import auroc

LOGISTIC = estimators()["logistic"]


def settings(d, cs=(1.0,)):
    return [Candidate(np.arange(d), {"c": c}) for c in cs]


def test_noise_gives_chance_out_of_fold():
    """200 documents, 2000 inputs of noise in four blocks to choose among: a leak would show. Mean of three sets."""
    found = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x, y = rng.normal(size=(200, 2000)), rng.random(200) < 0.4
        blocks = [Candidate(np.arange(500 * i, 500 * (i + 1)), {"c": 1.0}, i) for i in range(4)]
        made = fit_nested(LOGISTIC, blocks, x, Wrong(y), np.arange(200), Scheme(seed=seed))
        found.append(auroc(made.out_of_fold, y).value)
        assert auroc(made.in_sample, y).value == 1  # which is why it is no result
    assert abs(np.mean(found) - 0.5) < 0.1


def test_copies_of_a_document_leak_unless_they_are_a_group():
    """Each document four times under labels of noise: neighbours find the copy when folds may part them."""
    rng = np.random.default_rng(0)
    x, y = np.repeat(rng.normal(size=(60, 5)), 4, axis=0), np.repeat(rng.random(60) < 0.5, 4)
    near, only = estimators()["neighbours"], [Candidate(np.arange(5), {"k": 3})]
    apart = fit_nested(near, only, x, Wrong(y), np.arange(240), Scheme())
    whole = fit_nested(near, only, x, Wrong(y), np.repeat(np.arange(60), 4), Scheme())
    assert auroc(apart.out_of_fold, y).value > 0.95
    assert abs(auroc(whole.out_of_fold, y).value - 0.5) < 0.15


def test_scores_out_of_fold_do_not_depend_on_the_folds_own_labels():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(100, 4)), rng.random(100) < 0.5
    made = fit_nested(LOGISTIC, settings(4, (0.1, 1.0)), x, Wrong(y), np.arange(100), Scheme())
    first = made.fold == 0
    fitted = np.flatnonzero(~first)
    candidate = choose(LOGISTIC, settings(4, (0.1, 1.0)), x, Wrong(y), np.arange(100), fitted, Scheme())
    params = LOGISTIC.fit(x[fitted], y[fitted], candidate.options, 0)
    raw = LOGISTIC.apply(params, x[first])
    expected = (rankdata(raw) - 0.5) / len(raw)
    np.testing.assert_array_equal(made.out_of_fold[first], expected)
    assert made.chosen[0].words() == candidate.words()


def test_the_informative_block_is_chosen():
    rng = np.random.default_rng(2)
    y = rng.random(200) < 0.5
    x = rng.normal(size=(200, 12))
    x[:, 7] += 2 * y
    blocks = [Candidate(np.arange(4 * i, 4 * i + 4), {"c": 1.0}, layer) for i, layer in enumerate((0, 6, 12))]
    made = fit_nested(LOGISTIC, blocks, x, Wrong(y), np.arange(200), Scheme())
    assert made.candidate.layer == 6 and {c.layer for c in made.chosen} == {6}
    assert made.candidate.words() == "layer=6, c=1.0"
    assert auroc(made.out_of_fold, y).value > 0.85


def test_equal_candidates_give_the_first():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(60, 2)), rng.random(60) < 0.5
    same = [Candidate(np.arange(2), {"c": 1.0}, layer) for layer in (4, 5)]
    assert choose(LOGISTIC, same, x, Wrong(y), np.arange(60), np.arange(60), Scheme()).layer == 4


def test_folds_that_choose_different_layers_are_ranked_within():
    """Distances of 8 and of 64 numbers, about equally telling: pooled as they are, the folds would stand apart."""
    rng = np.random.default_rng(0)
    differ = 0
    for seed in range(12):
        wrong = rng.random(200) < 0.3
        x = rng.normal(size=(200, 72))
        x[wrong, :8] *= 1.3
        x[wrong, 8:] *= 1.1
        both = [Candidate(np.arange(8), {}, 1), Candidate(np.arange(8, 72), {}, 2)]
        made = fit_nested(estimators()["mahalanobis"], both, x, Wrong(wrong), np.arange(200), Scheme(seed=seed))
        differ += len({one.layer for one in made.chosen}) > 1
        each = []
        for k in range(5):
            own, other = np.flatnonzero(made.fold == k), np.flatnonzero(made.fold != k)
            columns = made.chosen[k].columns
            params = estimators()["mahalanobis"].fit(x[np.ix_(other, columns)], wrong[other], {}, 0)
            raw = estimators()["mahalanobis"].apply(params, x[np.ix_(own, columns)])
            below = [(raw < r).mean() + ((raw == r).mean() - 1 / len(raw)) / 2 + 0.5 / len(raw) for r in raw]
            np.testing.assert_allclose(made.out_of_fold[own], below)
            each.append(auroc(raw, wrong[own]).value)
        assert auroc(made.out_of_fold, wrong).value == pytest.approx(np.mean(each), abs=0.03)
    assert differ >= 3


def test_choices_that_need_more_documents_than_an_inner_fold_has_are_left_out():
    rng = np.random.default_rng(6)
    x, y = rng.normal(size=(40, 2)), np.arange(40) % 2 == 0
    ks = [Candidate(np.arange(2), {"k": k}) for k in (3, 9, 27)]
    made = fit_nested(estimators()["neighbours"], ks, x, Wrong(y), np.arange(40), Scheme())
    assert [one.options["k"] for one in made.skipped] == [27]
    assert {one.options["k"] for one in (*made.chosen, made.candidate)} <= {3, 9}
    with pytest.raises(ValueError, match=r"none of 2 choices can be tried: .* 2\d documents"):
        fit_nested(estimators()["neighbours"], ks[2:] * 2, x, Wrong(y), np.arange(40), Scheme())


def test_the_level_of_a_folds_model_does_not_rank_its_documents():
    """A strong penalty leaves little but the base rate of the fitted part, which goes against the fold's own."""
    rng = np.random.default_rng(7)
    group = np.repeat(np.arange(10), 30)
    y = rng.random(300) < np.linspace(0.1, 0.7, 10)[group]
    x = (rng.normal(size=(300, 1)) + y[:, None]) * 1.0
    made = fit_nested(LOGISTIC, settings(1, (1e-6,)), x, Wrong(y), group, Scheme())
    each = [auroc(x[made.fold == k, 0], y[made.fold == k]).value for k in range(5)]
    assert auroc(made.out_of_fold, y).value == pytest.approx(np.mean(each), abs=0.06)


def test_a_layer_that_does_not_vary_is_not_tried():
    """The embedding of the template's last token is the same in every document."""
    rng = np.random.default_rng(8)
    y = np.arange(60) % 2 == 0
    x = np.c_[np.ones((60, 3)), rng.normal(size=(60, 3)) + y[:, None]]
    layers = [Candidate(np.arange(3 * i, 3 * i + 3), {"c": 1.0}, i) for i in (0, 1)]
    made = fit_nested(LOGISTIC, layers, x, Wrong(y), np.arange(60), Scheme())
    assert [one.layer for one in made.skipped] == [0] and {one.layer for one in made.chosen} == {1}


def test_best_split_is_the_least_of_all():
    rng = np.random.default_rng(4)
    for values in (rng.exponential(size=31), np.r_[np.zeros(10), np.ones(4), 3.0], np.array([1.0, 2.0])):
        distinct = np.unique(values)
        costs = {}
        for t in (distinct[1:] + distinct[:-1]) / 2:
            low, high = values[values < t], values[values >= t]
            costs[t] = ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()
        assert best_split(values) == pytest.approx(min(costs, key=costs.get))
    with pytest.raises(ValueError, match="all 5 values of the target are equal"):
        best_split(np.ones(5))


def test_high_takes_the_split_of_those_fitted_on():
    values = np.array([0.0, 0, 1, 1, 100, 100])
    target = High(values)
    assert target.learnt(np.arange(4)).tolist() == [False, False, True, True]
    assert target.learnt(np.arange(6)).tolist() == [False] * 4 + [True] * 2
    assert target.judged(np.arange(4), np.array([0, 4])).tolist() == [False, True]


def test_high_values_that_are_the_median():
    """Semantic entropy where most samples differ: 60 of 100 at ln 8, so none is above the median."""
    rng = np.random.default_rng(5)
    values = np.r_[np.zeros(20), rng.uniform(0.1, 2, 20), np.full(60, np.log(8))]
    high = values >= best_split(values)
    target, x = High(values), rng.normal(size=(100, 2)) + 2 * high[:, None]
    assert target.strata().sum() == high.sum() >= 60
    made = fit_nested(LOGISTIC, settings(2, (0.1, 1.0)), x, target, np.arange(100), Scheme())
    assert [int(high[made.fold == k].sum()) for k in range(5)] == pytest.approx([high.sum() / 5] * 5, abs=1)
    assert auroc(made.out_of_fold, high).value > 0.9
    with pytest.raises(ValueError, match="all 100 values of the target are equal"):
        fit_nested(LOGISTIC, settings(2), x, High(np.ones(100)), np.arange(100), Scheme())


@pytest.mark.parametrize(
    ("target", "says"),
    [
        (Wrong(np.arange(40) < 7), r"7 wrong answers among 40 documents; 5 folds need 10 of each class"),
        (Wrong(np.zeros(40, bool)), "0 wrong answers among 40"),
        (Embeddings(np.zeros((40, 2, 2)), np.arange(40) > 3), "4 right answers among 40"),
    ],
)
def test_too_few(target, says):
    with pytest.raises(ValueError, match=says):
        fit_nested(
            LOGISTIC, settings(1), np.random.default_rng(0).normal(size=(40, 1)), target, np.arange(40), Scheme()
        )
