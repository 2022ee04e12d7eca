import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.linear_model import LogisticRegression

from metrics.stats import constant, cross_fit, fit_isotonic, fit_platt, fold_splits, share_split, why_not


def draw(seed, n=120, shift=1.0):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < 0.3
    return rng.normal(size=n) + shift * wrong, wrong


class Score(LogisticRegression):
    """Passes the score through, so that scikit-learn calibrates it alone."""

    def decision_function(self, X):
        return X[:, 0]


@pytest.mark.parametrize(("fit", "method"), [(fit_platt, "sigmoid"), (fit_isotonic, "isotonic")])
def test_curves_and_cross_fitting_are_those_of_scikit_learn(fit, method):
    score, wrong = draw(0)
    splits = fold_splits(wrong, 4, seed=0)
    ours = cross_fit(score, wrong, splits, fit)
    for fitted, judged in splits:
        pair = [(np.flatnonzero(judged), np.flatnonzero(fitted))]  # the base model learns nothing, so any items do
        peer = CalibratedClassifierCV(Score(), method=method, cv=pair).fit(score[:, None], wrong)
        assert ours[judged] == pytest.approx(peer.predict_proba(score[judged, None])[:, 1], abs=1e-4)


def test_platt_is_logistic_regression_with_soft_targets():
    score, wrong = draw(1)
    target = np.where(wrong, (wrong.sum() + 1) / (wrong.sum() + 2), 1 / ((~wrong).sum() + 2))
    twice = np.concatenate([score, score])[:, None]
    labels, weights = np.repeat([1, 0], len(score)), np.concatenate([target, 1 - target])
    peer = LogisticRegression(C=1e12, tol=1e-12, max_iter=10_000).fit(twice, labels, weights)
    grid = np.linspace(-5, 5, 21)
    assert fit_platt(score, wrong)(grid) == pytest.approx(peer.predict_proba(grid[:, None])[:, 1], abs=1e-5)


@pytest.mark.parametrize("scale", [1e-300, 1e-6, 1.0, 1e300])
def test_platt_does_not_mind_the_unit(scale):
    score, wrong = draw(2)
    assert fit_platt(scale * score, wrong)(scale * score) == pytest.approx(fit_platt(score, wrong)(score), abs=1e-7)


def test_platt_of_separated_classes_stays_finite():
    score, wrong = np.arange(2.0), np.array([False, True])  # two values: the curve meets both smoothed targets
    assert fit_platt(np.repeat(score, 10), np.repeat(wrong, 10))(score) == pytest.approx([1 / 12, 11 / 12], abs=1e-6)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_the_direction_is_not_fitted(fit):
    score, wrong = draw(3, 300)
    assert np.ptp(fit(-score, wrong)(-score)) < 0.3  # isotonic may bend at the very ends
    assert np.ptp(fit(score, wrong)(score)) > 0.5
    if fit is fit_platt:
        positive, negative = wrong.sum(), (~wrong).sum()
        mean = (positive * (positive + 1) / (positive + 2) + negative / (negative + 2)) / 300
        assert fit(-score, wrong)(score) == pytest.approx(mean)


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_a_constant_score_predicts_the_error_rate(fit):
    wrong = np.arange(40) < 10
    p = fit(np.full(40, 7.0), wrong)(np.array([-1.0, 7.0, 9.0]))
    assert np.ptp(p) == 0 and p[0] == pytest.approx(0.25, abs=0.02)


def test_isotonic_by_hand():
    curve = fit_isotonic(np.array([1.0, 2.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 0, 1], bool))
    assert curve(np.array([0.0, 1.0, 2.0, 3.0, 3.5, 4.0, 9.0])) == pytest.approx([0, 0, 1 / 3, 1 / 3, 2 / 3, 1, 1])


def test_folds_are_disjoint_even_and_seeded():
    wrong = np.arange(53) % 5 == 0
    splits = fold_splits(wrong, 4, seed=1)
    assert (np.sum([s.judged for s in splits], axis=0) == 1).all()
    for fitted, judged in splits:
        assert (fitted == ~judged).all() and judged.sum() in (13, 14) and wrong[judged].sum() in (2, 3)
    again, other = fold_splits(wrong, 4, seed=1), fold_splits(wrong, 4, seed=2)
    assert all((a.judged == b.judged).all() for a, b in zip(splits, again))
    assert any((a.judged != b.judged).any() for a, b in zip(splits, other))
    ((fitted, judged),) = share_split(wrong, 0.6, seed=0)
    assert (fitted ^ judged).all() and wrong[fitted].sum() == 7 and fitted.sum() == 32  # .6 of 11 and of 42


@pytest.mark.parametrize("fit", [fit_platt, fit_isotonic])
def test_no_document_is_judged_by_a_curve_that_saw_it(fit):
    score, wrong = draw(4)
    splits = fold_splits(wrong, 5, seed=0)
    p = cross_fit(score, wrong, splits, fit)
    for i in (0, 17, 119):
        flipped = wrong.copy()
        flipped[i] = ~flipped[i]
        assert cross_fit(score, flipped, splits, fit)[i] == p[i]
        assert (cross_fit(score, flipped, splits, fit) != p).any()


def test_unscored_and_merely_fitted_documents_have_no_prediction():
    score, wrong = draw(5)
    score[:6] = np.nan
    splits = share_split(wrong, 0.5, seed=0)
    p = cross_fit(score, wrong, splits, fit_platt)
    assert (np.isnan(p) == (splits[0].fitted | np.isnan(score))).all()
    base = constant(wrong, splits)
    assert np.isnan(base[splits[0].fitted]).all()
    assert (base[splits[0].judged] == wrong[splits[0].fitted].mean()).all()


def test_what_cannot_be_fitted_has_a_reason():
    score, wrong = draw(6, 20)
    one = np.zeros(20, bool)
    assert "one class only among 16 items" in why_not(score, one, fold_splits(one, 5, seed=0))
    assert "one class only among 0 items" in why_not(np.full(20, np.nan), wrong, fold_splits(wrong, 5, seed=0))
    score[3] = np.inf
    with pytest.raises(ValueError, match="1 of 20 scores are infinite"):
        cross_fit(score, wrong, fold_splits(wrong, 5, seed=0), fit_platt)
    for folds in (1, 21):
        with pytest.raises(ValueError, match=f"folds is {folds}"):
            fold_splits(wrong, folds, seed=0)
    with pytest.raises(ValueError, match="split is 1"):
        share_split(wrong, 1.0, seed=0)
