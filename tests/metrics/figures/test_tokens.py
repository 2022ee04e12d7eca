import numpy as np
import pytest

from metrics.figures import tokens


def slow_windows(values, windows, fine=1000):
    """The step function at many points of each window, averaged."""
    n = len(values)
    places = (np.arange(windows * fine) + 0.5) / (windows * fine) * n
    return values[places.astype(int)].reshape(windows, fine).mean(1)


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33])
def test_windows_are_the_means_of_the_step_function(n):
    values = np.random.default_rng(n).normal(size=n)
    found = tokens.in_windows(values, 10)
    assert np.abs(found - slow_windows(values, 10)).max() < 0.01
    assert found.mean() == pytest.approx(values.mean())


def test_windows_by_hand():
    assert np.allclose(tokens.in_windows(np.array([1.0, 4.0, 7.0]), 2), [(1 + 4 / 2) / 1.5, (4 / 2 + 7) / 1.5])
    assert np.allclose(tokens.in_windows(np.array([[1.0, 2.0], [3.0, 5.0]]), 4), [[1, 1, 2, 2], [3, 3, 5, 5]])


def test_groups_leave_out_the_unlabelled_the_empty_and_the_undefined():
    one = np.ones(3)
    values = {1: one, 2: one, 3: np.array([1.0, np.nan]), 4: np.zeros(0), 5: one, 6: np.array([np.inf])}
    (right, wrong), left = tokens.grouped(values, {1: False, 2: True, 3: True, 4: True, 6: False})
    assert (len(right.values), len(wrong.values), left) == (1, 1, 4)
    (everything,), left = tokens.grouped(values, None)
    assert (everything.name, len(everything.values), left) == ("all", 3, 3)


def test_curves_are_means_over_documents_and_peaks_their_places():
    rng = np.random.default_rng(0)
    values = {i: rng.normal(size=10 if i < 14 else 6) for i in range(20)}
    wrong = {i: i % 2 == 1 for i in range(20)}
    numbers = tokens.curves("t", "entropy", "nat", values, wrong).numbers
    of = numbers[(numbers["panel"] == "absolute") & (numbers["group"] == "wrong")]
    held = [values[i] for i in range(1, 20, 2)]
    for row in of.itertuples():
        column = [v[int(row.position)] for v in held if len(v) > row.position]
        assert row.n == len(column) and row.mean == pytest.approx(np.mean(column))
        assert row.se == pytest.approx(np.std(column, ddof=1) / np.sqrt(len(column)))
    assert len(of) == 10 and list(of["n"]) == [10] * 6 + [7] * 4
    peaks = numbers[(numbers["panel"] == "peak") & (numbers["group"] == "wrong")]
    fifths = [int(v.argmax() / len(v) * 5) for v in held if len(v) == 10]
    fifths += [int((v.argmax() + 0.5) / 6 * 5) for v in held if len(v) == 6]
    assert list(peaks["mean"]) == [fifths.count(i) / 10 for i in range(5)]


def test_few_documents_reach_no_further_than_five_of_them():
    values = {i: np.ones(3 if i < 4 else 2) for i in range(8)}
    numbers = tokens.curves("t", "entropy", "nat", values, None).numbers
    assert (numbers["panel"] == "absolute").sum() == 2
    assert (tokens.curves("t", "entropy", "nat", {1: np.ones(2)}, {1: True}).numbers["panel"] == "absolute").sum() == 0


def test_a_profile_counts_documents_once_and_leaves_undefined_layers_grey():
    values = {i: np.stack([np.full(4 + i, np.nan), np.full(4 + i, float(i))]) for i in range(6)}
    wrong = {i: i >= 4 for i in range(6)}
    numbers = tokens.profile("t", "s", "nat", [0, 3], values, wrong).numbers
    mean = numbers[numbers["layer"] == 3].groupby("group")["value"].mean()
    assert mean["right (4)"] == pytest.approx(1.5) and mean["wrong (2)"] == pytest.approx(4.5)
    assert mean["wrong - right"] == pytest.approx(3)
    assert numbers.loc[numbers["layer"] == 0, "value"].isna().all()


def test_a_profile_of_one_class_has_no_difference_and_of_nothing_is_refused():
    values = {1: np.ones((2, 3))}
    assert set(tokens.profile("t", "s", "nat", [0, 1], values, {1: True}).numbers["group"]) == {"wrong (1)"}
    with pytest.raises(ValueError, match="no document has s"):
        tokens.profile("t", "s", "nat", [0, 1], {1: np.array([[1.0], [np.inf]])}, {1: True})
