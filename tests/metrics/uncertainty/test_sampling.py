"""Values by hand; those of peers' own code are in tests/metrics/test_conformance_samples.py."""

import math

import pytest
import torch

from metrics.uncertainty.sampling import (
    discrete_semantic_entropy,
    label_probability,
    monte_carlo_entropy,
    self_consistency,
    semantic_entropy,
    semantic_entropy_polygraph,
    semantic_sets,
    semantic_sets_connected,
)


def clusters(*ids):
    """Clusters by answer; by embedding all apart; by NLI all in one."""
    return torch.stack([torch.tensor(ids).double(), torch.arange(len(ids)).double(), torch.zeros(len(ids)).double()])


def logs(*probabilities):
    return torch.tensor(probabilities, dtype=torch.float64).log()


ONES = torch.ones(3, dtype=torch.float64)


def test_semantic_entropy():
    """P of three samples 1/2, 1/4, 1/4, the first two of one meaning: entropy of 3/4 and 1/4."""
    found = semantic_entropy(logs(0.2, 0.1, 0.1), ONES, clusters(0, 0, 1))
    assert found.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    apart = semantic_entropy(logs(0.2, 0.1, 0.1), ONES, clusters(0, 0, 1), clusters="embedding")
    assert apart.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4))
    assert semantic_entropy(logs(0.2, 0.1, 0.1), ONES, clusters(0, 0, 1), clusters="nli").item() == pytest.approx(0)


def test_semantic_entropy_takes_the_likelihood_per_token_or_whole():
    sums, lengths = torch.tensor([-6.0, -2.0]).double(), torch.tensor([3.0, 1.0]).double()
    assert semantic_entropy(sums, lengths, clusters(0, 1)).item() == pytest.approx(math.log(2))
    first = math.exp(-6) / (math.exp(-6) + math.exp(-2))
    hand = -(first * math.log(first) + (1 - first) * math.log(1 - first))
    assert semantic_entropy(sums, lengths, clusters(0, 1), likelihood="sum").item() == pytest.approx(hand)


def test_semantic_entropy_of_very_small_probabilities():
    """Sequences of probability exp(-3000) and exp(-5000): the second has nothing to say."""
    sums = torch.tensor([-3000.0, -5000.0]).double()
    assert semantic_entropy(sums, ONES[:2], clusters(0, 1)).item() == pytest.approx(0, abs=1e-12)
    assert semantic_entropy(sums - 5000, ONES[:2], clusters(0, 0)).item() == pytest.approx(0, abs=1e-12)


def test_duplicates_count_in_semantic_entropy():
    once = semantic_entropy(logs(0.5, 0.5), ONES[:2], clusters(0, 1)).item()
    twice = semantic_entropy(logs(0.5, 0.5, 0.5), ONES, clusters(0, 0, 1)).item()
    assert once == pytest.approx(math.log(2))
    assert twice == pytest.approx(-(2 / 3 * math.log(2 / 3) + 1 / 3 * math.log(1 / 3)))


def test_semantic_entropy_polygraph():
    found = semantic_entropy_polygraph(logs(0.2, 0.1, 0.1), clusters(0, 0, 1))
    assert found.item() == pytest.approx(-(2 * math.log(0.3) + math.log(0.1)) / 3)
    assert semantic_entropy_polygraph(logs(0.9, 0.9, 0.9), clusters(0, 0, 0)).item() == pytest.approx(-math.log(2.7))


def test_discrete_semantic_entropy():
    found = discrete_semantic_entropy(clusters(0, 0, 1, 0))
    assert found.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert discrete_semantic_entropy(clusters(0, 0)).item() == 0
    assert math.copysign(1, discrete_semantic_entropy(clusters(0, 0)).item()) == 1
    assert discrete_semantic_entropy(clusters(5, 3)).item() == pytest.approx(math.log(2))
    assert discrete_semantic_entropy(clusters(0, 0, 0), clusters="embedding").item() == pytest.approx(math.log(3))


def test_semantic_sets():
    assert semantic_sets(clusters(0, 0, 1, 2, 2, 2, 2)).item() == 3
    assert semantic_sets(clusters(7)).item() == 1
    assert semantic_sets(clusters(*range(10))).item() == 10
    assert semantic_sets(clusters(*[0] * 7)).item() == 1


def nli(n, entailed):
    """Entailment where told, in the given direction, else contradiction."""
    made = torch.tensor([0.1, 0.2, 0.7]).repeat(n, n, 1)
    for i, j in entailed:
        made[i, j] = torch.tensor([0.7, 0.2, 0.1])
    return made


def test_semantic_sets_connected():
    both = [(0, 1), (1, 0), (1, 2), (2, 1)]
    assert semantic_sets_connected(nli(5, both)).item() == 3
    assert semantic_sets_connected(nli(5, both[:3])).item() == 4, "one direction does not join"
    assert semantic_sets_connected(nli(3, [])).item() == 3
    chain = [(i, i + d) for i in range(9) for d in (1,)] + [(i + 1, i) for i in range(9)]
    assert semantic_sets_connected(nli(10, chain)).item() == 1
    assert semantic_sets_connected(nli(1, [])).item() == 1


def test_label_probability():
    assert label_probability(clusters(0, 0, 1, 0)).item() == 0.75
    assert label_probability(clusters(0, 1, 0, 1)).item() == 0.5
    assert label_probability(clusters(4)).item() == 1


def test_self_consistency():
    ids = clusters(0, 1, 1, 1)
    assert [self_consistency(ids, torch.tensor(i)).item() for i in range(4)] == [0.25, 0.75, 0.75, 0.75]
    assert self_consistency(ids, torch.tensor(0), clusters="nli").item() == 1


def test_monte_carlo_entropy():
    sums, lengths = torch.tensor([-6.0, -2.0]).double(), torch.tensor([3.0, 2.0]).double()
    assert monte_carlo_entropy(sums, lengths).item() == pytest.approx(1.5)
    assert monte_carlo_entropy(sums, lengths, likelihood="sum").item() == pytest.approx(4)


def test_a_sample_without_a_cluster_leaves_all_undefined():
    ids = clusters(0, 0, 1)
    ids[0, 1] = math.nan
    for found in (discrete_semantic_entropy(ids), semantic_sets(ids), label_probability(ids)):
        assert math.isnan(found)
    assert math.isnan(self_consistency(ids, torch.tensor(2)))
