"""Made-up samples of three prompts and what other people's own code says of them.

    python freeze_samples.py --semantic-uncertainty DIR --sar DIR --kle DIR --inside DIR

writes samples.json into the folder of this file. It needs lm-polygraph and check-outs of four repositories (README.md
says which commits), and is run by hand, outside the tests: they read the file only.

The peers' functions are called as they are. Scripts that do their work on import are read function by function.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).parent
TEXTS = (
    ("the red cat sat on a mat", "a red cat sat", "the dog ran home", "a red cat sat", "no cat at all"),
    ("four", "it is four"),
    ("yes it is", "yes it is", "yes it is"),
)
CLUSTERS = ((0, 0, 1, 0, 2), (0, 0), (0, 0, 0))
DIM = 12
ROUND = 9


def make_documents(seed: int = 0) -> list[dict[str, list]]:
    """Inputs of each document: equal texts have equal values."""
    rng = np.random.default_rng(seed)
    documents = []
    for texts, clusters in zip(TEXTS, CLUSTERS):
        at = [texts.index(text) for text in texts]
        n, equal = len(texts), np.equal.outer(at, at)
        logits = rng.standard_normal((n, n, 3))[at][:, at] * 2
        logits[equal] = (4.0, 0.0, -2.0)
        alike = rng.random((n, n))[at][:, at]
        lengths = [len(text.split()) + 1 for text in texts]
        logprobs = [(-3 * rng.random(length)).round(3).tolist() for length in lengths]
        relevance = [rng.random(length).round(3).tolist() for length in lengths]
        made = {
            "nli": np.exp(logits) / np.exp(logits).sum(-1, keepdims=True),
            "similarity": np.where(equal, 1.0, (alike + alike.T) / 2),
            "states": rng.standard_normal((n, DIM))[at],
            "entropy": [(4 * rng.random(length)).round(3).tolist() for length in lengths],
        }
        documents.append(
            {
                "texts": list(texts),
                "clusters": list(clusters),
                "logprobs": [logprobs[i] for i in at],
                "relevance": [relevance[i] for i in at],
                **{name: np.round(value, 6).tolist() for name, value in made.items() if name != "entropy"},
                "entropy": [made["entropy"][i] for i in at],
            }
        )
    return documents


def polygraph(documents: list[dict[str, list]]) -> dict[str, list]:
    """lm-polygraph's estimators; its greedy answer is our first sample, which is then not among the samples."""
    from lm_polygraph import estimators as e

    classes = {"class_to_sample": {}, "sample_to_class": {}}
    for i, document in enumerate(documents):
        ids = document["clusters"]
        classes["sample_to_class"][i] = dict(enumerate(ids))
        classes["class_to_sample"][i] = [[s for s, c in enumerate(ids) if c == k] for k in range(max(ids) + 1)]
    every: dict[str, list] = {}

    def note(name: str, estimator: object, stats: Callable[[dict], dict], batch: dict | None = None) -> None:
        values = []
        for i, document in enumerate(documents):
            shared = {}
            if batch is not None:
                shared = {"semantic_classes_entail": {k: {0: v[i]} for k, v in batch.items()}}
            values.append(float(np.asarray(estimator({**stats(document), **shared}))[0]))
        every[name] = np.round(values, ROUND).tolist()

    def sums(d: dict) -> list[float]:
        return [sum(x) for x in d["logprobs"]]

    def matrix(d: dict, place: int) -> np.ndarray:
        return np.array(d["nli"])[..., place]

    def basic(d: dict) -> dict:
        return {
            "sample_texts": [d["texts"]],
            "sample_log_probs": [sums(d)],
            "sample_log_likelihoods": [d["logprobs"]],
            "sample_tokens": [[[0] * len(x) for x in d["logprobs"]]],
            "semantic_matrix_entail": matrix(d, 0)[None],
            "semantic_matrix_contra": matrix(d, 2)[None],
            "semantic_matrix_entail_logits": np.log(matrix(d, 0))[None],
            "semantic_matrix_contra_logits": np.log(matrix(d, 2))[None],
            "sample_sentence_similarity": [np.array(d["similarity"])],
            "sample_token_similarity": [[1 - np.array(r) for r in d["relevance"]]],
            "sample_embeddings": [d["states"]],
            "greedy_log_likelihoods": [d["logprobs"][0]],
            "token_similarity": [1 - np.array(d["relevance"][0])],
            "entropy": [d["entropy"][0]],
            "greedy_sentence_similarity": [np.array(d["similarity"])[0, 1:]],
        }

    def others(d: dict, forward: bool) -> dict:
        relations = np.array(d["nli"])[0, 1:] if forward else np.array(d["nli"])[1:, 0]
        return {
            "sample_log_probs": [sums(d)[1:]],
            "sample_tokens": [[[0] * len(x) for x in d["logprobs"][1:]]],
            "sample_texts": [d["texts"][1:]],
            "greedy_log_likelihoods": [d["logprobs"][0]],
            "concat_greedy_semantic_matrix_contra_forward": [relations[:, 2]],
            "concat_greedy_semantic_matrix_neutral_forward": [relations[:, 1]],
        }

    note("SemanticEntropy", e.SemanticEntropy(), basic, classes)
    empirical = e.SemanticEntropy(class_probability_estimation="frequency")
    note("SemanticEntropyEmpirical", empirical, basic, classes)
    note("LabelProb", e.LabelProb(), basic, classes)
    note("NumSemSets", e.NumSemSets(), basic)
    note("MonteCarloSequenceEntropy", e.MonteCarloSequenceEntropy(), basic)
    note("MonteCarloNormalizedSequenceEntropy", e.MonteCarloNormalizedSequenceEntropy(), basic)
    note("LexicalSimilarity_rougeL", e.LexicalSimilarity("rougeL"), basic)
    for made in (e.DegMat, e.EigValLaplacian, e.Eccentricity):
        note(f"{made.__name__}_Jaccard_score", made("Jaccard_score"), basic)
        for affinity in ("entail", "contra"):
            note(f"{made.__name__}_NLI_score_{affinity}", made("NLI_score", affinity), basic)
    note("KernelLanguageEntropy", e.KernelLanguageEntropy(), basic)
    note("LUQ", e.LUQ(), basic)
    note("SentenceSAR", e.SentenceSAR(), basic)
    note("SAR", e.SAR(), basic)
    note("TokenSAR", e.TokenSAR(), basic)
    note("EigenScore", e.EigenScore(), basic)
    note("CocoaMSP", e.CocoaMSP(), basic)
    note("CocoaPPL", e.CocoaPPL(), basic)
    note("CocoaMTE", e.CocoaMTE(), basic)
    note("SemanticDensity forward", e.SemanticDensity(), lambda d: others(d, True))
    note("SemanticDensity backward", e.SemanticDensity(), lambda d: others(d, False))
    return every


def functions(file: Path, scope: dict[str, object]) -> types.SimpleNamespace:
    """The functions of a script, without what it does or imports when it is run."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    exec(compile(tree, str(file), "exec"), scope)
    return types.SimpleNamespace(**scope)


def semantic_uncertainty(folder: Path, documents: list[dict[str, list]]) -> dict[str, list]:
    """Farquhar et al.: mean log-probabilities, normalised over the samples."""
    file = folder / "semantic_uncertainty/uncertainty/uncertainty_measures/semantic_entropy.py"
    peer = functions(file, {"np": np})
    means = [[float(np.mean(x)) for x in d["logprobs"]] for d in documents]
    ids = [d["clusters"] for d in documents]
    grouped = [peer.logsumexp_by_id(c, m, agg="sum_normalized") for c, m in zip(ids, means)]
    return {
        "semantic_entropy": [peer.predictive_entropy_rao(np.array(g)) for g in grouped],
        "cluster_assignment_entropy": [peer.cluster_assignment_entropy(c) for c in ids],
        "regular_entropy": [peer.predictive_entropy(m) for m in means],
    }


def shifting_attention(folder: Path, documents: list[dict[str, list]]) -> dict[str, list]:
    """SAR's authors; similarities of a sample to the others only. One document a call, as `sar` needs equal numbers."""
    peer = functions(folder / "src/compute_uncertainty.py", {"torch": torch})
    found: dict[str, list] = {"sar": [], "sentence_sar": [], "token_sar, mean of samples": []}
    for d in documents:
        n = len(d["texts"])
        cached = {
            "likelihoods": [{"token_wise_entropy": [-torch.tensor(x) for x in d["logprobs"]]}],
            "token_importance": [torch.tensor(x) for x in d["relevance"]],
            "sentence_similarities": [np.delete(np.array(row), i).tolist() for i, row in enumerate(d["similarity"])],
        }
        cached["sentence_similarities"] = [cached["sentence_similarities"]]
        found["sar"] += peer.sar(cached, num_generation=n)
        found["sentence_sar"] += peer.sentence_sar(cached)
        found["token_sar, mean of samples"] += peer.token_sar(cached)
    return found


def kernels(folder: Path, documents: list[dict[str, list]]) -> dict[str, list]:
    """Kernel language entropy's authors, on a graph with the probabilities as weights."""
    sys.path.insert(0, str(folder))
    import networkx as nx
    from kle.core import vn_entropy
    from kle.kernels import heat_kernel, matern_kernel

    found: dict[str, list] = {"heat t=0.3": [], "matern": []}
    for d in documents:
        e, n = (np.array(d["nli"])[..., place] for place in (0, 1))
        weights = e + e.T + (n + n.T) / 2
        graph = nx.from_numpy_array(weights - np.diag(np.diag(weights)))
        found["heat t=0.3"].append(vn_entropy(heat_kernel(graph, t=0.3)))
        found["matern"].append(vn_entropy(np.real(matern_kernel(graph))))
    return found


def inside(folder: Path, documents: list[dict[str, list]]) -> dict[str, list]:
    """INSIDE's EigenScore of the last token; it moves tensors to the first GPU and uses names NumPy has dropped."""
    np.float, there = float, torch.Tensor.to  # noqa: NPY001
    torch.Tensor.to = lambda self, *to, **more: self if to == ("cuda",) else there(self, *to, **more)
    peer = functions(folder / "func/metric.py", {"np": np, "torch": torch})
    found = []
    for d in documents:
        states = torch.tensor(d["states"])[:, None]  # step, layer, sample, 1, dim: two steps, of a single layer
        value, _ = peer.getEigenIndicator_v0([[states], [states]], [2] * len(states))
        found.append(float(value))
    torch.Tensor.to = there
    return {"getEigenIndicator_v0": found}


def main() -> None:
    """Run every peer and write the file."""
    parser = argparse.ArgumentParser()
    for name in ("semantic-uncertainty", "sar", "kle", "inside"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    of = parser.parse_args()
    documents = make_documents()
    values = {
        "lm-polygraph": polygraph(documents),
        "semantic_uncertainty": semantic_uncertainty(of.semantic_uncertainty, documents),
        "SAR": shifting_attention(of.sar, documents),
        "kernel-language-entropy": kernels(of.kle, documents),
        "INSIDE": inside(of.inside, documents),
    }
    plain = {p: {n: np.round([float(x) for x in v], ROUND).tolist() for n, v in of.items()} for p, of in values.items()}
    text = json.dumps({"documents": documents, "values": plain}, indent=1)
    (HERE / "samples.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
