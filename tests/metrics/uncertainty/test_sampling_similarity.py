import math

import pytest
import torch

from metrics.signals.samples import AFFINITIES
from metrics.uncertainty.sampling_similarity import (
    cocoa_msp,
    cocoa_mte,
    cocoa_ppl,
    lexical_similarity,
    luq,
    semantic_density,
    seu,
)


def affinities(matrix, kind):
    """One kind known, the others not."""
    found = torch.full((len(AFFINITIES), len(matrix), len(matrix)), math.nan, dtype=torch.float64)
    found[AFFINITIES.index(kind)] = torch.tensor(matrix)
    return found


THREE = [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]]


def test_lexical_similarity():
    assert lexical_similarity(affinities(THREE, "rouge_l")).item() == pytest.approx((0.5 + 0.2 + 0.3) / 3)
    assert lexical_similarity(affinities(THREE, "bleu"), affinity="bleu").item() == pytest.approx(1 / 3)
    assert lexical_similarity(affinities([[1.0, 0.25], [0.25, 1.0]], "rouge_l")).item() == 0.25
    assert lexical_similarity(torch.ones(len(AFFINITIES), 4, 4)).item() == 1
    assert math.isnan(lexical_similarity(torch.ones(len(AFFINITIES), 1, 1)))


def test_seu():
    """Vectors at 0, 90 and 60 degrees, of any length: cosines 0, 1/2 and sqrt 3 / 2."""
    vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, math.sqrt(3) / 2]])
    assert seu(vectors).item() == pytest.approx(1 - (0 + 0.5 + math.sqrt(3) / 2) / 3)
    assert seu(vectors[:1].expand(4, -1)).item() == pytest.approx(0, abs=1e-12)
    assert seu(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item() == pytest.approx(2)
    assert math.isnan(seu(torch.tensor([[1.0, 0.0], [0.0, 0.0]])))
    assert math.isnan(seu(vectors[:1]))


def test_luq():
    relations = torch.full((2, 2, 3), 0.0)
    relations[0, 1], relations[1, 0] = torch.tensor([0.6, 0.2, 0.2]), torch.tensor([0.1, 0.6, 0.3])
    relations[0, 0] = relations[1, 1] = torch.tensor([1.0, 0.0, 0.0])
    assert luq(relations).item() == pytest.approx(1 - (0.75 + 0.25) / 2)


def test_semantic_density():
    """The scored sample 1; sample 2 has the same text and does not count, whatever NLI and likelihood say of it."""
    relations = torch.full((3, 3, 3), math.nan)
    relations[0, 1], relations[1, 0] = torch.tensor([0.5, 0.2, 0.3]), torch.tensor([0.7, 0.2, 0.1])
    relations[1, 1] = relations[1, 2] = relations[2, 1] = torch.tensor([0.0, 0.0, 1.0])
    texts, index = torch.tensor([0.0, 1.0, 1.0]), torch.tensor(1)
    sums, lengths = torch.tensor([-2.0, -3.0, -90.0]), torch.tensor([1.0, 3.0, 2.0])
    distance = (0.3 + 0.1 + 0.1 + 0.1) / 2
    q = [math.exp(-2), math.exp(-1)]
    hand = (q[0] * (1 - distance) + q[1]) / sum(q)
    assert semantic_density(relations, texts, sums, lengths, index).item() == pytest.approx(hand, rel=1e-6)


def test_semantic_density_of_equal_samples_is_one():
    relations = torch.tensor([0.9, 0.1, 0.0]).expand(4, 4, 3)
    lengths = torch.full((4,), 2.0)
    assert semantic_density(relations, torch.zeros(4), -lengths, lengths, torch.tensor(3)).item() == 1


SUMS, LENGTHS = torch.tensor([-4.0, -6.0, -1.0]).double(), torch.tensor([2.0, 3.0, 1.0]).double()


def test_cocoa_msp():
    alike = affinities(THREE, "embedding")
    assert cocoa_msp(SUMS, alike, torch.tensor(0)).item() == pytest.approx(4 * (0.5 + 0.8) / 2)
    assert cocoa_msp(SUMS, alike, torch.tensor(1)).item() == pytest.approx(6 * (0.5 + 0.7) / 2)
    assert cocoa_msp(SUMS, torch.ones_like(alike), torch.tensor(1)).item() == 0
    assert math.isnan(cocoa_msp(SUMS, alike, torch.tensor(0), affinity="rouge_l"))


def test_cocoa_ppl():
    alike = affinities(THREE, "rouge_l")
    found = cocoa_ppl(SUMS, LENGTHS, alike, torch.tensor(0), affinity="rouge_l")
    assert found.item() == pytest.approx(2 * (0.5 + 0.8) / 2)


def test_cocoa_mte():
    entropies = torch.tensor([0.5, 1.5, 0.1]).double()
    assert cocoa_mte(entropies, affinities(THREE, "embedding"), torch.tensor(1)).item() == pytest.approx(1.5 * 0.6)
