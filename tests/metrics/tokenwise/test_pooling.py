"""Poolings against slow loops over one answer at a time, with weights, ties, one token, NaN and infinities."""

import math

import numpy as np
import pytest
import torch

from metrics.tokenwise import poolings_declared
from metrics.tokenwise.composite import combine  # noqa: F401 (declares the poolings)
from metrics.tokenwise.pooling import pooled
from metrics.tokenwise.rows import Rows, Values, one


def heavy(values, weights):
    return [(v, w) for v, w in zip(values, weights) if w > 0]


def mean(values, weights):
    return sum(v * w for v, w in heavy(values, weights)) / sum(weights) if sum(weights) else math.nan


def top_share(values, weights, share, sign):
    """Token by token from the largest on, as long as the share is not passed; of equal ones the last first."""
    taken, total = [], sum(weights)
    for v, w in sorted(heavy(values, weights)[::-sign], key=lambda pair: -sign * pair[0]):
        if taken and sum(w for _, w in taken) + w > share * total + 1e-9 * total:
            break
        taken.append((v, w))
    return mean(*zip(*taken))


def windows(values, weights, window):
    width = min(window, len(values))
    starts = range(len(values) - width + 1)
    return [mean(values[i : i + width], weights[i : i + width]) for i in starts if sum(weights[i : i + width]) > 0]


def extreme_windows(values, weights, window, share, sign):
    means = sorted(windows(values, weights, window), key=lambda m: -sign * m)
    return float(np.mean(means[: max(1, math.floor(share * len(means) + 1e-9))]))


def std(values, weights):
    m = mean(values, weights)
    return math.sqrt(mean([(v - m) ** 2 for v in values], weights))


def quantile(values, weights, q):
    kept = heavy(values, weights)
    if q == 0:
        return min(v for v, _ in kept)
    values, weights = zip(*kept)
    return float(np.quantile(values, q, weights=weights, method="inverted_cdf"))


SLOW = {
    "mean": ({}, mean),
    "sum": ({}, lambda v, w: len(v) * mean(v, w)),
    "std": ({}, std),
    "max": ({}, lambda v, w: max(x for x, _ in heavy(v, w))),
    "min": ({}, lambda v, w: min(x for x, _ in heavy(v, w))),
    "quantile": ({"q": 0.7}, lambda v, w: quantile(v, w, 0.7)),
    "top_share": ({"share": 0.3}, lambda v, w: top_share(v, w, 0.3, 1)),
    "bottom_share": ({"share": 0.3}, lambda v, w: top_share(v, w, 0.3, -1)),
    "first": ({}, lambda v, w: heavy(v, w)[0][0]),
    "tail": ({"tokens": 3}, lambda v, w: mean(v[-3:], w[-3:])),
    "lowest_window": ({"window": 4}, lambda v, w: min(windows(v, w, 4))),
    "highest_window": ({"window": 4}, lambda v, w: max(windows(v, w, 4))),
    "bottom_windows": ({"window": 3, "share": 0.4}, lambda v, w: extreme_windows(v, w, 3, 0.4, -1)),
    "top_windows": ({"window": 3, "share": 0.4}, lambda v, w: extreme_windows(v, w, 3, 0.4, 1)),
}


def answers(seed=0, count=60):
    """Values and weights of answers of 1 to 12 tokens, with ties and, after the first few, weights of 0."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        n = 1 + i % 12
        values = rng.integers(0, 5, n).astype(float) if i % 3 else rng.normal(size=n)
        weights = np.ones(n) if i % 4 == 0 else rng.random(n) * (rng.random(n) < 0.8)
        weights[rng.integers(n)] = 0.5
        yield values, weights


def batch(pairs):
    width = max(len(v) for v, _ in pairs)
    padded = [np.stack([np.pad(part, (0, width - len(part)), constant_values=fill) for part in parts])
              for parts, fill in ((tuple(v for v, _ in pairs), 7.5), (tuple(w for _, w in pairs), 0.0))]  # fmt: skip
    count = torch.tensor([len(v) for v, _ in pairs])
    return Rows(Values(torch.tensor(padded[0]), count), torch.tensor(padded[1]))


def call(name, rows, options):
    return pooled(poolings_declared[name], rows, options)


def test_every_pooling_has_a_slow_loop():
    assert set(SLOW) == set(poolings_declared)


@pytest.mark.parametrize("name", SLOW)
def test_one_answer_equals_the_slow_loop(name):
    options, slow = SLOW[name]
    for values, weights in answers():
        got = float(call(name, one(torch.tensor(values), torch.tensor(weights)), options))
        want = slow(values.tolist(), weights.tolist())
        assert math.isclose(got, want, rel_tol=1e-6, abs_tol=1e-6) or (math.isnan(got) and math.isnan(want))


@pytest.mark.parametrize("name", SLOW)
def test_a_padded_batch_with_layers_equals_each_answer(name):
    options, _ = SLOW[name]
    pairs = list(answers(seed=1))
    rows = batch(pairs)
    layers = torch.stack([rows.values, -2 * rows.values, torch.ones_like(rows.values)], 1)
    both = Rows(Values(layers, rows.of.count.unsqueeze(-1)), rows.weights.unsqueeze(1))
    alone = [
        [
            float(call(name, one(torch.tensor(f * v + c), torch.tensor(w)), options))
            for f, c in ((1, 0), (-2, 0), (0, 1))
        ]
        for v, w in pairs
    ]
    np.testing.assert_allclose(call(name, both, options).numpy(), alone, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", SLOW)
def test_weights_count_in_proportion_only(name):
    options, _ = SLOW[name]
    for values, weights in answers(seed=2, count=24):
        one_way, other = (one(torch.tensor(values), torch.tensor(c * weights)) for c in (1.0, 1024.0))
        assert torch.equal(call(name, one_way, options), call(name, other, options)) or name == "tail"


@pytest.mark.parametrize("name", SLOW)
def test_nan_and_weights_that_are_none_give_nan(name):
    options, _ = SLOW[name]
    values, ones = torch.tensor([3.0, 1.0, 2.0, 5.0]), torch.ones(4)
    for spot in range(4):
        spoilt, weight = values.clone(), ones.clone()
        spoilt[spot] = weight[spot] = math.nan
        seen = name not in ("first", "tail") or (name == "first" and spot == 0) or (name == "tail" and spot > 0)
        assert math.isnan(call(name, one(spoilt, ones), options)) == seen
        assert math.isnan(call(name, one(values, weight), options))
        light = ones.clone()
        light[spot] = 0.0
        assert not math.isnan(call(name, one(spoilt, light), options)), "a token without weight is as good as absent"
    assert math.isnan(call(name, one(values, torch.zeros(4)), options))
    assert math.isnan(call(name, one(values, torch.tensor([1.0, -0.5, 1.0, 1.0])), options))
    assert math.isnan(call(name, one(values, torch.tensor([1.0, math.inf, 1.0, 1.0])), options))


@pytest.mark.parametrize(
    ("name", "options", "want"),
    [
        ("mean", {}, -math.inf),
        ("std", {}, math.nan),
        ("max", {}, 2.0),
        ("min", {}, -math.inf),
        ("quantile", {"q": 0.5}, 0.5),
        ("top_share", {"share": 0.5}, 1.5),
        ("bottom_share", {"share": 0.5}, -math.inf),
        ("tail", {"tokens": 2}, 1.5),
        ("highest_window", {"window": 2}, 1.5),
        ("lowest_window", {"window": 2}, -math.inf),
        ("top_windows", {"window": 2, "share": 0.5}, 1.5),
        ("bottom_windows", {"window": 2, "share": 1.0}, -math.inf),
    ],
)
def test_an_infinite_value_stays_where_it_is(name, options, want):
    got = float(call(name, one(torch.tensor([0.5, -math.inf, 1.0, 2.0]), torch.ones(4)), options))
    assert got == want or (math.isnan(got) and math.isnan(want))


def test_windows_with_both_infinities_are_undefined():
    rows = one(torch.tensor([math.inf, -math.inf, 1.0]), torch.ones(3))
    assert math.isnan(call("top_windows", rows, {"window": 2, "share": 1.0}))
    assert float(call("tail", rows, {"tokens": 1})) == 1.0


def test_quantiles_at_the_ends_and_at_steps():
    values, even = torch.tensor([4.0, 1.0, 3.0, 2.0]), torch.ones(4)
    found = [float(call("quantile", one(values, even), {"q": q})) for q in (0.0, 0.25, 0.26, 0.5, 0.75, 0.76, 1.0)]
    assert found == [1.0, 1.0, 2.0, 2.0, 3.0, 4.0, 4.0]
    light = one(values, torch.tensor([0.0, 0.0, 1.0, 1.0]))
    assert [float(call("quantile", light, {"q": q})) for q in (0.0, 0.5, 1.0)] == [2.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("quantile", {"q": 1.5}, "q=1.5 is outside"),
        ("top_share", {"share": 0.0}, "share=0.0 is outside"),
        ("bottom_share", {"share": 2.0}, "share=2.0 is outside"),
        ("tail", {"tokens": 0}, "tokens=0 is below 1"),
        ("lowest_window", {"window": 0}, "window=0 is below 1"),
        ("top_windows", {"window": 2, "share": -1.0}, "share=-1.0 is outside"),
    ],
)
def test_options_out_of_range_are_refused(name, options, says):
    with pytest.raises(ValueError, match=f"pooling '{name}': {says}"):
        call(name, one(torch.ones(2), torch.ones(2)), options)
