import numpy as np
import pytest

from metrics.figures import document

NAN = np.nan


@pytest.mark.parametrize(
    ("values", "most", "places"),
    [
        ([1, 3, 2, 5, 4], 3, [1, 3]),
        ([1, 3, 2, 5, 4], 1, [3]),
        ([2, 2, 1, 3, 3], 3, [0, 3]),
        ([1, 1, 1], 3, [0]),
        ([4], 3, [0]),
        ([], 3, []),
        ([NAN, 2, NAN, 1, NAN], 3, [1, 3]),
        ([NAN, NAN], 3, []),
    ],
)
def test_peaks_by_hand(values, most, places):
    assert document.peaks(np.array(values, dtype=float), most).tolist() == places


def test_a_curve_names_its_tokens_and_peaks():
    picture = document.curve("t", "entropy", "nat", np.array([0.0, 2.0, 1.0]), ["a", "$\n", "c"])
    assert picture.numbers["peak"].tolist() == [False, True, False]
    assert [t.get_text() for t in picture.figure.axes[0].get_xticklabels()] == ["a", r"\$↵", "c"]


def test_a_heatmap_by_layer_holds_its_values():
    values = np.array([[1.0, NAN], [0.0, 100.0]])
    picture = document.by_layer("t", "s", "1", [2, 5], values, ["a", "b"], prompt=1, logarithmic=True)
    assert picture.numbers["value"].tolist()[2:] == [0.0, 100.0] and picture.numbers["layer"].tolist() == [2, 2, 5, 5]
    shown = picture.figure.axes[0].images[0].get_array()
    assert shown.mask.tolist() == [[False, True], [True, False]] and shown[1, 1] == 2


def test_influences_are_drawn_relative_to_their_largest_and_written_as_they_are():
    rows = {"rollout": np.array([0.1, 0.4]), "nothing": np.zeros(2), "signed": np.array([-2.0, 1.0])}
    picture = document.influence("t", rows, ["a", "b"])
    shown = picture.figure.axes[0].images[0].get_array()
    assert shown[0].tolist() == [0.25, 1] and shown.mask[1].all() and shown[2].tolist() == [-1, 0.5]
    assert picture.numbers["rollout"].tolist() == [0.1, 0.4]
    with pytest.raises(ValueError, match="no influence"):
        document.influence("t", {}, [])
