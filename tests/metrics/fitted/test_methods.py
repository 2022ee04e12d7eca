"""Methods, how they are named, and what they read of a store."""

import numpy as np
import pytest

from metrics.core import features, metrics
from metrics.fitted.estimators import estimators
from metrics.fitted.inputs import inputs_of, state_id
from metrics.fitted.methods import METHODS, recipe

MANIFEST = {"layers": [0, 8, 12, 16]}


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_names_what_exists(name):
    made = recipe(name)
    assert made.estimator is estimators()[made.method.estimator]
    assert set(made.options) - {"at"} <= set(made.estimator.options)
    assert set(made.method.searched) <= set(made.estimator.options)
    assert set(made.method.features) <= set(features())
    assert not made.state or made.state in features()
    assert made.method.metrics == ("standard",) or set(made.method.metrics) <= set(metrics())
    assert made.method.source and made.method.summary.endswith(".")
    for settings in made.settings():
        assert set(settings) <= set(made.estimator.options)


def test_an_option_that_is_given_is_not_searched():
    assert [s["c"] for s in recipe("entropy_lr").settings()] == [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]
    assert recipe("entropy_lr(c=0.3)").settings() == [{"c": 0.3}]
    assert recipe("entropy_lr(c=0.3)").id == "entropy_lr(c=0.3)"
    assert recipe("saplma(at=mean)").state == "state_mean"


def test_unknown_words():
    with pytest.raises(ValueError, match=r"unknown method 'saplm'. Did you mean 'saplma'"):
        recipe("saplm")
    with pytest.raises(ValueError, match="saplma: at=first is not known; choose prompt, last"):
        recipe("saplma(at=first)")
    with pytest.raises(ValueError, match="unknown option 'd'"):
        recipe("entropy_lr(d=1)")


def test_layers():
    saplma = recipe("saplma")
    assert inputs_of(saplma, MANIFEST).layers == (8, 12, 16)  # 8, 10, 12, 14, 16: the nearest that are recorded
    assert inputs_of(saplma, MANIFEST, "0+8").layers == (0, 8)
    assert inputs_of(recipe("mahalanobis"), MANIFEST).layers == (16,)
    assert state_id(inputs_of(saplma, MANIFEST, "8+16"), MANIFEST) == "state_last(places=1/3)"
    assert state_id(inputs_of(saplma, MANIFEST, "8"), {"layers": [4, 8]}) == "state_last(places=1)"
    with pytest.raises(ValueError, match=r"layer 4 is not recorded; the store has 0, 8, 12, 16"):
        inputs_of(saplma, MANIFEST, "4")
    with pytest.raises(ValueError, match="layer 8 is needed and not recorded; the store has 4"):
        state_id(inputs_of(saplma, MANIFEST, "8"), {"layers": [4]})
    with pytest.raises(ValueError, match="the store holds none; record with signals=hidden_last"):
        inputs_of(saplma, {"layers": []})
    with pytest.raises(ValueError, match="entropy_lr reads no hidden states"):
        inputs_of(recipe("entropy_lr"), MANIFEST, "4")
    with pytest.raises(ValueError, match="entropy_lr has inputs of its own"):
        inputs_of(recipe("entropy_lr"), MANIFEST, metrics="mean_nll")


def test_columns_of_candidates():
    made = inputs_of(recipe("mahalanobis_ppl"), MANIFEST, "0+16")
    found = made.candidates(recipe("mahalanobis_ppl"), 7)  # two layers of three numbers, and the mean NLL
    assert [(c.layer, c.columns.tolist()) for c in found] == [(0, [0, 1, 2, 6]), (16, [3, 4, 5, 6])]
    (one,) = inputs_of(recipe("entropy_lr(c=1)"), MANIFEST).candidates(recipe("entropy_lr(c=1)"), 12)
    np.testing.assert_array_equal(one.columns, np.arange(12))
    inputs = inputs_of(recipe("boosting"), MANIFEST)
    assert "mean_nll" in inputs.metrics and "random" not in inputs.metrics
