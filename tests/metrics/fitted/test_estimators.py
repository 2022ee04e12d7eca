"""What all estimators keep, and the small ones against scikit-learn and by hand."""

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler
from sklearn.utils import shuffle

from metrics.fitted.estimators import estimators
from metrics.fitted.neighbours import apply_neighbours, neighbours
from metrics.fitted.network import apply_network, network
from metrics.fitted.trees import apply_boosting, boosting


def draw(n=120, d=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = x[:, 0] + 0.5 * rng.normal(size=n) > 0.3
    x[y] += 0.8  # wrong answers lie elsewhere, and not in one direction alone
    return x, y


def learnt(name, x, y, seed=0):
    made = estimators()[name]
    if name == "aseu":  # samples of wrong answers differ more
        rng = np.random.default_rng(5)
        spread = np.where(y, 1.5, 0.1)[:, None, None]
        y = np.array([1.0, 0, 0, 0]) + spread * rng.normal(size=(len(x), 6, 4))
    options = {"depth": 2, "trees": 20} if name == "boosting" else {"components": 8} if name == "rde" else {}
    return made, made.fit(x, y, options, seed)


@pytest.mark.parametrize("name", sorted(estimators()))
def test_every_estimator(name):
    x, y = draw()
    new = draw(seed=1)[0]
    before = x.copy(), y.copy()
    made, params = learnt(name, x, y)
    scores = made.apply(params, new)
    assert scores.shape == (len(new),) and np.isfinite(scores).all()
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])
    _, again = learnt(name, x, y)
    np.testing.assert_array_equal(made.apply(again, new), scores)  # the seed settles everything
    one_by_one = np.concatenate([made.apply(params, new[i : i + 1]) for i in range(len(new))])
    assert one_by_one == pytest.approx(scores, rel=1e-9)
    assert made.summary and made.source
    for array in params.arrays.values():
        assert array.dtype in (np.float64, np.int64)


OTHERS = {"mahalanobis_ppl", "rde"}  # the last input of one is a score; the other's score falls again far away


@pytest.mark.parametrize("name", sorted(set(estimators()) - OTHERS))
def test_high_means_wrong(name):
    x, y = draw(400)
    new, wrong = draw(400, seed=1)
    made, params = learnt(name, x, y)
    scores = made.apply(params, new)
    assert scores[wrong].mean() > scores[~wrong].mean()


def test_neighbours_are_those_of_scikit_learn():
    x, y = draw()
    new = draw(seed=2)[0]
    scale = StandardScaler().fit(x)
    peer = KNeighborsClassifier(7, algorithm="brute").fit(scale.transform(x), y)
    found = apply_neighbours(neighbours(x, y, k=7), new)
    assert found == pytest.approx(peer.predict_proba(scale.transform(new))[:, 1], abs=1e-12)


def test_neighbours_by_hand():
    x, y = np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([True, False, False, True])
    params = neighbours(x, y, k=1)
    assert apply_neighbours(params, np.array([[0.4], [0.5], [9.0]])).tolist() == [1, 1, 1]  # a tie: the earlier
    assert apply_neighbours(neighbours(x, y, k=4), np.array([[5.0]])).tolist() == [0.5]
    assert apply_neighbours(params, np.empty((0, 1))).shape == (0,)
    with pytest.raises(ValueError, match=r"k=5 is outside 1..4"):
        neighbours(x, y, k=5)


def test_the_network_is_scikit_learns_after_as_many_passes():
    x, y = draw()
    z = StandardScaler().fit_transform(x)
    peer = MLPClassifier((256, 128, 64), alpha=0.0, batch_size=32, random_state=np.random.RandomState(3))
    for _ in range(4):
        peer.partial_fit(z, y, classes=[False, True])
    params = network(x, y, epochs=4, seed=3)
    assert apply_network(params, x) == pytest.approx(peer.predict_proba(z)[:, 1], abs=1e-12)
    assert [params.arrays[f"weight_{i}"].shape for i in range(4)] == [(6, 256), (256, 128), (128, 64), (64, 1)]
    assert not np.array_equal(apply_network(network(x, y, epochs=4, seed=4), x), apply_network(params, x))


def test_each_pass_of_the_network_has_an_order_of_its_own(monkeypatch):
    orders = []

    def kept(rows, random_state):
        orders.append(shuffle(rows, random_state=random_state))
        return orders[-1]

    monkeypatch.setattr("sklearn.neural_network._multilayer_perceptron.shuffle", kept)
    network(*draw(), epochs=5, seed=3)
    assert len(orders) == 5 and len({tuple(order) for order in orders}) == 5


@pytest.mark.parametrize("depth", [1, 3])
def test_boosting_is_scikit_learns(depth):
    x, y = draw(300)
    x[:, 3] = np.round(x[:, 3])  # ties
    peer = GradientBoostingClassifier(max_depth=depth, n_estimators=40, random_state=1).fit(x, y)
    found = apply_boosting(boosting(x, y, depth=depth, trees=40, seed=1), x)
    assert found == pytest.approx(peer.predict_proba(x)[:, 1], abs=1e-12)
    new = np.vstack([draw(50, seed=4)[0], 1e6 * np.ones((1, 6))])
    found = apply_boosting(boosting(x, y, depth=depth, trees=40, seed=1), new)
    assert found == pytest.approx(peer.predict_proba(new)[:, 1], abs=1e-12)


def test_one_stump_by_hand():
    x, y = np.array([[0.0], [0.0], [1.0], [1.0]]), np.array([False, False, True, False])
    params = boosting(x, y, depth=1, trees=1, rate=0.5)
    start = np.log(0.25 / 0.75)
    leaves = [sum(r) / sum(h) for r, h in [([-0.25, -0.25], [0.1875] * 2), ([0.75, -0.25], [0.1875] * 2)]]
    expected = [1 / (1 + np.exp(-(start + 0.5 * leaf))) for leaf in leaves]
    assert apply_boosting(params, np.array([[0.2], [0.7]])) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("fit", "options"), [(network, {"epochs": 0}), (boosting, {"trees": 0}), (boosting, {"depth": 0})]
)
def test_refusals(fit, options):
    x, y = draw(20)
    with pytest.raises(ValueError, match=r"at least 1|below 1"):
        fit(x, y, **options)
    with pytest.raises(ValueError, match="none of the 6 inputs varies"):
        fit(np.zeros_like(x), y)
