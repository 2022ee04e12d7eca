import math

import pytest
import torch

from metrics.signals.samples import AFFINITIES
from metrics.uncertainty.sampling_relevance import sar, sentence_sar, token_sar, word_sequence_entropy


def affinities(matrix, kind="embedding"):
    found = torch.full((len(AFFINITIES), len(matrix), len(matrix)), math.nan, dtype=torch.float64)
    found[AFFINITIES.index(kind)] = torch.as_tensor(matrix)
    return found


THREE = [[1.0, 0.5, 0.2], [0.5, 1.0, 0.3], [0.2, 0.3, 1.0]]
LOGS = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64).log()


def shifted(p, alike, t):
    """The sum written out."""
    n = len(p)
    return -sum(math.log(p[i] + sum(alike[i][j] * p[j] for j in range(n) if j != i) / t) for i in range(n)) / n


def test_token_sar():
    logprob, relevance = torch.tensor([-1.0, -3.0, -2.0]), torch.tensor([0.0, 0.3, 0.1])
    assert token_sar(logprob, relevance).item() == pytest.approx((3 * 0.3 + 2 * 0.1) / 0.4)
    assert token_sar(logprob[:1], torch.ones(1)).item() == 1
    assert math.isnan(token_sar(logprob, torch.zeros(3)))


def test_sentence_sar():
    p = [0.1, 0.2, 0.4]
    assert sentence_sar(LOGS, affinities(THREE)).item() == pytest.approx(shifted(p, THREE, 0.001))
    assert sentence_sar(LOGS, affinities(THREE), temperature=0.5).item() == pytest.approx(shifted(p, THREE, 0.5))
    unlike = sentence_sar(LOGS, affinities(torch.eye(3)))
    assert unlike.item() == pytest.approx(-LOGS.mean().item()), "without likeness the mean log-probability is left"
    assert sentence_sar(LOGS[:1], affinities([[1.0]])).item() == pytest.approx(-math.log(0.1))


def test_sentence_sar_of_probabilities_too_small_for_a_float():
    """A factor in P is a constant in the score."""
    near = sentence_sar(LOGS, affinities(THREE)).item()
    assert sentence_sar(LOGS - 2000, affinities(THREE)).item() == pytest.approx(near + 2000)


def test_sar():
    found = sar(LOGS, affinities(THREE, "rouge_l"), affinity="rouge_l", temperature=0.1)
    assert found.item() == pytest.approx(shifted([0.1, 0.2, 0.4], THREE, 0.1))


def test_word_sequence_entropy():
    weights = [0.5 + 0.2, 0.5 + 0.3, 0.2 + 0.3]
    hand = -sum(w * math.log(p) for w, p in zip(weights, [0.1, 0.2, 0.4])) / sum(weights)
    assert word_sequence_entropy(LOGS, affinities(THREE)).item() == pytest.approx(hand)
    equal = word_sequence_entropy(LOGS, affinities(torch.ones(3, 3)))
    assert equal.item() == pytest.approx(-LOGS.mean().item())
    assert math.isnan(word_sequence_entropy(LOGS, affinities(torch.eye(3))))


def test_what_is_less_alike_than_nothing_is_undefined():
    assert math.isnan(sentence_sar(LOGS[:2], affinities([[1.0, -0.5], [-0.5, 1.0]])))
