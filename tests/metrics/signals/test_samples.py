import math

import pytest
import torch

from metrics.signals.samples import (
    AFFINITIES,
    affinity_by,
    clusters_by,
    sample_entropy,
    sample_length,
    sample_log_probability,
    sample_relevant_log_probability,
    sample_states,
)


def test_sample_log_probability():
    assert sample_log_probability(torch.tensor([-1.0, -2.5])).item() == -3.5


def test_sample_length():
    assert sample_length(torch.tensor(4)).item() == 4


def test_sample_entropy():
    assert sample_entropy(torch.tensor([1.0, 2.0])).item() == 1.5


def test_sample_relevant_log_probability():
    logprob, relevance = torch.tensor([-1.0, -4.0]), torch.tensor([0.3, 0.1])
    assert sample_relevant_log_probability(logprob, relevance).item() == pytest.approx((0.3 * -1 + 0.1 * -4) / 0.4)
    assert math.isnan(sample_relevant_log_probability(logprob, torch.zeros(2)))


def test_sample_states():
    states = torch.randn(3, 4).half()
    assert torch.equal(sample_states(states), states.double())


def test_kinds_are_picked_by_name():
    values = torch.arange(3.0)[:, None].expand(3, 2)
    assert clusters_by(values, "nli").tolist() == [2, 2]
    with pytest.raises(ValueError, match="clusters='words' is not known; choose answer, embedding, nli"):
        clusters_by(values, "words")
    matrices = torch.arange(float(len(AFFINITIES)))[:, None, None].expand(-1, 2, 2)
    assert affinity_by(matrices, "bleu").tolist() == [[2, 2], [2, 2]]
    with pytest.raises(ValueError, match="affinity='words' is not known; choose jaccard"):
        affinity_by(matrices, "words")
