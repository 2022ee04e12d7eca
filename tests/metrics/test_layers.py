import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metrics.layers import select


@pytest.mark.parametrize(
    ("text", "blocks", "layers"),
    [
        ("all", 3, (0, 1, 2, 3)),
        (" all ", 1, (0, 1)),
        ("last:1", 12, (12,)),
        ("last:2", 4, (3, 4)),
        ("last:5", 4, (0, 1, 2, 3, 4)),
        ("0+4+-1", 12, (0, 4, 12)),
        ("0,4,-1", 12, (0, 4, 12)),
        ("4 + 0 , 4", 12, (0, 4)),
        ("-1", 12, (12,)),
        ("-13", 12, (0,)),
        (-1, 12, (12,)),
        (-1.0, 12, (12,)),
        ("-1.0", 12, (12,)),
        (5, 12, (5,)),
        (5.0, 12, (5,)),
        ("1", 12, (1,)),
        (1, 12, (1,)),
        ("1.0", 12, (12,)),
        (1.0, 12, (12,)),
        ("0.0", 12, (0,)),
        (0, 12, (0,)),
        ("-0", 12, (0,)),
        (0.5, 24, (12,)),
        ("0.5+1.0", 24, (12, 24)),
        (".25", 12, (3,)),
        (0.5, 5, (2,)),
        (0.5, 7, (4,)),
        (1e-5, 12, (0,)),
        (np.float64(0.5), 12, (6,)),
        ([0, 4, -1], 12, (0, 4, 12)),
        ([3, 3, 1], 12, (1, 3)),
        (["0.5", 0.25, 2], 12, (2, 3, 6)),
        ((12,), 12, (12,)),
        ("[0, 4, -1]", 12, (0, 4, 12)),
        ("[0.5, 1]", 12, (1, 6)),
        ('["0.5"]', 12, (6,)),
        ("all", 0, (0,)),
        ("0.7", 0, (0,)),
    ],
)
def test_select(text, blocks, layers):
    assert select(text, blocks) == layers


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("5", "outside 0..4"),
        ("-6", "outside 0..4"),
        ("1.5", "neither an index nor a depth"),
        ("-0.5", "neither an index nor a depth"),
        (-0.5, "neither an index nor a depth"),
        ("first", "not a number"),
        ("", "not a number"),
        ("0++1", "not a number"),
        ("last:2+0", "after 'last:'"),
        ("last:0", "after 'last:'"),
        ("last:6", "from 1 to 5"),
        ("last:-1", "after 'last:'"),
        ("last:", "after 'last:'"),
        ("last:²", "after 'last:'"),
        ("nan", "not a number"),
        ("inf", "not a number"),
        ("-inf", "not a number"),
        ("1e400", "not a number"),
        (float("nan"), "not a number"),
        (True, "not a number"),
        ("[0, 1", "not a JSON list"),
        ("[]", "no layer"),
        ([], "no layer"),
        ("[[1]]", "not a number"),
        ("[null]", "not a number"),
        (["all"], "not a number"),
    ],
)
def test_select_refuses(text, says):
    with pytest.raises(ValueError, match=says):
        select(text, 4)


entry = st.one_of(
    st.integers(-25, 24),
    st.floats(0, 1).map(lambda depth: round(depth, 3)),
    st.integers(-25, 24).map(str),
)


@given(st.lists(entry, min_size=1, max_size=8), st.sampled_from([list, tuple, "+", ","]))
def test_a_selection_is_sorted_unique_and_in_range(entries, how):
    text = how.join(str(e) for e in entries) if isinstance(how, str) else how(entries)
    layers = select(text, 24)
    assert list(layers) == sorted(set(layers))
    assert all(isinstance(layer, int) and 0 <= layer <= 24 for layer in layers)
    assert 1 <= len(layers) <= len(entries)


@given(st.integers(0, 60), st.data())
def test_negative_indices_count_from_the_end(blocks, data):
    index = data.draw(st.integers(-blocks - 1, -1))
    assert select(index, blocks) == select(str(index), blocks) == (tuple(range(blocks + 1))[index],)


@given(st.integers(0, 60), st.data())
def test_last_is_the_end_of_all(blocks, data):
    count = data.draw(st.integers(1, blocks + 1))
    assert select(f"last:{count}", blocks) == select("all", blocks)[-count:]
