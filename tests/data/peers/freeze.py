"""Random tensors and what other people's own code says of them.

    python freeze.py --llm-check DIR --coe DIR --deepconf DIR --self-certainty DIR --rauq DIR --entropy-lens DIR \\
        --thesis DIR

writes tensors.npz and values.json into the folder of this file. It needs lm-polygraph and check-outs of seven
repositories (README.md says which commits), and is run by hand, outside the tests: they read the two files only.

The peers' functions are called as they are. Where a peer takes a model, `FrozenModel` stands in for it and returns the
frozen tensors in the form transformers gives them.
"""

from __future__ import annotations

import argparse
import importlib.util
import inspect
import json
import sys
import types
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

LENGTHS = (1, 2, 7, 12)
PROMPT, VOCAB, DIM, LAYERS, HEADS = 5, 64, 16, 4, 3
EOS, BOS = 0, 1
HERE = Path(__file__).parent


def make_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs of each answer: everything a full pass over prompt and answer shows, and what three further passes do."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (rng.standard_normal(shape) * scale).round(3).astype(np.float32)

    made = {"norm": 1 + normal(DIM, scale=0.2), "head": normal(VOCAB, DIM, scale=0.8)}
    for i, n in enumerate(LENGTHS):
        length = PROMPT + n
        hidden = normal(LAYERS + 1, length, DIM).cumsum(0)
        logits = (final_norm(torch.tensor(hidden[-1]), torch.tensor(made["norm"])) @ made["head"].T).numpy()
        tokens = rng.integers(2, VOCAB, length)
        likely = logits[:-1].argmax(-1)
        greedy = (rng.random(length - 1) < 0.5) & (likely != EOS)
        tokens[1:][greedy] = likely[greedy]
        tokens[-1] = EOS
        scores = torch.tensor(normal(LAYERS, HEADS, length, length, scale=1.5))
        causal = scores.masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf).softmax(-1)
        made |= {
            f"tokens_{i}": tokens.astype(np.int32),
            f"hidden_{i}": hidden,
            f"logits_{i}": logits,
            f"attention_{i}": causal.numpy(),
            f"alone_logits_{i}": normal(n + 1, VOCAB, scale=2),
            f"elicited_{i}": (rng.random((LAYERS, HEADS, n)) / (2 * n)).round(4).astype(np.float32),
            f"true_logprob_{i}": -rng.random(1).round(4).astype(np.float32),
        }
    ruled = normal(3, VOCAB, scale=2)
    ruled[:, 10:20] = -np.inf
    return made | {"ruled_logits": ruled, "ruled_tokens": np.array([3, 40, 5], dtype=np.int32)}


def final_norm(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The RMSNorm before the head."""
    return hidden * torch.rsqrt(hidden.square().mean(-1, keepdim=True) + 1e-6) * weight


class FrozenModel:
    """Stands in for lm-polygraph's WhiteboxModel: a batch of answers as `generate` of transformers returns it."""

    model_type = "CausalLM"
    generation_parameters = types.SimpleNamespace(allow_newlines=True)

    def __init__(self, made: dict[str, np.ndarray], members: list[int]):
        self.answers = [
            {name: torch.tensor(made[f"{name}_{i}"]) for name in ("tokens", "logits", "attention", "alone_logits")}
            for i in members
        ]
        self.tokenizer = types.SimpleNamespace(eos_token_id=EOS, decode=lambda ids: " ".join(map(str, ids)))
        self.model = self.forward
        self.forward.__func__.config = types.SimpleNamespace(num_hidden_layers=LAYERS, num_attention_heads=HEADS)

    def device(self) -> str:
        return "cpu"

    def tokenize(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """The prompts; or the single answer after a BOS, where lm-polygraph asks for the answer alone."""
        if len(texts) == 1 and texts[0]:
            own = self.answers[0]["tokens"][PROMPT:].long()
            return {"input_ids": torch.cat([torch.tensor([BOS]), own])[None]}
        return {"input_ids": torch.stack([a["tokens"][:PROMPT].long() for a in self.answers])}

    def forward(self, input_ids: torch.Tensor, output_attentions: bool = False) -> types.SimpleNamespace:
        """A full pass: over prompt and answer with attention, or over the answer alone."""
        own = self.answers[0]
        if output_attentions:
            return types.SimpleNamespace(attentions=tuple(layer[None] for layer in own["attention"]))
        return types.SimpleNamespace(logits=own["alone_logits"][None])

    def generate(self, **_: object) -> types.SimpleNamespace:
        """Step by step, as with a cache: after an answer's end its rows are uniform."""
        longest = max(len(a["tokens"]) for a in self.answers) - PROMPT
        sequences = torch.full((len(self.answers), PROMPT + longest), EOS)
        scores = [torch.zeros(len(self.answers), VOCAB) for _ in range(longest)]
        steps = []
        for j in range(longest):
            keys = PROMPT + j
            first = 0 if j == 0 else keys - 1
            steps.append([torch.full((len(self.answers), HEADS, keys - first, keys), 1 / keys) for _ in range(LAYERS)])
            for b, answer in enumerate(self.answers):
                if keys < len(answer["tokens"]):
                    scores[j][b] = answer["logits"][keys - 1]
                    for layer in range(LAYERS):
                        steps[j][layer][b] = answer["attention"][layer][:, first:keys, :keys]
        for b, answer in enumerate(self.answers):
            sequences[b, : len(answer["tokens"])] = answer["tokens"]
        return types.SimpleNamespace(
            scores=tuple(s.log_softmax(-1) for s in scores),
            sequences=sequences,
            attentions=tuple(tuple(step) for step in steps),
        )


def statistics(made: dict[str, np.ndarray], members: list[int]) -> dict[str, object]:
    """What lm-polygraph's own calculators make of a batch; of the answer without its prompt one by one."""
    from lm_polygraph import stat_calculators as calculators

    model, texts = FrozenModel(made, members), [""] * len(members)
    stats: dict[str, object] = {"model": model}
    for calculator in (calculators.GreedyProbsCalculator(), calculators.EntropyCalculator()):
        stats |= calculator(stats, texts, model)
    alone, passes = [], []
    for i, tokens in zip(members, stats["greedy_tokens"]):
        one, its = FrozenModel(made, [i]), {"greedy_tokens": [tokens]}
        alone += calculators.GreedyLMProbsCalculator()(its, [""], one)["greedy_lm_log_likelihoods"]
        passes += list(calculators.AttentionForwardPassCalculator()(its, [""], one)["forwardpass_attention_weights"])
    own = [made[f"tokens_{i}"][PROMPT:] for i in members]
    rows = [torch.tensor(made[f"alone_logits_{i}"])[:-1].log_softmax(-1).numpy() for i in members]
    return stats | {
        "greedy_lm_log_likelihoods": alone,
        "right_lm_log_likelihoods": [r[np.arange(len(t)), t].tolist() for r, t in zip(rows, own)],
        "forwardpass_attention_weights": passes,
        "attention_weights_eliciting_prompt": [made[f"elicited_{i}"].reshape(LAYERS * HEADS, -1) for i in members],
        "p_true": [float(made[f"true_logprob_{i}"][0]) for i in members],
    }


def lm_polygraph(made: dict[str, np.ndarray]) -> dict[str, object]:
    """Values of lm-polygraph's estimators, one by one, then what changes in a batch of four."""
    from lm_polygraph import estimators as e

    one = [e.MaximumSequenceProbability(), e.Perplexity(), e.MeanTokenEntropy(), e.SelfCertainty(), e.RenyiNeg()]
    one += [e.FisherRao(), e.BoostedProbSequence(), e.CSL(), e.PTrue(), e.MaximumTokenProbability(), e.TokenEntropy()]
    named = {type(estimator).__name__: estimator for estimator in one}
    information = {
        "MeanPointwiseMutualInformation": e.MeanPointwiseMutualInformation(),
        "MeanConditionalPointwiseMutualInformation": e.MeanConditionalPointwiseMutualInformation(),
        "PointwiseMutualInformation": e.PointwiseMutualInformation(),
        "ConditionalPointwiseMutualInformation": e.ConditionalPointwiseMutualInformation(),
    }
    maps = {"AttentionScore": {}, "AttentionScore gen_only": {"gen_only": True}}
    maps |= {f"AttentionScore layer={k}": {"layer": k} for k in range(LAYERS)}
    sizes = {"n_layers": LAYERS, "n_heads": HEADS}
    recurrent = {"RAUQ": {}, "RAUQ instruct": {"instruct": True}, "RAUQ entropy": {"use_entropy": True}}

    def values(estimator: object, batch: dict[str, object]) -> list:
        return [plain(x) for x in estimator(batch)]

    singles = [statistics(made, [i]) for i in range(len(LENGTHS))]
    found: dict[str, list] = {}
    for stats in singles:
        aligned = stats | {"greedy_lm_log_likelihoods": stats["right_lm_log_likelihoods"]}
        answer = len(stats["greedy_tokens"][0])
        literal = np.stack([stats["forwardpass_attention_weights"][0][..., -answer:, -answer:]])
        runs = [(name, estimator, stats) for name, estimator in named.items()]
        runs += [(name, estimator, stats) for name, estimator in information.items()]
        runs += [(f"{name}, rows aligned", estimator, aligned) for name, estimator in information.items()]
        runs += [(name, e.AttentionScore(**options), stats) for name, options in maps.items()]
        runs += [(name, e.RAUQ(**sizes, **options), stats) for name, options in recurrent.items()]
        runs += [("RAUQ, rows of the token itself", e.RAUQ(**sizes), stats | {"attention_all": literal})]
        for name, estimator, batch in runs:
            whole = values(estimator, batch)
            token_level = name.startswith(("PointwiseMutual", "ConditionalPointwise"))
            found.setdefault(name, []).append(whole if token_level else whole[0])
    together = statistics(made, list(range(len(LENGTHS))))
    batch = {"RAUQ": values(e.RAUQ(**sizes), together), "Perplexity": values(e.Perplexity(), together)}
    logprobs = torch.tensor(made["ruled_logits"]).log_softmax(-1).numpy()
    ruled = {"greedy_log_probs": [logprobs], "greedy_tokens": [made["ruled_tokens"].tolist()]}
    from lm_polygraph.stat_calculators import EntropyCalculator

    ruled |= EntropyCalculator()(ruled)
    kinds = (e.MeanTokenEntropy, e.SelfCertainty, e.RenyiNeg, e.FisherRao, e.BoostedProbSequence)
    return {
        "one by one": found,
        "in a batch of four": batch,
        "with tokens ruled out": {kind.__name__: values(kind(), ruled)[0] for kind in kinds},
        "names": sorted(
            name
            for name, c in vars(e).items()
            if inspect.isclass(c) and issubclass(c, e.Estimator) and c != e.Estimator
        ),
    }


def llm_check(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """LLM-Check's scores; its entropies also with rows moved by one, to where the perplexity reads."""
    peer = load(folder / "common_utils.py")
    found: dict[str, list] = {}
    for i, n in enumerate(LENGTHS):
        logits, tokens = [torch.tensor(made[f"logits_{i}"])], [torch.tensor(made[f"tokens_{i}"]).long()[None]]
        states, maps = [torch.tensor(made[f"hidden_{i}"])], [torch.tensor(made[f"attention_{i}"])]
        last = [final_norm(states[0][-1:], torch.tensor(made["norm"]))]
        span, moved = [[PROMPT, PROMPT + n]], [[PROMPT - 1, PROMPT + n - 1]]
        values = {
            "perplexity": peer.perplexity(logits, tokens, span)[0],
            "window_entropy": peer.window_logit_entropy(logits, span, w=1)[0],
            "window_entropy, rows aligned": peer.window_logit_entropy(logits, moved, w=1)[0],
            "logit_entropy": peer.logit_entropy(logits, span, top_k=50)[0],
            "logit_entropy top_k=20, rows aligned": peer.logit_entropy(logits, moved, top_k=20)[0],
            "hidden by layer": [peer.get_svd_eval(states, layer, span)[0] for layer in range(LAYERS + 1)],
            "hidden of the last layer after the final norm": peer.get_svd_eval(last, 0, span)[0],
            "attention by block": [peer.get_attn_eig_prod(maps, block, span)[0] for block in range(LAYERS)],
        }
        for name, value in values.items():
            found.setdefault(name, []).append(plain(value))
    return found


def chain_of_embedding(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """CoE-R and CoE-C of mean states: over the positions its code reads, and over those of the answer."""
    peer = load(folder / "score.py")
    found: dict[str, list] = {}
    for i, n in enumerate(LENGTHS):
        states = torch.tensor(made[f"hidden_{i}"])
        normed = torch.cat([states[:-1], final_norm(states[-1:], torch.tensor(made["norm"]))])
        read = [0, *range(PROMPT, PROMPT + n - 1)]  # hidden_states[pos][layer][0][0] of `generate`
        chosen = {
            "official": normed[:, read],
            "official, last layer not normed": states[:, read],
            "states that read the answer": states[:, PROMPT:],
            "states that produced the answer": states[:, PROMPT - 1 : -1],
        }
        for name, part in chosen.items():
            score = peer.CoEScoreInfo([layer.numpy() for layer in part.mean(1)])
            fails = n == 1 and name.startswith("official")  # it counts the layers of its second step
            for kind in ("R", "C"):
                value = None if fails else plain(getattr(score, f"compute_CoE_{kind}")())
                found.setdefault(f"CoE-{kind} {name}", []).append(value)
    return found


def deepconf(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """DeepConf's confidences from the 20 largest log-probabilities; its code rounds each token's to three decimals."""
    peer = load(folder / "deepconf" / "utils.py")
    found: dict[str, list] = {}
    for i in range(len(LENGTHS)):
        top = torch.tensor(made[f"logits_{i}"])[PROMPT - 1 : -1].log_softmax(-1).topk(20).values.tolist()
        tokens = [{k: types.SimpleNamespace(logprob=v) for k, v in enumerate(row)} for row in top]
        trace = {"confs": peer.compute_confidence(tokens)}
        values = {
            "mean": peer.calculate_mean_confidence(trace),
            "tail tokens=3": peer.calculate_tail_confidence(trace, 3),
            "bottom window=4": peer.calculate_bottom_window_confidence(trace, 4),
            "bottom window=2 share=.5": peer.calculate_bottom_window_confidence(trace, 2, 0.5),
            "lowest window=4": peer.calculate_bottom_window_confidence(trace, 4, -1),
            "least grouped 4": min(peer.compute_least_grouped(trace["confs"], 4)),
        }
        for name, value in values.items():
            found.setdefault(name, []).append(plain(value))
    return found


def self_certainty(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """Self-Certainty's formula on the rows that its script takes, ``logits[:, input_length:]``, and one row earlier."""
    peer = load(folder / "src" / "confidence_list.py")
    found: dict[str, list] = {"official rows": [], "rows aligned": []}
    for i, n in enumerate(LENGTHS):
        sums = torch.tensor(made[f"logits_{i}"]).log_softmax(-1).sum(-1)
        for name, first in (("official rows", PROMPT), ("rows aligned", PROMPT - 1)):
            value = peer.confidence_logprob_sum(sums[None, first : first + n], torch.ones(1, n), VOCAB)
            found[name].append(plain(value[0]))
    return found


def rauq(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """The variants of RAUQ's own repository, with the statistics that lm-polygraph makes."""
    peer = load(folder / "rauq.py")
    as_polygraph = {"token_aggregation": "meanlog", "aggregation": "max"}
    variants = {
        "default": {},
        "meanlog, max": as_polygraph,
        "meanlog, mean": {"token_aggregation": "meanlog"},
        "default entropy": {"use_entropy": True},
        "default all layers": {"all_layers": True},
    }
    for ablation in ("simple_rec", "no_rec", "no_attn", "multiply"):
        variants[f"default {ablation}"] = {"ablation": ablation}
    variants["meanlog, max simple_rec"] = as_polygraph | {"ablation": "simple_rec"}
    found: dict[str, list] = {}
    for i in range(len(LENGTHS)):
        stats = statistics(made, [i])
        for name, options in variants.items():
            found.setdefault(name, []).append(plain(peer.RAUQ(n_layers=LAYERS, n_heads=HEADS, **options)(stats)[0]))
    return found


def entropy_lens(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """Entropy-Lens: entropies of every block's output through norm and head, in one window and in three."""
    sys.modules.setdefault("transformer_lens", types.ModuleType("transformer_lens"))
    sys.path.insert(0, str(folder))
    peer = load(folder / "model_inspector.py").ModelInspector
    norm, head = torch.tensor(made["norm"]), torch.tensor(made["head"])
    model = types.SimpleNamespace(
        ln_final=lambda x: final_norm(x, norm), unembed=lambda x: x @ head.T, blocks=range(LAYERS)
    )
    frozen = types.SimpleNamespace(model=model, soft_cap=0.0)
    frozen.unembed = types.MethodType(peer.unembed, frozen)
    found: dict[str, list] = {}
    for i in range(len(LENGTHS)):
        produced = torch.tensor(made[f"hidden_{i}"])[1:, PROMPT - 1 : -1].transpose(0, 1)  # (token, block, dim)
        found.setdefault("windows=1", []).append(plain(peer.calculate_entropy(frozen, produced, 1)[0]))
    found["windows=3, last answer"] = plain(peer.calculate_entropy(frozen, produced, 3))
    return found


def thesis(made: dict[str, np.ndarray], folder: Path) -> dict[str, object]:
    """The thesis' entropy and evolution of layers, whose inner layers reach the head without the final norm."""
    inside = folder / "src" / "metrics" / "token_uq"
    logits, evolution = load(inside / "logits_uq.py"), load(inside / "layer_evolution_uq.py")
    head, norm = torch.tensor(made["head"]), torch.tensor(made["norm"])
    found: dict[str, list] = {}
    for i in range(len(LENGTHS)):
        states = torch.tensor(made[f"hidden_{i}"])[:, PROMPT - 1 : -1]
        states = torch.cat([states[:-1], final_norm(states[-1:], norm)])[:, None]

        def unembed(x: torch.Tensor) -> torch.Tensor:
            return x @ head.T

        entropy = logits.full_layer_shannon_entropy(states, unembed)[:, 0]
        found.setdefault("full_layer_shannon_entropy, mean by layer", []).append(plain(entropy.mean(-1)))
        for kind in ("mean", "var"):
            name = f"layer_evolution_{kind}_kl_divergence"
            token = on_the_cpu(evolution.layer_evolution_uq, states, unembed, name, 3)[0]
            found.setdefault(f"{name} layers_from_end=3", []).append(plain(token))
    return found


def on_the_cpu(function: Callable, *arguments: object) -> torch.Tensor:
    """Call a function that moves tensors to "cuda:0" by name."""
    whole = torch.Tensor.to
    torch.Tensor.to = lambda self, *where: self if where == ("cuda:0",) else whole(self, *where)
    try:
        return function(*arguments)
    finally:
        torch.Tensor.to = whole


def load(file: Path) -> types.ModuleType:
    """A peer's file as a module."""
    spec = importlib.util.spec_from_file_location(f"peer_{file.parent.name}_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def plain(value: object) -> object:
    """Numbers and lists for JSON."""
    return np.asarray(value, dtype=np.float64).round(9).tolist()


def main() -> None:
    """Run every peer and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("llm-check", "coe", "deepconf", "self-certainty", "rauq", "entropy-lens", "thesis"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    where = parser.parse_args()
    warnings.simplefilter("ignore")  # RAUQ takes the mean of no attention where an answer has one token
    made = make_tensors()
    values = {
        "lm-polygraph": lm_polygraph(made),
        "LLM-Check": llm_check(made, where.llm_check),
        "CoE": chain_of_embedding(made, where.coe),
        "DeepConf": deepconf(made, where.deepconf),
        "Self-Certainty": self_certainty(made, where.self_certainty),
        "RAUQ": rauq(made, where.rauq),
        "Entropy-Lens": entropy_lens(made, where.entropy_lens),
        "thesis": thesis(made, where.thesis),
    }
    np.savez_compressed(HERE / "tensors.npz", **made)
    (HERE / "values.json").write_text(json.dumps(values, indent=1) + "\n")


if __name__ == "__main__":
    main()
