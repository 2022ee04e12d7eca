"""Our metrics beside the values of peers' own code on the same tensors (tests/data/peers), and where they differ.

A row says that `theirs(our score)` is the peer's value for each of four frozen answers of 1, 2, 7 and 12 tokens. Where
it is not the identity, the reason is beside it. What looks inside the model is in test_conformance_inside.py, what is
wrong with peers in test_conformance_defects.py.
"""

import math

import frozen_peers as frozen
import pytest
from frozen_peers import POLYGRAPH, Row, negated, same

from metrics.core import metrics

LN_V = math.log(frozen.VOCAB)

TABLE = [
    # likelihood
    Row(POLYGRAPH, "MaximumSequenceProbability", "sequence_nll"),
    Row(POLYGRAPH, "Perplexity", "mean_nll", why="it takes no exponential"),
    Row(POLYGRAPH, "Perplexity", "perplexity", lambda x, _: math.log(x), "it takes no exponential"),
    Row("LLM-Check", "perplexity", "perplexity"),
    # distribution
    Row(POLYGRAPH, "MeanTokenEntropy", "mean_entropy"),
    Row(POLYGRAPH, "SelfCertainty", "self_certainty", negated, "an uncertainty there"),
    Row("Self-Certainty", "rows aligned", "self_certainty", why="its script reads one row later"),
    Row(POLYGRAPH, "BoostedProbSequence", "boosted_prob", negated, "an uncertainty there"),
    Row(POLYGRAPH, "RenyiNeg", "renyi", lambda x, _: x - 2 * LN_V, "+ln V has the wrong sign there"),
    Row(POLYGRAPH, "FisherRao", "fisher_rao", rel=1e-4, why="declared an uncertainty there, which it is not"),
    Row(
        "LLM-Check",
        "window_entropy, rows aligned",
        "max_entropy",
        lambda x, _: x / frozen.VOCAB,
        "its code takes the mean over the vocabulary, and the rows one later",
    ),
    Row(
        "LLM-Check",
        "logit_entropy top_k=20, rows aligned",
        "topk_negentropy(k=20)",
        lambda x, _: (1 - x) * math.log(20) / 20,
        "its code takes the mean over the k tokens, and the rows one later",
    ),
    Row("DeepConf", "mean", "deepconf_mean", rel=2e-4, why="its code rounds each token's to three decimals"),
    Row("DeepConf", "tail tokens=3", "deepconf_tail(tokens=3)", rel=2e-4, why="rounded"),
    Row("DeepConf", "bottom window=4", "deepconf_bottom(window=4)", rel=2e-4, why="rounded"),
    Row("DeepConf", "bottom window=2 share=.5", "deepconf_bottom(window=2,share=.5)", rel=2e-4, why="rounded"),
    Row("DeepConf", "lowest window=4", "deepconf_lowest_window(window=4)", rel=2e-4, why="rounded"),
    Row("DeepConf", "least grouped 4", "deepconf_lowest_window(window=4)", rel=2e-4, why="rounded"),
]

NO_PEER = {
    "min_probability": "the smallest of lm-polygraph's MaximumTokenProbability, which drops the last token",
    "min_k": "no package of uncertainty scores has it; by hand in test_likelihood.py",
    "min_k_plus_plus": "no package of uncertainty scores has it; by hand in test_likelihood.py",
    "top_share_entropy": "a pooling of this project; by hand in test_distribution.py",
    "mean_varentropy": "no peer has it; by hand in test_distribution.py",
    "margin": "uqlm's, from an API's log-probabilities; by hand in test_distribution.py",
    "answer_length": "counts",
    "prompt_length": "counts",
    "first_token_entropy": "an entry of what mean_entropy is the mean of",
    "random": "a hash",
    "choice_entropy": "lm-polygraph treats multiple choice as generation; by hand in test_choices.py",
    "choice_margin": "as choice_entropy",
    "choice_probability": "as choice_entropy",
}
FAMILIES = ("likelihood", "distribution", "choices", "baselines")


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_equals_the_peers_value_or_differs_as_stated(row):
    frozen.compare(row)


@pytest.mark.parametrize("row", [row for row in TABLE if row.theirs is not same], ids=str)
def test_what_is_not_equal_says_why_and_is_not_equal(row):
    frozen.differs(row)


def test_every_metric_of_logits_has_a_peer_or_a_reason():
    known = {name for name, made in metrics().items() if made.family in FAMILIES}
    said = frozen.peers_or_reasons(TABLE, NO_PEER)
    assert known <= said, "give it a row of TABLE, or say in NO_PEER why there is none"


@pytest.mark.parametrize(
    ("theirs", "name", "sign"), [("MaximumTokenProbability", "logprob", -1), ("TokenEntropy", "entropy", 1)]
)
def test_scores_of_tokens_are_those_of_lm_polygraph_which_drops_the_last(theirs, name, sign):
    for answer, value in enumerate(frozen.values()[POLYGRAPH]["one by one"][theirs]):
        ours = sign * frozen.signal(name, frozen.record(answer))
        assert len(ours) == len(value) + 1
        assert ours[:-1].tolist() == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(
    ("theirs", "ours", "sign"),
    [
        ("MeanTokenEntropy", "mean_entropy", 1),
        ("SelfCertainty", "self_certainty", -1),
        ("BoostedProbSequence", "boosted_prob", -1),
    ],
)
def test_tokens_that_are_ruled_out_count_in_neither(theirs, ours, sign):
    raw = {"logits": frozen.tensors()["ruled_logits"], "tokens": frozen.tensors()["ruled_tokens"]}
    value = frozen.values()[POLYGRAPH]["with tokens ruled out"][theirs]
    assert sign * frozen.score(ours, raw) == pytest.approx(value, rel=1e-5)
