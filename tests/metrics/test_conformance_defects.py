"""What peers' code gets wrong on the frozen tensors, its value beside the right one.

Each test names the rows, positions or signs that give the peer's number, and shows that they do.
"""

import math

import frozen_peers as frozen
import pytest
import torch
from frozen_peers import POLYGRAPH, PROMPT, VOCAB

from metrics.core import metrics

ANSWERS = range(frozen.ANSWERS)


def one_by_one(name):
    return frozen.values()[POLYGRAPH]["one by one"][name]


@pytest.mark.parametrize(("theirs", "ours"), [("RenyiNeg", "renyi"), ("FisherRao", "fisher_rao")])
def test_lm_polygraph_declares_the_distance_from_uniform_an_uncertainty(theirs, ours):
    """Answer 1 has the flattest distributions of the four, and lm-polygraph's least "uncertainty" by these two."""
    entropies = [frozen.score("mean_entropy", frozen.record(answer)) for answer in ANSWERS]
    values = one_by_one(theirs)
    assert max(ANSWERS, key=entropies.__getitem__) == min(ANSWERS, key=values.__getitem__) == 1
    assert metrics()[ours].higher == "confident"


def test_lm_polygraph_adds_the_vocabulary_with_the_wrong_sign_to_renyi():
    """A divergence from the uniform distribution is never negative; RenyiNeg always is."""
    assert all(value < 0 for value in one_by_one("RenyiNeg"))
    for answer in ANSWERS:
        assert 0 <= frozen.score("renyi", frozen.record(answer)) <= math.log(VOCAB)


def test_lm_polygraph_counts_tokens_that_are_ruled_out_in_the_uniform_distribution():
    raw = {"logits": frozen.tensors()["ruled_logits"], "tokens": frozen.tensors()["ruled_tokens"]}
    values = frozen.values()[POLYGRAPH]["with tokens ruled out"]
    possible = VOCAB - 10
    overlap = 0.5 * (math.log(possible) - frozen.score("renyi", raw))  # mean of ln sum sqrt(q)
    assert values["RenyiNeg"] == pytest.approx(-2 * overlap - math.log(VOCAB), rel=1e-5)
    assert values["FisherRao"] == pytest.approx(0.367756, abs=1e-6)
    half = (raw["logits"] / 2).softmax(-1).sqrt().sum(-1)
    assert values["FisherRao"] == pytest.approx(2 / math.pi * (half / VOCAB**0.5).arccos().mean().item(), rel=1e-5)
    ours = 2 / math.pi * (half / possible**0.5).arccos().mean().item()
    assert frozen.score("fisher_rao", raw) == pytest.approx(ours, rel=1e-5)
    assert ours == pytest.approx(0.269026, abs=1e-6)


def test_lm_polygraph_reads_the_attention_of_the_first_item_for_the_whole_batch():
    """One by one or four together: the log-probabilities agree, RAUQ does for the batch's first item alone."""
    alone, together = one_by_one("RAUQ"), frozen.values()[POLYGRAPH]["in a batch of four"]
    assert together["Perplexity"] == one_by_one("Perplexity")
    assert together["RAUQ"][0] == alone[0]
    assert alone[1:] == pytest.approx([7.442953, 6.813470, 6.485378], abs=1e-5)
    assert together["RAUQ"][1:] == pytest.approx([7.438682, 5.834229, 6.336676], abs=1e-5)


@pytest.mark.parametrize("tau", [0.0, 0.0656])
def test_lm_polygraph_reads_the_answer_alone_one_row_late(tau):
    """Row -n + j of the pass over the answer alone has read token j already; it predicts the next one."""
    kind = "MeanPointwiseMutualInformation" if tau == 0 else "MeanConditionalPointwiseMutualInformation"
    scale = 1 if tau == 0 else 3.599
    for answer in ANSWERS:
        raw = frozen.record(answer)
        tokens, alone = raw["tokens"].long(), frozen.tensors()[f"alone_logits_{answer}"].log_softmax(-1)
        own, entropy = frozen.signal("logprob", raw), frozen.signal("entropy", raw)
        for late, name in ((1, kind), (0, f"{kind}, rows aligned")):
            total = 0.0
            for t in range(len(tokens)):
                counts = t > 0 and entropy[t] >= tau
                total += own[t].item() - (scale * alone[t + late, tokens[t]].item() if counts else 0)
            assert one_by_one(name)[answer] == pytest.approx(-total / len(tokens), rel=1e-4)
    assert one_by_one("MeanPointwiseMutualInformation")[3] == pytest.approx(-0.737758, abs=1e-5)
    assert one_by_one("MeanPointwiseMutualInformation, rows aligned")[3] == pytest.approx(-0.092286, abs=1e-5)


def test_lm_polygraph_has_no_score_for_the_last_token():
    """Token by token, an answer of one token has no score at all, and its attention score is a sum of nothing."""
    assert one_by_one("MaximumTokenProbability")[0] == one_by_one("TokenEntropy")[0] == []
    assert one_by_one("AttentionScore gen_only")[0] == 0
    assert frozen.signal("logprob", frozen.record(0)).shape == (1,)


def test_llm_check_reads_its_entropies_one_row_after_its_perplexity():
    """Rows P..P+n-1 are those that predict tokens 1..n; the first token's distribution is left out."""
    peer = frozen.values()["LLM-Check"]
    for answer in ANSWERS:
        entropy = torch.distributions.Categorical(logits=frozen.tensors()[f"logits_{answer}"]).entropy() / VOCAB
        assert peer["window_entropy"][answer] == pytest.approx(entropy[PROMPT:].max().item(), rel=1e-4)
        aligned = entropy[PROMPT - 1 : -1].max().item()
        assert peer["window_entropy, rows aligned"][answer] == pytest.approx(aligned, rel=1e-4)
        own = math.log(peer["perplexity"][answer])
        assert own == pytest.approx(one_by_one("Perplexity")[answer], rel=1e-5)
    assert peer["window_entropy"][2] == pytest.approx(0.043403, abs=1e-6)
    assert peer["window_entropy, rows aligned"][2] == pytest.approx(0.037647, abs=1e-6)


def test_llm_checks_last_layer_is_the_state_after_the_final_norm():
    """transformers' last hidden state is normed, the others are not; ours is the last block's own output."""
    peer = frozen.values()["LLM-Check"]
    after, before = peer["hidden of the last layer after the final norm"], [x[-1] for x in peer["hidden by layer"]]
    states = frozen.final_norm(frozen.tensors()["hidden_2"][-1:, PROMPT:]).double()[0]
    centred = states - states.mean(-1, keepdim=True)
    gram = centred @ centred.T + 0.001 * torch.eye(len(states))
    assert after[2] == pytest.approx(torch.linalg.eigvalsh(gram).log().mean().item(), rel=1e-3)
    assert abs(after[2] - before[2]) > 0.5


def test_self_certaintys_script_reads_one_row_late():
    peer = frozen.values()["Self-Certainty"]
    for answer in ANSWERS:
        logs = frozen.tensors()[f"logits_{answer}"].log_softmax(-1)
        late = -(logs[PROMPT:].mean(-1) + math.log(VOCAB)).mean().item()
        assert peer["official rows"][answer] == pytest.approx(late, rel=1e-5)
        assert peer["rows aligned"][answer] == pytest.approx(-one_by_one("SelfCertainty")[answer], rel=1e-5)
    assert peer["official rows"][0] == pytest.approx(3.745085, abs=1e-5)
    assert peer["rows aligned"][0] == pytest.approx(3.325010, abs=1e-5)


def test_coe_averages_the_prompts_first_token_and_never_the_answers_last():
    """Nor has an answer of one token a score: its code counts the layers of the second step."""
    peer = frozen.values()["CoE"]
    assert peer["CoE-R official"][0] is None
    whole = frozen.tensors()["hidden_3"]
    means = torch.cat([whole[:, :1], whole[:, PROMPT:-1]], 1).mean(1).double()
    steps, net = means.diff(dim=0).norm(dim=-1), (means[-1] - means[0]).norm()
    angles = torch.cosine_similarity(means[1:], means[:-1]).arccos()
    official = (steps / net).mean() - (angles / torch.cosine_similarity(means[-1:], means[:1]).arccos()).mean()
    assert peer["CoE-R official, last layer not normed"][3] == pytest.approx(official.item(), rel=1e-4)
    assert peer["CoE-R official, last layer not normed"][3] == pytest.approx(-0.194511, abs=1e-6)
    assert peer["CoE-R states that read the answer"][3] == pytest.approx(-0.116181, abs=1e-6)
    assert peer["CoE-R official"][3] == pytest.approx(0.737815, abs=1e-6), "its last layer is normed, the others not"


def test_the_thesis_lens_skips_the_final_norm_and_entropy_lens_does_not():
    thesis = frozen.values()["thesis"]["full_layer_shannon_entropy, mean by layer"]
    lens = frozen.values()["Entropy-Lens"]["windows=1"]
    head = frozen.tensors()["head"]
    for answer in ANSWERS:
        raw = frozen.record(answer)
        states, normed = raw["hidden"][:, :-1], raw["lens_logits"]
        for layer in range(1, 5):
            right = torch.distributions.Categorical(logits=normed[layer]).entropy().mean().item()
            assert lens[answer][layer - 1] == pytest.approx(right, rel=1e-4)
            skipped = normed[layer] if layer == 4 else states[layer] @ head.T
            value = torch.distributions.Categorical(logits=skipped).entropy().mean().item()
            assert thesis[answer][layer] == pytest.approx(value, rel=1e-3, abs=1e-5)
    assert (thesis[0][3], lens[0][2]) == pytest.approx((0.276564, 1.127532), abs=1e-5)


def test_the_thesis_layer_evolution_averages_rows_that_were_never_filled():
    """Of five layers two are compared with the last; mean and variance are over all five, three of them zero."""
    peer, head = frozen.values()["thesis"], frozen.tensors()["head"]
    for answer in ANSWERS:
        raw = frozen.record(answer)
        final = raw["lens_logits"][-1].log_softmax(-1)
        logs = [(raw["hidden"][layer, :-1] @ head.T).log_softmax(-1) for layer in (2, 3)]
        kl = torch.stack([(p.exp() * (p - final)).sum(-1) for p in logs])
        filled = torch.cat([torch.zeros(3, kl.shape[-1]), kl])
        mean, var = (
            peer[f"layer_evolution_{kind}_kl_divergence layers_from_end=3"][answer] for kind in ("mean", "var")
        )
        assert mean == pytest.approx((kl.sum(0) / 5).tolist(), rel=1e-3, abs=1e-4)
        assert var == pytest.approx(filled.var(0).tolist(), rel=1e-3, abs=1e-4)
        assert (kl.mean(0) > 2.4 * torch.tensor(mean)).all(), "the mean over the two is 2.5 times that"
