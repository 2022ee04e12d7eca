"""What recording costs: hf-store against hf, alternating in one process, on a random Llama of 60 million parameters.

    python benchmarks/capture.py [--repeats 5] [--device cuda] [--metrics standard] [--size 60m|1b] [--dtype bfloat16]
    python benchmarks/capture.py --work long --size 4m --batch-size 1    # answers of 8,192 tokens

Prints the median of the pairwise ratios of wall time with their range, the peak memory of each in a process of its own,
and the bytes a sample takes on disk. The process-wide peak of hf includes the interpreter and the libraries.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lm_eval_ext.model import HFStoreLM

SIZES = {
    "4m": {"hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4},
    "60m": {"hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8},
    "1b": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32},
}
VOCAB = 32000


def build(size: str, device: str, dtype: torch.dtype) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A random model and a tokenizer of as many made-up words."""
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=16384, bos_token_id=0, eos_token_id=1, **SIZES[size])
    model = LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()
    model.generation_config.eos_token_id = None  # every answer runs to its full length
    words = {"<bos>": 0, "<eos>": 1, "<unk>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>", pad_token="<eos>"
    )
    return model, tokenizer


def requests(kind: str, count: int, prompt: int, tokens: int) -> list[Instance]:
    """Random prompts of `prompt` words, with `tokens` to generate or to score."""
    rng = random.Random(0)

    def text(n: int) -> str:
        return " ".join(f"w{rng.randrange(3, VOCAB)}" for _ in range(n))

    found = []
    for i in range(count):
        settings = {"until": ["<eos>"], "max_gen_toks": tokens, "do_sample": False}
        arguments = (text(prompt), settings if kind == "generate_until" else " " + text(tokens))
        found.append(Instance(request_type=kind, doc={"i": i}, arguments=arguments, idx=0, metadata=("bench", i, 1)))
    return found


WORK = {
    "short": {"generate_until": (16, 128, 48), "loglikelihood": (64, 128, 16)},
    "long": {"generate_until": (1, 128, 8192)},
}
"""By kind: requests, tokens of a prompt, tokens of an answer."""


def run(lm: HFLM, kind: str, asked: list[Instance]) -> float:
    """Seconds that one call takes."""
    for request in asked:
        request.resps = []
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    getattr(lm, kind)(asked, disable_tqdm=True)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure and print a markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--size", choices=SIZES, default="60m")
    parser.add_argument("--metrics", default="standard")
    parser.add_argument("--signals", default="", help="further signals to record")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="bfloat16 but on a CPU")
    parser.add_argument("--work", choices=WORK, default="short")
    parser.add_argument("--requests", type=int, default=10**9, help="at most so many of each kind")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    options.dtype = getattr(torch, options.dtype or ("float32" if options.device == "cpu" else "bfloat16"))
    if options.peak:
        print(json.dumps(peak(options, *options.peak)))
        return
    model, tokenizer = build(options.size, options.device, options.dtype)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"Llama of {millions:.0f}M parameters, vocabulary {VOCAB}, {options.device}, {model.dtype}, ", end="")
    print(f"batch {options.batch_size}, metrics={options.metrics}, signals={options.signals}, ", end="")
    print(f"{torch.get_num_threads()} threads\n")
    print("| requests | hf, s | hf-store / hf, median (range) | peak memory ratio | kB a sample |")
    print("|---|---:|---:|---:|---:|")
    for kind, (most, prompt, tokens) in WORK[options.work].items():
        count = min(most, options.requests)
        asked = requests(kind, count, prompt, tokens)
        with tempfile.TemporaryDirectory() as folder:
            both = {"tokenizer": tokenizer, "batch_size": options.batch_size, "max_length": 16384}
            plain = HFLM(model, **both)
            store = HFStoreLM(model, **both, store=folder + "/s", metrics=options.metrics, signals=options.signals)
            run(plain, kind, asked), run(store, kind, asked)
            ratios, times = [], []
            for i in range(options.repeats):
                order = (plain, store) if i % 2 == 0 else (store, plain)
                took = {id(lm): run(lm, kind, asked) for lm in order}
                ratios.append(took[id(store)] / took[id(plain)])
                times.append(took[id(plain)])
            store.recorder.close()
            size = sum(p.stat().st_size for p in Path(folder, "s", "shards").iterdir())
            a_sample = size / store.recorder.writer.written / 1e3
        memory = [child(options, kind, arm) for arm in ("hf-store", "hf")]
        name = f"{kind}, {count} x ({prompt} + {tokens} tokens)"
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {statistics.median(times):.2f} | {spread} | {memory[0] / memory[1]:.3f} | {a_sample:.1f} |")


def child(options: argparse.Namespace, kind: str, arm: str) -> float:
    """Peak memory in bytes of a process that does nothing else."""
    command = [sys.executable, __file__, "--peak", kind, arm, "--device", options.device, "--size", options.size]
    command += ["--batch-size", str(options.batch_size), "--metrics", options.metrics, "--work", options.work]
    command += ["--signals", options.signals]
    command += ["--requests", str(options.requests)]
    command += ["--dtype", str(options.dtype).removeprefix("torch.")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def peak(options: argparse.Namespace, kind: str, arm: str) -> float:
    """Run one arm once; the peak of the accelerator's memory where there is one, else of the process."""
    model, tokenizer = build(options.size, options.device, options.dtype)
    with tempfile.TemporaryDirectory() as folder:
        more = (
            {"store": folder + "/s", "metrics": options.metrics, "signals": options.signals}
            if arm == "hf-store"
            else {}
        )
        more |= {"tokenizer": tokenizer, "batch_size": options.batch_size, "max_length": 16384}
        lm = (HFStoreLM if arm == "hf-store" else HFLM)(model, **more)
        most, prompt, tokens = WORK[options.work][kind]
        run(lm, kind, requests(kind, min(most, options.requests), prompt, tokens))
        if arm == "hf-store":
            lm.recorder.close()
    if options.device.startswith("cuda"):
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    main()
