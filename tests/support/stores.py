"""Small stores of made-up records, for tests of the commands on whole stores."""

import json
from dataclasses import replace

import torch

from metrics.record import Key, Record, Span
from metrics.writer import Writer

AXES = {
    "logprob": ["token"],
    "entropy": ["token"],
    "top_tokens": ["token", "top"],
    "lens_entropy": ["layer", "step"],
    "scalar": [],
}
FACTS = {"model": "m", "architecture": "A", "dtype": "float32", "device": "cpu", "layers": [0, 1], "store_text": True}


def facts(run_id="one", names=tuple(AXES), **more):
    described = {name: {"axes": AXES[name], "unit": "nat"} for name in names}
    return {"run_id": run_id, **FACTS, "signals": described, **more}


def record(doc_id, task="t", *, tokens=4, seed=0, names=tuple(AXES), request=0, **more):
    """A record whose values follow from its key and the seed; tokens and prompts too."""
    made = torch.Generator().manual_seed(1000 * seed + 10 * doc_id + request)

    def draw(*shape):
        return torch.rand(*shape, generator=made)

    values = {
        "logprob": -draw(tokens),
        "entropy": draw(tokens),
        "top_tokens": torch.randint(0, 99, (tokens, 3), generator=made, dtype=torch.int32),
        "lens_entropy": draw(2, tokens + 1),
        "scalar": draw(1)[0],
    }
    given = {
        "key": Key(task, doc_id, request, 0),
        "kind": "generate_until",
        "prompt_count": 3,
        "token_count": tokens,
        "spans": {"answer": Span(0, max(0, tokens - 1)), "generation": Span(0, tokens)},
        "answer": f"ä{doc_id}\u2028 {seed}",
        "prompt_hash": f"p{doc_id}",
        "doc_hash": f"{task}{doc_id}",
        "request_hash": f"{task}{doc_id}{request}",
        "chars": 2,
        "bytes": 3,
        "signals": {
            "tokens": torch.arange(tokens, dtype=torch.int32),
            "prompt_tokens": torch.arange(3, dtype=torch.int32) + doc_id,
            **{name: values[name] for name in names},
        },
    }
    return Record(**{**given, **more})


def write(path, records, manifest=None, *, mode="new", results=(), end=True, shard_records=3):
    """A store of these records, a few to a shard."""
    writer = Writer(path, manifest or facts(), mode=mode, shard_records=shard_records)
    for one in records:
        writer.add(one)
    writer.flush()
    if results:
        writer.note(results=[str(r) for r in results])
    if end:
        writer.close()
    else:
        writer._lock.release()
    return path


def results(folder, task, right, stamp="2026-01-02T03-04-05.678901", metric="acc", of=None):
    """lm-eval's result file and samples that judge documents 0, 1, ... of a task."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"results_{stamp}.json"
    path.write_text("{}")
    lines = [
        {"doc_id": i, "doc": {}, "doc_hash": (of or "{task}{i}").format(task=task, i=i), "metrics": [metric],
         metric: float(value), "filter": "none"}
        for i, value in enumerate(right)
    ]  # fmt: skip
    file = folder / f"samples_{task}_{stamp}.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def judged(folder, right):
    """A store of one record a document, the wrong ones of more entropy, and lm-eval's result file that judges them."""
    made = torch.Generator().manual_seed(0)
    records = []
    for i, good in enumerate(right):
        one = record(i, tokens=2 + i % 4, names=("entropy", "logprob", "scalar"))
        entropy = torch.rand(one.token_count, generator=made) + 0.3 * (1 - good)
        one.signals.update(entropy=entropy, logprob=-torch.rand(one.token_count, generator=made))
        records.append(one)
    return write(folder / "store", records, shard_records=16), results(folder / "out", "t", right)


def sampled(folder, right):
    """A store of three samples a document, of which the wrong ones differ, and lm-eval's result file."""
    records = []
    for i, good in enumerate(right):
        for k, text in enumerate("aaa" if good else "aab" if i % 2 else "abc"):
            one = record(i, tokens=3, names=("entropy", "logprob"), seed=3 * i + k)
            records.append(replace(one, key=one.key._replace(occurrence=k), answer=text))
    return write(folder / "store", records, shard_records=100), results(folder / "out", "t", right)


def contents(store):
    """Everything a store says of each key: its entry and the values of its signals."""
    from metrics.slices import recorded_signals

    return {
        r.key: (r.entry(), {n: (v.dtype, tuple(v.shape), v.tolist()) for n, v in r.signals.items()})
        for r in store.records(recorded_signals(store))
    }
