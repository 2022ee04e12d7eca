import numpy as np
import pytest
from scipy.stats import binom, binomtest

from metrics.stats import p_at_most, share


@pytest.mark.parametrize(("events", "n"), [(0, 1), (1, 1), (0, 20), (3, 20), (20, 20), (137, 1000)])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_interval_is_scipys_exact_one(events, n, level):
    found = share(events, n, level=level)
    exact = binomtest(events, n).proportion_ci(level, method="exact")
    assert found.value == events / n
    assert (found.lower, found.upper) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_no_event_of_twenty_by_hand():
    found = share(0, 20)
    assert found.lower == 0 and found.upper == pytest.approx(1 - 0.025 ** (1 / 20))


def test_no_items_and_impossible_counts():
    assert np.isnan(share(0, 0).value) and share(0, 0).reason == "no items"
    for events, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"events is {events} of n = {n}"):
            share(events, n)


def test_p_value_is_the_sum_of_the_binomial():
    for events, n, risk in ((0, 0, 0.1), (0, 22, 0.1), (5, 30, 0.3), (30, 30, 0.3)):
        assert p_at_most(events, n, risk) == pytest.approx(sum(binom.pmf(np.arange(events + 1), n, risk)), abs=1e-12)
    assert p_at_most(0, 22, 0.1) == pytest.approx(0.9**22)
