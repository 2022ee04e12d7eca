"""Aggregates by hand; their canonical forms; names that no two of them share; files of weights."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mteb_ext.aggregate import Aggregate, make_aggregate, read_weights

ROWS = np.arange(24, dtype=np.float32).reshape(3, 2, 4)
"""Three layers, two texts, four dimensions."""


def test_a_layer_is_its_rows():
    np.testing.assert_array_equal(make_aggregate(None, [2])(ROWS[2:]), ROWS[2])


def test_the_mean_is_the_middle_of_three_evenly_spaced_layers():
    found = make_aggregate("mean", [0, 1, 2])(ROWS)
    np.testing.assert_array_equal(found, ROWS[1])
    assert found.dtype == np.float32


def test_a_concatenation_puts_layers_in_ascending_order():
    found = make_aggregate("concat", [1, 4, 6])(ROWS)
    np.testing.assert_array_equal(found[1], [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23])
    assert found.shape == (2, 12)


def test_weights_are_divided_by_their_sum_may_be_negative_and_zeros_go():
    made = make_aggregate("weighted", [0, 1, 2, 3], {3: 6.0, 1: -2.0, 2: 0.0})
    assert made == Aggregate("weighted", (1, 3), (-0.5, 1.5))
    np.testing.assert_array_equal(made(ROWS[:2]), -0.5 * ROWS[0] + 1.5 * ROWS[1])


@pytest.mark.parametrize(("kind", "weights"), [("mean", None), ("concat", None), (None, None), ("weighted", {5: -3.0})])
def test_of_one_layer_every_aggregate_is_that_layer(kind, weights):
    made = make_aggregate(kind, [5], weights)
    assert made == Aggregate("layer", (5,))
    assert made.kwargs() == {"layer": 5}
    np.testing.assert_array_equal(made(ROWS[:1]), ROWS[0])


def test_several_layers_without_a_kind_are_averaged():
    assert make_aggregate(None, [1, 2]) == Aggregate("mean", (1, 2))


def test_sums_are_taken_in_float64():
    rows = np.array([[[1e8]], [[1.0]], [[-1e8]]], np.float32)
    assert make_aggregate("mean", [0, 1, 2])(rows)[0, 0] == np.float32(1 / 3)
    assert make_aggregate("weighted", [0, 1, 2], dict.fromkeys(range(3), 2.0))(rows)[0, 0] == np.float32(1 / 3)


def test_an_embedding_does_not_depend_on_the_texts_beside_it():
    rows = np.random.default_rng(0).normal(size=(7, 101, 33)).astype(np.float32)
    weights = dict(enumerate(np.linspace(-1, 3, 7).tolist()))
    for made in (make_aggregate("mean", range(7)), make_aggregate("weighted", range(7), weights)):
        used = rows[list(made.layers)]
        together = made(used)
        for i in (0, 50, 100):
            np.testing.assert_array_equal(made(used[:, i : i + 1])[0], together[i])


@pytest.mark.parametrize(
    "weights", [{0: 1, 1: -1}, {}, None, {0: 0.0}, {0: np.nan, 1: 1}, {0: np.inf}, {0: 1e308, 1: 1e308}]
)
def test_weights_without_a_finite_sum_are_refused(weights):
    with pytest.raises(ValueError, match="must be finite and must not sum to zero"):
        make_aggregate("weighted", [0, 1], weights)


def test_small_weights_are_as_good_as_large_ones():
    small = make_aggregate("weighted", [0, 1], {0: 1e-20, 1: 3e-20})
    assert small.kwargs() == make_aggregate("weighted", [0, 1], {0: 1, 1: 3}).kwargs()


def test_weights_of_other_layers_are_refused():
    with pytest.raises(ValueError, match=r"weights are given for layers \[3\], which are not among \[0, 1\]"):
        make_aggregate("weighted", [0, 1], {0: 1, 3: 1})


choices = st.tuples(
    st.sampled_from([None, "mean", "concat", "weighted"]),
    st.sets(st.integers(0, 12), min_size=1, max_size=4).map(sorted),
    st.lists(st.sampled_from([1.0, 2.0, 3.0, -0.5, 1e-9, 2e-9, 1e-13, 0.0]), min_size=4, max_size=4),
)


def built(choice):
    kind, layers, weights = choice
    try:
        return make_aggregate(kind, layers, dict(zip(layers, weights)) if kind == "weighted" else None)
    except ValueError:
        return None


@settings(max_examples=300, deadline=None)
@given(choices, choices)
def test_aggregates_of_one_name_compute_the_same(one, other):
    made = [built(one), built(other)]
    if None in made or made[0].kwargs() != made[1].kwargs():
        return
    assert made[0].kind == made[1].kind
    assert made[0].layers == made[1].layers
    np.testing.assert_allclose(made[0].weights, made[1].weights, rtol=1e-11)


@given(choices)
def test_names_are_json_scalars_that_tell_kind_and_layers(choice):
    made = built(choice)
    if made is None:
        return
    known = made.kwargs()
    assert json.loads(json.dumps(known)) == known
    assert all(isinstance(value, (str, int)) for value in known.values())
    assert known.get("layers", str(known.get("layer"))) == "-".join(map(str, made.layers))


def test_weights_that_differ_little_have_names_that_differ():
    names = [
        make_aggregate("weighted", [0, 1], {0: 1, 1: w}).kwargs()["weights"] for w in (1e-13, 2e-13, 0.5, 0.5 + 1e-9)
    ]
    assert len(set(names)) == 4


def written(tmp_path, text):
    path = tmp_path / "w.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_weights_of_a_list_and_of_an_object(tmp_path):
    assert read_weights(written(tmp_path, "[0.5, 0, -1, 2]"), 3) == {0: 0.5, 1: 0.0, 2: -1.0, 3: 2.0}
    assert read_weights(written(tmp_path, '{"3": 0.2, "-4": 0.8}'), 3) == {3: 0.2, 0: 0.8}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "does not hold a list of 4 numbers"),
        ("7", "does not hold"),
        ("{", "cannot be read"),
        ('{"4": 1}', "layer 4 is not one of 0..3"),
        ('{"-5": 1}', "layer -5 is not one of 0..3"),
        ('{"3": 1, "-1": 1}', "layer -1 is not one of 0..3, or is there twice"),
        ('{"3": 1, "3": 2}', "layer 3 is not one of 0..3, or is there twice"),
        ('{"a": 1}', "a: 1 is not a layer and a number"),
        ('{"1.5": 1}', "1.5: 1 is not a layer and a number"),
        ('{"1": [2]}', "is not a layer and a number"),
        ('{"1": {"2": 3}}', "is not a layer and a number"),
        ("[1, 2, null, 4]", "2: None is not a layer and a number"),
    ],
)
def test_files_that_are_not_weights_are_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(ValueError, match=said) as caught:
        read_weights(written(tmp_path, text), 3)
    assert "w.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_weights_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"weights=.*none\.json cannot be read"):
        read_weights(tmp_path / "none.json", 3)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read"):
        read_weights(tmp_path / "binary.json", 3)
