"""Small stores whose hidden states say which answers are wrong, for tests of probes."""

import json

import numpy as np
import stores
import torch

LAYERS, WIDTH, BEST = [0, 2, 4], 4, 2
SIGNALS = ("entropy", "logprob", "hidden_prompt", "hidden_last")


def described(*, lens=False, **more):
    axes = {"entropy": ["token"], "logprob": ["token"], **{name: ["layer", "dim"] for name in SIGNALS[2:]}}
    facts = stores.facts(names=("entropy", "logprob"), revision="main", **{"layers": LAYERS, "weights": "w0", **more})
    axes |= {"lens_entropy": ["layer", "token"]} if lens else {}
    return {**facts, "signals": {name: {"axes": axis, "unit": "1"} for name, axis in axes.items()}}


def judged(folder, n=60, *, tasks=("t",), seed=0, direction=0, of="{task}{i}", **facts):
    """A store of `n` documents a task and lm-eval's output: wrong ones lie off in a direction of layer 2's last state.

    Documents have the fields `half` (0 or 1), `size` (their number) and `block` (three to a value).
    """
    rng = np.random.default_rng(seed)
    records, folder_out = [], folder / "out"
    folder_out.mkdir(parents=True)
    for task in tasks:
        lines = []
        for i in range(n):
            wrong = bool(rng.random() < 0.4)
            state = rng.normal(size=(len(LAYERS), WIDTH))
            state[LAYERS.index(BEST), direction] += 2.5 * wrong
            one = stores.record(i, task, seed=seed, names=("entropy", "logprob"), doc_hash=of.format(task=task, i=i))
            one.signals["hidden_last"] = torch.tensor(state, dtype=torch.float16)
            one.signals["hidden_prompt"] = torch.tensor(rng.normal(size=state.shape), dtype=torch.float16)
            if facts.get("lens"):
                one.signals["lens_entropy"] = torch.tensor(rng.random((len(LAYERS), len(one.signals["entropy"]))))
            records.append(one)
            verdict = {"metrics": ["acc"], "acc": float(not wrong), "filter": "none"}
            document = {"doc": {"half": i % 2, "size": i, "block": i // 3}, "doc_hash": of.format(task=task, i=i)}
            lines.append({"doc_id": i, **document, **verdict})
        file = folder_out / f"samples_{task}_2026-01-02T03-04-05.678901.jsonl"
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    results = folder_out / "results_2026-01-02T03-04-05.678901.json"
    store = stores.write(folder / "store", records, described(**facts), results=[results], shard_records=64)
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(store), "run_id": "one"}}}))
    return store
