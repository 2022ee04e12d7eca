"""The same estimators on the same answers by lm-polygraph and by eval-ext, end to end, each against plain generation.

    python benchmarks/peers.py [--texts questions.jsonl] [--repeats 5] [--batch-size 8]

One random Llama of 60 million parameters, as in capture.py, answers 16 texts with 64 tokens each: by `generate` in
batches and nothing else, by lm-polygraph's `UEManager`, and by `--model hf-store` with the scores read from its store.
All of it runs in one process, in changing order; what is printed are medians of the ratios within a round, with their
range. On a machine that others use, `OMP_NUM_THREADS=1` and `--clock cpu` count the process's own seconds. Needs
`pip install lm-polygraph`.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import capture
import numpy as np
import torch
from lm_eval.api.instance import Instance
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lm_eval_ext.model import HFStoreLM
from metrics.core import metrics
from metrics.store import Store

try:
    from lm_polygraph import WhiteboxModel, estimators
    from lm_polygraph.defaults.register_default_stat_calculators import register_default_stat_calculators
    from lm_polygraph.utils.builder_enviroment_stat_calculator import BuilderEnvironmentStatCalculator
    from lm_polygraph.utils.dataset import Dataset
    from lm_polygraph.utils.manager import UEManager
except ModuleNotFoundError as error:
    raise SystemExit(f"benchmarks/peers.py needs lm-polygraph ({error}): pip install lm-polygraph") from None

LOGITS = {
    "MaximumSequenceProbability": "sequence_nll",
    "Perplexity": "mean_nll",
    "MeanTokenEntropy": "mean_entropy",
    "SelfCertainty": "self_certainty",
}
INSIDE = {"RAUQ": "rauq", "AttentionScore": "attention_score"}
"""lm-polygraph's estimators and our names."""

TOKENS = 64

Scores = dict[str, np.ndarray]


def texts_of(path: Path | None, count: int) -> list[str]:
    """The first questions of a file of JSON lines, or as many random texts of 60 words."""
    if path is None:
        return [request.arguments[0] for request in capture.requests("generate_until", count, 60, TOKENS)]
    lines = path.read_text().splitlines()[:count]
    return [json.loads(line)["question"] for line in lines]


def tokenizer_of(texts: list[str], plain: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The benchmark's tokenizer with the words of the texts in place of the last made-up ones."""
    model = json.loads(plain.backend_tokenizer.to_str())
    words = {word for text in texts for word in text.split()} - set(model["model"]["vocab"])
    kept = list(model["model"]["vocab"])[: capture.VOCAB - len(words)]
    model["model"]["vocab"] = {word: i for i, word in enumerate([*kept, *sorted(words)])}
    backend = type(plain.backend_tokenizer).from_str(json.dumps(model))
    special = {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<eos>"}
    names = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, padding_side="left", model_input_names=names, **special)


def generate(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], size: int) -> None:
    """Greedy generation in batches, and nothing else."""
    for start in range(0, len(texts), size):
        batch = tokenizer(texts[start : start + size], padding=True, return_tensors="pt").to(model.device)
        with torch.inference_mode():
            model.generate(**batch, max_new_tokens=TOKENS, do_sample=False)


def polygraph(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], size: int, names: list[str]
) -> Scores:
    """lm-polygraph, told to collect only what the estimators need."""
    inside = bool(set(names) & set(INSIDE))
    model.set_attn_implementation("eager" if inside else "sdpa")
    wrapped = WhiteboxModel(model, tokenizer, model_path="random")
    manager = UEManager(
        data=Dataset(texts, [""] * len(texts), batch_size=size),
        model=wrapped,
        estimators=[getattr(estimators, name)() for name in names],
        builder_env_stat_calc=BuilderEnvironmentStatCalculator(model=wrapped),
        available_stat_calculators=register_default_stat_calculators(
            "Whitebox", output_attentions=inside, output_hidden_states=False
        ),
        generation_metrics=[],
        ue_metrics=[],
        processors=[],
        ignore_exceptions=False,
        verbose=False,
        max_new_tokens=TOKENS,
    )
    manager()
    model.set_attn_implementation("sdpa")
    by_class = {str(e): type(e).__name__ for e in manager.estimators}
    return {by_class[name]: np.array(values) for (_, name), values in manager.estimations.items()}


def ours(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str], size: int, names: list[str]
) -> Scores:
    """hf-store on the same texts, then the scores from its store."""
    settings = {"until": ["<eos>"], "max_gen_toks": TOKENS, "do_sample": False}
    asked = [
        Instance("generate_until", doc={"i": i}, arguments=(text, settings), idx=0, metadata=("bench", i, 1))
        for i, text in enumerate(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        lm = HFStoreLM(model, tokenizer=tokenizer, batch_size=size, store=folder + "/s", metrics="+".join(names))
        lm.generate_until(asked, disable_tqdm=True)
        lm.recorder.close()
        frame = Store(folder + "/s").scores("+".join(names)).sort_values("doc_id")
    return {name: frame[name].to_numpy() for name in names}


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(run: Callable[[], object], clock: Callable[[], float]) -> float:
    """Seconds of one call."""
    start = clock()
    run()
    return clock() - start


def spread(values: list[float]) -> str:
    """Median and range."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    """Measure and print a markdown table, then how far the scores are apart."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, help="JSON lines with a field question; random words if not given")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    texts = texts_of(options.texts, options.count)
    model, plain = capture.build("60m", options.device, torch.float32)
    tokenizer = tokenizer_of(texts, plain)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    missing = sorted(set(INSIDE.values()) - set(metrics()))
    if missing:
        print(f"left out, no such metric here: {', '.join(missing)}\n")
    sets = [LOGITS] if missing else [LOGITS, LOGITS | INSIDE]
    print(f"{len(texts)} texts, {TOKENS} new tokens, batch {options.batch_size}, {options.device}, ", end="")
    print(f"{options.clock} clock, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f} at the start\n")
    print("| estimators | generate, s | lm-polygraph / generate | eval-ext / generate | lm-polygraph / eval-ext |")
    print("|---|---:|---:|---:|---:|")
    given = (model, tokenizer, texts, options.batch_size)
    found = []
    for chosen in sets:
        arms = {
            "generate": lambda: generate(*given),
            "polygraph": lambda chosen=chosen: polygraph(*given, list(chosen)),
            "ours": lambda chosen=chosen: ours(*given, list(chosen.values())),
        }
        found.append((chosen, arms["polygraph"](), arms["ours"]()))
        rounds = []
        for i in range(options.repeats):
            order = list(arms)[i % 3 :] + list(arms)[: i % 3]
            rounds.append({name: measure(arms[name], CLOCKS[options.clock]) for name in order})
        pairs = (("polygraph", "generate"), ("ours", "generate"), ("polygraph", "ours"))
        ratios = [spread([r[a] / r[b] for r in rounds]) for a, b in pairs]
        took = statistics.median(r["generate"] for r in rounds)
        print(f"| {', '.join(chosen.values())} | {took:.2f} | {' | '.join(ratios)} |", flush=True)
    print("\n| estimator | metric | items that agree to 1e-3 | largest relative difference |")
    print("|---|---|---:|---:|")
    for name, metric in found[-1][0].items():
        theirs, own = found[-1][1][name], found[-1][2][metric]
        apart = np.abs(theirs - (-own if metrics()[metric].higher == "confident" else own)) / np.abs(theirs)
        print(f"| {name} | {metric} | {(apart < 1e-3).sum()} of {len(apart)} | {apart.max():.1e} |")


if __name__ == "__main__":
    main()
