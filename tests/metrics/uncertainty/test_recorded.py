import math

import pytest
import torch

from metrics.uncertainty.recorded import after_first, at_layer, middle, own, read

LAYERS = torch.arange(5.0)[:, None].expand(5, 2)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("0", [0]),
        ("3", [3]),
        ("-1", [4]),
        ("-5", [0]),
        ("0.0", [0]),
        ("0.5", [2]),
        ("1.0", [4]),
    ],
)
def test_a_layer_is_an_index_or_a_depth(layer, expected):
    assert at_layer(LAYERS, layer)[:, 0].tolist() == expected


@pytest.mark.parametrize(("blocks", "expected"), [(1, 0), (2, 1), (6, 3), (22, 11), (32, 16)])
def test_half_the_depth_is_the_block_that_lm_polygraph_takes(blocks, expected):
    assert at_layer(torch.arange(blocks), "0.5").tolist() == [expected] == [blocks // 2]


@pytest.mark.parametrize("layer", ["5", "-6", "1.5", "-0.5", "middle", "", "nan", "1e3"])
def test_what_is_no_layer_is_refused(layer):
    with pytest.raises(ValueError, match=f"layer='?{layer}"):
        at_layer(LAYERS, layer)


def test_of_no_layers_there_is_none():
    assert at_layer(LAYERS[:0], "-1").shape == (0, 2)


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (2, [0, 1]), (3, [1, 2]), (4, [1, 2, 3]), (6, [2, 3, 4]), (32, range(10, 23))]
)
def test_the_middle_third_is_rauqs(count, expected):
    """range(n // 3, ceil(2 n / 3) + 1) in both peers, which fails with two blocks."""
    assert middle(torch.arange(count)).tolist() == list(expected)


def test_own_tokens_are_all_steps_but_the_first():
    steps = torch.arange(8.0).reshape(2, 4)
    assert own(steps).tolist() == [[1, 2, 3], [5, 6, 7]]


def test_a_last_token_that_was_not_read_is_left_out_and_any_other_is_not():
    steps = torch.arange(8.0).reshape(2, 4)
    steps[:, -1] = math.nan
    assert own(steps).tolist() == [[1, 2], [5, 6]]
    steps[0, -1] = 3.0
    assert own(steps).isnan().sum() == 1
    assert read(torch.tensor([1.0, math.nan, 2.0])).shape == (3,)
    assert own(torch.zeros(2, 1)).shape == (2, 0)


def test_a_first_layer_without_one_before_it_is_left_out():
    values = torch.tensor([[math.nan, math.nan], [1.0, math.nan]])
    assert after_first(values).shape == (1, 2)
    assert after_first(values[1:]).shape == (1, 2)
    assert after_first(values[:1]).shape == (0, 2)
