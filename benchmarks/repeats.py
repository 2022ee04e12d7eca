"""What generating a document's repeats together saves: hf-store with and without it, alternating in one process.

    python benchmarks/repeats.py [--pairs 3] [--batch-size 1 8] [--prompt 128 512] [--repeats 8] [--device cuda]
    OMP_NUM_THREADS=1 python benchmarks/repeats.py --clock cpu     # on a machine that others use too

Prints the median ratio of time with its range, and the same for `generate` asked for `num_return_sequences`, one
document after another, recording nothing. The model is the random Llama of benchmarks/capture.py, whose answers all
have full length. The last column is what a sample takes in the store, with the signals of `--metrics` and `--signals`.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from capture import SIZES, build, requests
from lm_eval.api.instance import Instance

from lm_eval_ext.model import HFStoreLM


def asked(documents: int, repeats: int, prompt: int, tokens: int) -> list[Instance]:
    """Sampled requests as the harness lists them: each document's `repeats` times in a row."""
    found = []
    for request in requests("generate_until", documents, prompt, tokens):
        text, settings = request.args
        request.arguments = (text, {**settings, "do_sample": True, "temperature": 1.0, "top_k": 0})
        request.repeats = repeats
        found += [request] * repeats
    return found


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def seconds(clock: str, action: Callable[..., None], *arguments: object) -> float:
    """What an action takes, by one of `CLOCKS`."""
    start = CLOCKS[clock]()
    action(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return CLOCKS[clock]() - start


def recorded(lm: HFStoreLM, work: list[Instance]) -> None:
    """Ask hf-store."""
    lm.generate_until(work, disable_tqdm=True)


def native(lm: HFStoreLM, work: list[Instance], repeats: int) -> None:
    """Ask `generate` itself with `num_return_sequences`, document by document."""
    for request in work[::repeats]:
        text, settings = request.args
        ids = torch.tensor([lm.tok_encode(text)], device=lm.device)
        lm.model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0,
            num_return_sequences=repeats, max_new_tokens=settings["max_gen_toks"], pad_token_id=1,
        )  # fmt: skip


def ratio(over: list[float], under: list[float]) -> str:
    """Median and range of the pairwise ratios."""
    ratios = [a / b for a, b in zip(over, under)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    """Measure and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--size", choices=SIZES, default="60m")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--documents", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--metrics", default="standard")
    parser.add_argument("--signals", default="")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    dtype = torch.float32 if options.device == "cpu" else torch.bfloat16
    model, tokenizer = build(options.size, options.device, dtype)
    print(f"{options.documents} documents x {options.repeats} repeats x {options.tokens} tokens, ", end="")
    print(f"{options.device}, {dtype}, {torch.get_num_threads()} threads, {options.clock} clock, ", end="")
    print(f"metrics={options.metrics}, signals={options.signals}\n")
    print("| batch size | prompt | apart, s | together / apart | num_return_sequences / apart | kB a sample |")
    print("|---:|---:|---:|---:|---:|---:|")
    for size in options.batch_size:
        for prompt in options.prompt:
            work = asked(options.documents, options.repeats, prompt, options.tokens)
            with tempfile.TemporaryDirectory() as folder:
                both = {"tokenizer": tokenizer, "batch_size": size, "max_length": 16384}
                both |= {"metrics": options.metrics, "signals": options.signals}
                apart = HFStoreLM(model, **both, store=f"{folder}/a")
                together = HFStoreLM(model, **both, store=f"{folder}/t", repeats_together=True)
                recorded(apart, work), recorded(together, work)
                times: dict[str, list[float]] = {"apart": [], "together": [], "native": []}
                for _ in range(options.pairs):
                    times["apart"].append(seconds(options.clock, recorded, apart, work))
                    times["together"].append(seconds(options.clock, recorded, together, work))
                    times["native"].append(seconds(options.clock, native, apart, work, options.repeats))
                for lm in (apart, together):
                    lm.recorder.close()
                shards = Path(folder, "t", "shards")
                a_sample = sum(p.stat().st_size for p in shards.iterdir()) / together.recorder.writer.written / 1e3
            over = (ratio(times[arm], times["apart"]) for arm in ("together", "native"))
            cells = (size, prompt, f"{statistics.median(times['apart']):.2f}", *over, f"{a_sample:.1f}")
            print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
