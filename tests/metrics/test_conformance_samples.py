"""Sampling metrics beside the values of peers' own code on the same samples (tests/data/peers/samples.json).

A row says that `theirs(our score)` is the peer's value for each of three documents: five samples of which two are
equal, two that mean the same, three that are all equal. Where it is not the identity, the reason is beside it.
"""

import functools
import json
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from frozen_peers import FOLDER, POLYGRAPH, negated, peers_or_reasons, same

from metrics.choosing import choose
from metrics.core import metric_cost, metrics
from metrics.lexical import LEXICAL
from metrics.samples import clusters
from metrics.signals.samples import (
    AFFINITIES,
    CLUSTERINGS,
    sample_entropy,
    sample_log_probability,
    sample_relevant_log_probability,
)

FARQUHAR, KLE = "semantic_uncertainty", "kernel-language-entropy"


class Row(NamedTuple):
    peer: str
    value: str
    ours: str
    theirs: Callable = same
    why: str = ""

    def __str__(self):
        return f"{self.peer} {self.value} - {self.ours}"


def flipped(ours, _):
    return 1 - ours


TABLE = [
    Row(FARQUHAR, "semantic_entropy", "semantic_entropy"),
    Row(FARQUHAR, "cluster_assignment_entropy", "discrete_semantic_entropy"),
    Row(FARQUHAR, "regular_entropy", "monte_carlo_entropy"),
    Row(POLYGRAPH, "SemanticEntropy", "semantic_entropy_polygraph"),
    Row(POLYGRAPH, "SemanticEntropyEmpirical", "discrete_semantic_entropy"),
    Row(POLYGRAPH, "LabelProb", "label_probability", flipped, "an uncertainty there"),
    Row(POLYGRAPH, "NumSemSets", "semantic_sets_connected"),
    Row(POLYGRAPH, "MonteCarloSequenceEntropy", "monte_carlo_entropy(likelihood=sum)"),
    Row(POLYGRAPH, "MonteCarloNormalizedSequenceEntropy", "monte_carlo_entropy"),
    Row(POLYGRAPH, "LexicalSimilarity_rougeL", "lexical_similarity", negated, "an uncertainty there"),
    *(
        Row(POLYGRAPH, f"{theirs}_{kind}", f"{ours}(affinity={affinity})")
        for theirs, ours in (
            ("DegMat", "degree_matrix"),
            ("EigValLaplacian", "eigval_laplacian"),
            ("Eccentricity", "eccentricity"),
        )
        for kind, affinity in (
            ("Jaccard_score", "jaccard"),
            ("NLI_score_entail", "entailment"),
            ("NLI_score_contra", "contradiction"),
        )
    ),
    Row(POLYGRAPH, "KernelLanguageEntropy", "kernel_language_entropy"),
    Row(KLE, "heat t=0.3", "kernel_language_entropy"),
    Row(KLE, "matern", "kernel_language_entropy(kernel=matern)"),
    Row(POLYGRAPH, "LUQ", "luq"),
    Row(POLYGRAPH, "SentenceSAR", "sentence_sar"),
    Row("SAR", "sentence_sar", "sentence_sar"),
    Row(POLYGRAPH, "SAR", "sar"),
    Row("SAR", "sar", "sar"),
    Row(POLYGRAPH, "TokenSAR", "token_sar"),
    Row(POLYGRAPH, "EigenScore", "eigenscore(scale=gram)"),
    Row("INSIDE", "getEigenIndicator_v0", "eigenscore", lambda x, _: x / math.log(10), "decimal logarithms there"),
    Row(POLYGRAPH, "CocoaMSP", "cocoa_msp"),
    Row(POLYGRAPH, "CocoaPPL", "cocoa_ppl"),
    Row(POLYGRAPH, "CocoaMTE", "cocoa_mte"),
]

NO_PEER = {
    "semantic_sets": "counts clusters; by hand in test_sampling.py",
    "self_consistency": "no package of uncertainty scores has it; by hand in test_sampling.py",
    "seu": "no package has it; by hand in test_sampling_similarity.py",
    "semantic_density": "lm-polygraph's two directions together, in a test of its own below",
    "word_sequence_entropy": "no code was published; by hand in test_sampling_relevance.py",
}


@functools.cache
def frozen():
    return json.loads((FOLDER / "samples.json").read_text())


def document(at):
    """The signals of a frozen document, sample 0 scored; what is alike comes from the texts, from NLI, or is given."""
    made = frozen()["documents"][at]
    nli = torch.tensor(made["nli"], dtype=torch.float64)
    entails, contradicts = ((nli[..., i] + nli[..., i].T) / 2 for i in (0, 2))
    alike = torch.full((len(AFFINITIES), *entails.shape), math.nan, dtype=torch.float64)
    kinds = {kind: torch.from_numpy(of(made["texts"])) for kind, of in LEXICAL.items()}
    kinds |= {"embedding": torch.tensor(made["similarity"]), "entailment": entails, "contradiction": 1 - contradicts}
    for kind, values in kinds.items():
        alike[AFFINITIES.index(kind)] = values
    logprobs = [torch.tensor(x, dtype=torch.float64) for x in made["logprobs"]]
    relevance = [torch.tensor(x, dtype=torch.float64) for x in made["relevance"]]
    return {
        "sample_index": torch.tensor(0),
        "sample_text": clusters(made["texts"]),
        "sample_clusters": torch.tensor([made["clusters"]] * len(CLUSTERINGS), dtype=torch.float64),
        "sample_affinity": alike,
        "sample_nli": nli,
        "sample_states": torch.tensor(made["states"], dtype=torch.float64)[:, None],
        "sample_log_probability": torch.stack([sample_log_probability(x) for x in logprobs]),
        "sample_length": torch.tensor([len(x) for x in logprobs], dtype=torch.float64),
        "sample_entropy": torch.stack([sample_entropy(torch.tensor(x)) for x in made["entropy"]]),
        "sample_relevant_log_probability": torch.stack(
            [sample_relevant_log_probability(*pair) for pair in zip(logprobs, relevance)]
        ),
        "logprob": logprobs[0],
        "token_relevance": relevance[0],
    }


def score(name, at):
    (choice,) = choose(name)
    return choice(document(at)).item()


@pytest.mark.parametrize("row", TABLE, ids=str)
def test_equals_the_peers_value_or_differs_as_stated(row):
    theirs = frozen()["values"][row.peer][row.value]
    assert len(theirs) == len(frozen()["documents"])
    for at, value in enumerate(theirs):
        ours = row.theirs(score(row.ours, at), None)
        assert ours == pytest.approx(value, rel=2e-6, abs=2e-6), f"document {at}"


def test_semantic_density_is_the_mean_of_both_directions_of_lm_polygraph():
    """Of the first two documents, where no sample repeats the scored one; then both are the same but for its sign."""
    values = frozen()["values"][POLYGRAPH]
    for at in (0, 1):
        theirs = -(values["SemanticDensity forward"][at] + values["SemanticDensity backward"][at]) / 2
        assert score("semantic_density", at) == pytest.approx(theirs, rel=1e-6)


def test_lm_polygraph_counts_an_answer_that_is_sampled_again_twice_in_semantic_density():
    """The third document: the scored answer is certain, and a sample of the same text stands beside it, NLI or not."""
    relation = frozen()["documents"][2]["nli"][0][1]
    theirs = -frozen()["values"][POLYGRAPH]["SemanticDensity forward"][2]
    assert theirs == pytest.approx((1 + 1 - relation[2] - relation[1] / 2) / 2, rel=1e-6)
    assert score("semantic_density", 2) == 1


def test_token_sar_of_sar_is_the_mean_over_the_samples():
    for at, theirs in enumerate(frozen()["values"]["SAR"]["token_sar, mean of samples"]):
        assert -document(at)["sample_relevant_log_probability"].mean().item() == pytest.approx(theirs, rel=1e-6)


def test_every_sampling_metric_has_a_peer_or_a_reason():
    known = {name for name, made in metrics().items() if metric_cost(made) == "samples"}
    said = peers_or_reasons(TABLE, NO_PEER)
    assert known == said, "give it a row of TABLE, or say in NO_PEER why there is none"
