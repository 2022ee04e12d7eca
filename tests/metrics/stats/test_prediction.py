"""Ridge by leaving out, against scikit-learn and a slow loop."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from metrics.stats import leave_out_ridge
from metrics.stats.prediction import PENALTIES


def draw(n=12, k=3, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, k)) * [1, 10, 100][:k] + 5
    return x, x[:, 0] + 0.1 * rng.normal(size=n)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_one_penalty_is_scikit_learns_ridge(penalty):
    x, y = draw()
    found = leave_out_ridge(x, y, np.arange(12), penalties=[penalty])
    for i in range(12):
        rest = np.arange(12) != i
        scale = StandardScaler().fit(x[rest])
        peer = Ridge(alpha=penalty).fit(scale.transform(x[rest]), y[rest])
        assert found.values[i] == pytest.approx(peer.predict(scale.transform(x[i : i + 1]))[0])
        assert found.constant[i] == pytest.approx(y[rest].mean())


def test_the_penalty_is_chosen_without_what_is_left_out():
    x, y = draw(seed=1)
    part = np.repeat(np.arange(6), 2)
    found = leave_out_ridge(x, y, part)
    for left in range(6):
        rest = part != left
        inner = {
            p: np.abs(leave_out_ridge(x[rest], y[rest], part[rest], penalties=[p]).values - y[rest]).mean()
            for p in PENALTIES
        }
        assert found.penalties[left] == min(inner, key=inner.get)
        alone = leave_out_ridge(x, y, part, penalties=[found.penalties[left]])
        np.testing.assert_array_equal(found.values[~rest], alone.values[~rest])
    changed = y.copy()
    changed[part == 0] += 100  # what is left out has no say in its own prediction
    np.testing.assert_array_equal(leave_out_ridge(x, changed, part).values[:2], found.values[:2])


def test_inputs_that_do_not_vary_give_the_mean():
    y = np.arange(5.0)
    found = leave_out_ridge(np.ones((5, 2)), y, np.arange(5))
    np.testing.assert_allclose(found.values, found.constant)
    assert found.penalties == (100.0,) * 5


@pytest.mark.parametrize(
    ("x", "y", "part", "says"),
    [
        (np.ones((3, 1)), np.ones(3), [0, 1, 2], "3 data sets; predicting one from the others needs at least 4"),
        (np.ones(5), np.ones(5), range(5), r"x has shape \(5,\)"),
        (np.full((5, 1), np.nan), np.ones(5), range(5), "not finite"),
        (np.empty((0, 1)), np.empty(0), [], "0 data sets"),
    ],
)
def test_refused(x, y, part, says):
    with pytest.raises(ValueError, match=says):
        leave_out_ridge(x, y, list(part))
