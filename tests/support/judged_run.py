"""A small recorded run as lm-eval leaves it: a store, and result and sample files that judge what is in it."""

import json

import numpy as np
import torch

from metrics import open_store
from metrics.record import Key, Record, Span
from metrics.writer import Writer

STAMP = "2026-01-02T03-04-05.678901"
GEN, MC = 60, 40


def record(task, doc_id, request=0, *, rng, kind="generate_until", answer="text", tokens=4):
    return Record(
        key=Key(task, doc_id, request, 0),
        kind=kind,
        prompt_count=10 + doc_id % 7,
        token_count=tokens,
        spans={"answer": Span(0, max(0, tokens - 1)), "generation": Span(0, tokens)},
        answer=answer,
        prompt_hash=f"p{doc_id}",
        doc_hash=f"{task}{doc_id}",
        request_hash=f"{task}{doc_id}{request}",
        chars=5 + request,
        bytes=5 + request,
        signals={
            "logprob": torch.tensor(-rng.random(tokens), dtype=torch.float32),
            "entropy": torch.tensor(rng.random(tokens), dtype=torch.float32),
        },
    )


def sample(task, doc_id, verdicts, filter_="none", **doc):
    return {
        "doc_id": doc_id,
        "doc": {"question": f"q{doc_id}", "cause": "odd" if doc_id % 2 else "even", **doc},
        "filter": filter_,
        "metrics": list(verdicts),
        "doc_hash": f"{task}{doc_id}",
        **verdicts,
    }


def write_run(folder):
    """A folder with `store`, and `lm-eval` as its --output_path: tasks gen (two filters, F1) and mc (acc, acc_norm)."""
    rng = np.random.default_rng(0)
    store, results = folder / "store", folder / "lm-eval" / "model" / f"results_{STAMP}.json"
    results.parent.mkdir(parents=True)
    manifest = {"model": "toy", "architecture": "Toy", "dtype": "float32", "device": "cpu", "signals": {"logprob": {}}}
    writer = Writer(store, {"run_id": "r1", **manifest})
    lines = {"gen": [], "mc": []}
    for i in range(GEN):
        writer.add(record("gen", i, rng=rng, tokens=3 + i % 5))
        wrong = bool(rng.random() < 0.4)
        strict = {"exact_match": float(not wrong), "f1": float(rng.random())}
        lines["gen"].append(sample("gen", i, strict, "strict-match", answer=i))
        lines["gen"].append(sample("gen", i, {"exact_match": float(rng.random() < 0.7)}, "flexible", answer=i))
    for i in range(MC):
        for option in range(3):
            answer = [-float(rng.random()) * 5, False]
            writer.add(record("mc", i, option, rng=rng, kind="loglikelihood", answer=answer, tokens=2 + option))
        verdicts = {"acc": float(rng.random() < 0.6), "acc_norm": float(rng.random() < 0.6), "words": [3.0, 4.0]}
        lines["mc"].append(sample("mc", i, verdicts, answer=f"{i}"))
    writer.close()
    open_store(store).link(results, "r1")
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(store), "run_id": "r1"}}}))
    for task, rows in lines.items():
        file = results.parent / f"samples_{task}_{STAMP}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
