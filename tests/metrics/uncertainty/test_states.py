"""States as features, by hand."""

import pytest
import torch

from metrics.uncertainty.states import state_last, state_mean, state_prompt, state_second_last

STATES = torch.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize("feature", [state_prompt, state_last, state_second_last, state_mean])
def test_layers_follow_one_another(feature):
    assert feature(STATES).tolist() == [0, 1, 2, 3, 4, 5]
    assert feature(STATES, places="2").tolist() == [4, 5]
    assert feature(STATES, places="2/0").tolist() == [4, 5, 0, 1]
    with pytest.raises(ValueError, match=f"{feature.__name__}: places=3 goes beyond the 3 recorded layers"):
        feature(STATES, places="3")
    with pytest.raises(ValueError, match="places=a is neither all nor numbers"):
        feature(STATES, places="a")
