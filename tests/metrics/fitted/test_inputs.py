"""Whose inputs depend on which layers a store recorded."""

from metrics.fitted.inputs import Inputs, other_layers


def test_other_layers_are_told_where_a_feature_lists_them():
    here, there = {"layers": [1, 3, 4]}, {"layers": [0, 2, 4]}
    for feature in ("entropy_profile", "lookback_features", "laplacian_features"):
        inputs = Inputs("", (), (feature,), ())
        says = f"recorded layers 1, 3, 4; {feature} was learnt from 0, 2, 4"
        assert other_layers(inputs, there, here) == says
        assert other_layers(inputs, there, there) == ""
        assert other_layers(inputs, there, {}) == f"recorded layers none; {feature} was learnt from 0, 2, 4"
    assert other_layers(Inputs("", (), ("entropy_distribution",), ()), there, here) == ""
    assert other_layers(Inputs("state_last", (4,), (), ("mean_nll",)), there, here) == ""
