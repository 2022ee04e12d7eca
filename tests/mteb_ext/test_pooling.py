"""Pooling by hand on tiny numbers, and against sentence-transformers' own module."""

import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling

from mteb_ext.pooling import POOLINGS

HIDDEN = torch.tensor([[[1.0, -2.0], [3.0, 0.0], [8.0, -7.0]]])
BY_HAND = {
    "mean": {(1, 1, 1): [4, -3], (1, 1, 0): [2, -1], (0, 1, 1): [5.5, -3.5], (0, 1, 0): [3, 0]},
    "cls": {(1, 1, 1): [1, -2], (1, 1, 0): [1, -2], (0, 1, 1): [3, 0], (0, 1, 0): [3, 0]},
    "last": {(1, 1, 1): [8, -7], (1, 1, 0): [3, 0], (0, 1, 1): [8, -7], (0, 1, 0): [3, 0]},
    "max": {(1, 1, 1): [8, 0], (1, 1, 0): [3, 0], (0, 1, 1): [8, 0], (0, 1, 0): [3, 0]},
    "weighted": {
        (1, 1, 1): [31 / 6, -23 / 6],
        (1, 1, 0): [7 / 3, -2 / 3],
        (0, 1, 1): [19 / 3, -14 / 3],
        (0, 1, 0): [3, 0],
    },
}
THEIRS = {"mean": "mean", "cls": "cls", "last": "lasttoken", "max": "max", "weighted": "weightedmean"}


@pytest.mark.parametrize(
    ("pooling", "mask", "row"), [(p, m, r) for p, rows in BY_HAND.items() for m, r in rows.items()]
)
def test_by_hand(pooling, mask, row):
    torch.testing.assert_close(POOLINGS[pooling](HIDDEN, torch.tensor([mask])), torch.tensor([row], dtype=torch.float))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_against_sentence_transformers(pooling, left):
    torch.manual_seed(0)
    hidden = torch.randn(4, 6, 5) * 3
    mask = (torch.arange(6) < torch.tensor([[6], [4], [1], [3]])).long()
    mask = mask.flip(1) if left else mask
    theirs = Pooling(5, THEIRS[pooling])({"token_embeddings": hidden, "attention_mask": mask})["sentence_embedding"]
    torch.testing.assert_close(POOLINGS[pooling](hidden, mask), theirs)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_never_enters(pooling, value):
    spoiled = HIDDEN.clone()
    spoiled[:, 2] = value
    got = POOLINGS[pooling](spoiled, torch.tensor([[1, 1, 0]]))
    torch.testing.assert_close(got, torch.tensor([BY_HAND[pooling][1, 1, 0]], dtype=torch.float))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_nan_of_the_text_stays(pooling):
    spoiled = HIDDEN.clone()
    spoiled[:] = torch.nan
    assert POOLINGS[pooling](spoiled, torch.tensor([[1, 1, 0]])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("pooling", POOLINGS)
def test_half_precision_is_pooled_in_float32(pooling, dtype):
    torch.manual_seed(0)
    hidden, mask = (torch.randn(2, 400, 8) * 100).to(dtype), torch.ones(2, 400, dtype=torch.long)
    got = POOLINGS[pooling](hidden, mask)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, POOLINGS[pooling](hidden.double(), mask), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_neither_the_states_nor_the_mask_are_changed(pooling):
    hidden, mask = HIDDEN.clone(), torch.tensor([[1, 1, 0]])
    POOLINGS[pooling](hidden, mask)
    assert torch.equal(hidden, HIDDEN) and mask.tolist() == [[1, 1, 0]]
