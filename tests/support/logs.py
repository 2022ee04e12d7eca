"""Sample files as lm-eval writes them: one line a document, responses as texts."""

import json

from lm_eval.utils import hash_string, sanitize_list

STAMP = "2026-01-02T03-04-05.678901"


def sample(doc_id, requests, **more):
    """A line: `requests` is a list of (arguments, responses), one response a repeat."""
    doc = {"id": doc_id}
    arguments = {
        f"gen_args_{i}": {f"arg_{j}": part for j, part in enumerate(parts)} for i, (parts, _) in enumerate(requests)
    }
    first = requests[0][0][0]
    return {
        "doc_id": doc_id,
        "doc": doc,
        "target": "",
        "arguments": arguments,
        "resps": sanitize_list([list(responses) for _, responses in requests]),
        "filtered_resps": [],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": hash_string(json.dumps(doc, indent=2, ensure_ascii=False)),
        "prompt_hash": hash_string(str(first[0] if isinstance(first, list) else first)),
        "acc": float(doc_id % 2),
        **more,
    }


def write_log(folder, lines, task="toy", model="vllm", **config):
    """A folder with a sample file and the result file beside it; returns the sample file."""
    folder.mkdir(parents=True, exist_ok=True)
    results = {"config": {"model": model, "model_args": "", **config}, "configs": {task: {}}}
    (folder / f"results_{STAMP}.json").write_text(json.dumps(results))
    path = folder / f"samples_{task}_{STAMP}.jsonl"
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path
