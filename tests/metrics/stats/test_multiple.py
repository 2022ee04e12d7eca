import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from metrics.stats import benjamini_hochberg, holm

quick = settings(max_examples=80, deadline=None, database=None, derandomize=True)
vectors = st.lists(st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 1.0])), min_size=1, max_size=20)


def stepwise_holm(p, level):
    """Holm's procedure itself: reject the smallest p-values until one is above level / (tests left)."""
    rejected = np.zeros(len(p), bool)
    for step, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        if p[i] > level / (len(p) - step):
            break
        rejected[i] = True
    return rejected


def test_by_hand():
    p = [0.01, 0.04, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, 0.06, 0.06, 0.02], atol=1e-15)
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, 0.04, 0.02], atol=1e-15)


@quick
@given(vectors)
def test_benjamini_hochberg_equals_scipy(p):
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), atol=1e-15)


@quick
@given(vectors, st.floats(0.001, 0.3))
def test_holm_rejects_what_the_procedure_rejects(p, level):
    adjusted = holm(p)
    clear = np.abs(adjusted - level) > 1e-9  # equality can fall on either side by rounding
    np.testing.assert_array_equal((adjusted <= level)[clear], stepwise_holm(p, level)[clear])


@pytest.mark.parametrize("adjust", [benjamini_hochberg, holm])
def test_nan_is_no_test_and_empty_is_empty(adjust):
    found = adjust([0.01, np.nan, 0.04, np.nan])
    assert np.isnan(found[[1, 3]]).all()
    np.testing.assert_array_equal(found[[0, 2]], adjust([0.01, 0.04]))
    assert np.isnan(adjust([np.nan])).all() and adjust([]).shape == (0,)


@pytest.mark.parametrize("adjust", [benjamini_hochberg, holm])
def test_wrong_input_is_refused(adjust):
    with pytest.raises(ValueError, match=r"p holds 1\.5; give p-values between 0 and 1"):
        adjust([0.1, 1.5])
    with pytest.raises(ValueError, match="p has 2 dimensions"):
        adjust([[0.1]])
