"""Metrics of hidden states, attention, lens and further passes beside peers' own values; see test_conformance.py.

Attention statistics of single heads are kept in half precision, hence the tolerance.
"""

import math

import frozen_peers as frozen
import pytest
from frozen_peers import POLYGRAPH, Row, same

from metrics.core import features

HALF = 1e-3
BLOCKS, HEADS = 4, 3
ICML = "tokens=mean_min,over=mean"


def without_the_last(ours, raw):
    """The sum over the answer's positions but the last one."""
    return ours + raw["attention_self"][2, :, -1].log().mean().item()


def first_alone_is_free(ours, raw):
    """-(1/n) sum_t (l_t - m_t) with m_0 = 0 in place of the log-probability of the first token alone."""
    return ours - raw["logprob_alone"][0].item() / len(raw["tokens"])


def first_alone_is_free_and_scaled(ours, raw):
    """The same where m_t is multiplied by 3.599 if the entropy is at least .0656."""
    hesitant = frozen.signal("entropy", raw)[0] >= 0.0656
    return ours - 3.599 * hesitant.item() * raw["logprob_alone"][0].item() / len(raw["tokens"])


TABLE = [
    # attention
    Row(POLYGRAPH, "AttentionScore", "attention_score"),
    *(Row(POLYGRAPH, f"AttentionScore layer={k}", f"attention_score(layer={k})") for k in range(BLOCKS)),
    Row(
        POLYGRAPH,
        "AttentionScore gen_only",
        "attention_score(positions=generated)",
        without_the_last,
        "the last token is left out there, so an answer of one token scores 0",
    ),
    *(
        Row(
            "LLM-Check",
            "attention by block",
            f"llm_check_attention(layer={k})",
            lambda x, _: HEADS * x,
            "a sum over heads there",
            at=k,
        )
        for k in range(BLOCKS)
    ),
    Row(POLYGRAPH, "RAUQ", "rauq", rel=HALF),
    Row(POLYGRAPH, "RAUQ instruct", "rauq(alpha=0.5)", rel=HALF),
    Row(POLYGRAPH, "RAUQ entropy", "rauq_entropy", rel=HALF),
    Row(POLYGRAPH, "RAUQ, rows of the token itself", "rauq_previous", rel=HALF),
    Row("RAUQ", "meanlog, max", "rauq", rel=HALF),
    Row("RAUQ", "meanlog, mean", "rauq(over=mean)", rel=HALF),
    Row("RAUQ", "default", f"rauq({ICML})", rel=HALF),
    Row("RAUQ", "default all layers", f"rauq({ICML},layers=all)", rel=HALF),
    Row("RAUQ", "default entropy", f"rauq_entropy(alpha=0.2,{ICML})", rel=HALF),
    Row("RAUQ", "default simple_rec", f"rauq({ICML},recursion=simple)", rel=HALF),
    Row("RAUQ", "meanlog, max simple_rec", "rauq(recursion=simple)", rel=HALF),
    # hidden
    *(Row("LLM-Check", "hidden by layer", f"llm_check_hidden(layer={k})", at=k) for k in range(BLOCKS + 1)),
    Row("CoE", "CoE-R states that read the answer", "coe_r", rel=1e-4),
    Row("CoE", "CoE-C states that read the answer", "coe_c", rel=1e-4),
    Row("CoE", "CoE-R official, last layer not normed", "coe_r_official", rel=1e-4),
    Row("CoE", "CoE-C official, last layer not normed", "coe_c_official", rel=1e-4),
    # further passes
    Row(POLYGRAPH, "CSL", "csl"),
    Row(POLYGRAPH, "PTrue", "p_true_polygraph", lambda x, _: -math.log(x), "-ln of the probability there"),
    Row(
        POLYGRAPH,
        "MeanPointwiseMutualInformation, rows aligned",
        "pmi",
        first_alone_is_free,
        "the first token alone has no log-probability there; its own rows are one late",
    ),
    Row(
        POLYGRAPH,
        "MeanConditionalPointwiseMutualInformation, rows aligned",
        "cpmi",
        first_alone_is_free_and_scaled,
        "the first token alone has no log-probability there; its own rows are one late",
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_equals_the_peers_value_or_differs_as_stated(row):
    frozen.compare(row)


@pytest.mark.parametrize("row", [row for row in TABLE if row.theirs is not same], ids=str)
def test_what_is_not_equal_says_why_and_is_not_equal(row):
    frozen.differs(row)


def test_lens_entropy_is_that_of_entropy_lens():
    """Entropy-Lens has the blocks; here layer 0, the embeddings, comes before them."""
    for answer, theirs in enumerate(frozen.values()["Entropy-Lens"]["windows=1"]):
        ours = frozen.signal("lens_entropy", frozen.record(answer))
        assert ours[1:].mean(-1).tolist() == pytest.approx(theirs, rel=1e-4)


def test_entropy_profile_is_that_of_entropy_lens():
    """Windows of equal width; Entropy-Lens refuses answers that they do not divide."""
    made = features()["entropy_profile"]
    entropy = frozen.signal("lens_entropy", frozen.record(3))
    theirs = frozen.values()["Entropy-Lens"]["windows=3, last answer"]  # window by block
    blocks = made.compute(entropy, windows=3).reshape(BLOCKS + 1, 3)[1:]
    assert blocks.flatten().tolist() == pytest.approx([row[k] for k in range(BLOCKS) for row in theirs], rel=1e-4)
