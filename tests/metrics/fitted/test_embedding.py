"""ASEU on samples whose spread is known, and by a slow loop over draws."""

import numpy as np
import pytest

from metrics.fitted.embedding import apply_aseu, aseu


def draw(n=300, samples=8, seed=0):
    """States whose first number sets the spread of the samples around a common direction."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    spread = np.exp(x[:, 0])[:, None, None] * 0.3
    return x, np.array([2.0, 0, 0, 0]) + spread * rng.normal(size=(n, samples, 4)), np.exp(2 * x[:, 0]) * 0.09


def test_the_variance_is_recovered():
    x, y, variance = draw(3000)
    a = aseu(x, y, ridge=1e-6, components=4).arrays
    found = np.exp((x - a["mean"]) / a["spread"] @ a["log_weight"] + a["log_bias"])
    assert np.log(found / variance[:, None]).mean() == pytest.approx(0, abs=0.05)
    assert np.abs(np.log(found / variance[:, None])).mean() < 0.1


def test_scores_by_a_slow_loop():
    x, y, _ = draw()
    params = aseu(x, y, components=3, draws=5, seed=2)
    a = params.arrays
    for row in range(4):
        z = (x[row] - a["mean"]) / a["spread"]
        drawn = [
            (z @ a["weight"] + a["bias"] + np.exp((z @ a["log_weight"] + a["log_bias"]) / 2) * noise) @ a["axes"]
            + a["origin"]
            for noise in a["noise"]
        ]
        pairs = [
            drawn[i] @ drawn[j] / np.linalg.norm(drawn[i]) / np.linalg.norm(drawn[j])
            for i in range(5)
            for j in range(i + 1, 5)
        ]
        assert apply_aseu(params, x[row : row + 1])[0] == pytest.approx(1 - np.median(pairs))


def test_wider_samples_score_higher():
    x, y, variance = draw()
    scores = apply_aseu(aseu(x, y), x)
    assert np.corrcoef(np.argsort(np.argsort(scores)), np.argsort(np.argsort(variance)))[0, 1] > 0.9


def test_missing_samples_are_left_out():
    x, y, _ = draw()
    longer = np.concatenate([y, np.full((len(y), 3, 4), np.nan)], axis=1)
    np.testing.assert_allclose(apply_aseu(aseu(x, longer), x), apply_aseu(aseu(x, y), x), rtol=1e-9)
    longer[5] = np.nan
    with pytest.raises(ValueError, match="1 documents have no sample"):
        aseu(x, longer)
    with pytest.raises(ValueError, match=r"y has shape \(300,\)"):
        aseu(x, y[:, 0, 0])


def test_ridge_is_the_same_in_either_form():
    x, y, _ = draw(20)
    wide = np.concatenate([x, np.zeros((20, 40))], axis=1)  # more inputs than documents: the other normal equations
    assert aseu(wide, y).arrays["weight"][:3] == pytest.approx(aseu(x, y).arrays["weight"])
