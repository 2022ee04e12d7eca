"""What all layers cost: the bank against a plain encode of one layer, and a sweep against one `mteb` run a layer.

    python benchmarks/sweep.py [--model FOLDER] [--texts 4000] [--repeats 5] [--tasks file.py:Class ...] [--device cpu]

1. All layers' rows of the same texts (one pooling, one norm, written to a bank on disk) against the plain loop that
   embeds with the last layer alone: both sort by length, batch alike, and run in turn in one process. Ratio of times.
2. `eval-ext sweep` of all layers and the tasks, against one process a layer that runs the stock MTEB on
   `layer-wrapper/...:layer=k`, one after the other, without a bank. Ratio of wall times, and whether scores are equal.
Without --model, a random BERT of MiniLM's shape (6 layers, d = 384).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sweep_tasks import WORDS, sentences
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, PreTrainedTokenizerFast

from mteb_ext.bank import Bank
from mteb_ext.checkpoint import look
from mteb_ext.shards import View
from mteb_ext.source import Request, Source

HERE = Path(__file__).parent
TASKS = [f"{HERE / 'sweep_tasks.py'}:{name}" for name in ("Pairs", "Classes", "Clusters")]
ONE_LAYER = """
import sys, mteb
from mteb.cache import ResultCache
from mteb_ext.tasks import resolve
name, out, device, *tasks = sys.argv[1:]
mteb.evaluate(mteb.get_model(name, device=device), resolve(tasks), cache=ResultCache(out), co2_tracker=False)
"""


def build(folder: Path) -> Path:
    """A random BERT of MiniLM's shape and a tokenizer of made-up words."""
    torch.manual_seed(0)
    words = {w: i for i, w in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(WORDS))])}
    shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
    BertModel(BertConfig(vocab_size=len(words), **shape)).save_pretrained(folder)
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    special = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=512, **special).save_pretrained(folder)
    return folder


class Plain:
    """The usual way to embed with a model's last layer: tokenise, sort by length, run, masked mean."""

    def __init__(self, folder: Path, device: str, limit: int) -> None:
        self.model = AutoModel.from_pretrained(folder).eval().to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.device, self.limit = device, limit

    @torch.inference_mode()
    def encode(self, texts: Sequence[str], batch: int) -> np.ndarray:
        """(n, d) in the order of the texts."""
        ids = self.tokenizer(list(texts), truncation=True, max_length=self.limit)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        out = []
        for start in range(0, len(order), batch):
            chosen = {"input_ids": [ids[i] for i in order[start : start + batch]]}
            inputs = self.tokenizer.pad(chosen, return_tensors="pt").to(self.device)
            hidden = self.model(**inputs).last_hidden_state
            mask = inputs["attention_mask"][..., None]
            out.append(((hidden * mask).sum(1) / mask.sum(1)).float().cpu().numpy())
        return np.concatenate(out)[np.argsort(order)]


def bank_against_plain(folder: Path, count: int, repeats: int, device: str, batch: int) -> None:
    """Print the ratio of times of the same texts, and the largest difference of the last layer."""
    texts = sentences(random.Random(1), count)
    held = look(str(folder))
    plain = Plain(folder, device, held.limit)
    view = View("mean", "final")
    ratios, difference = [], 0.0
    runner = Source(Request(held, "float32", held.limit), Bank(None), (device,)).runner()
    for turn in range(-1, repeats):  # the first pair warms up
        with tempfile.TemporaryDirectory() as root:
            source = Source(Request(held, "float32", held.limit), Bank(Path(root)), (device,), _runner=runner)
            times = {}
            for which in ("plain", "bank") if turn % 2 else ("bank", "plain"):
                started = time.perf_counter()
                if which == "plain":
                    expected = plain.encode(texts, batch)
                else:
                    found = source.rows(
                        texts, view, [held.blocks], lambda rows: rows[0], batch_size=batch, progress=False
                    )
                times[which] = time.perf_counter() - started
            difference = max(difference, float(np.abs(expected - found).max()))
        if turn >= 0:
            ratios.append(times["bank"] / times["plain"])
    spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
    what = f"bank of {held.blocks + 1} layers / plain encode of the last, {count} texts"
    print(f"| {what} | {spread} | largest difference {difference:.1e} |")


def scores(out: Path) -> dict[tuple[str, str], float]:
    """Main score by variant and task of every result file under a folder."""
    found = {}
    for file in out.rglob("experiments/*/*.json"):
        if file.name != "model_meta.json":
            held = json.loads(file.read_text())["scores"]
            found[file.parent.name, file.stem] = next(iter(held.values()))[0]["main_score"]
    return found


def sweep_against_runs(folder: Path, tasks: Sequence[str], device: str) -> None:
    """Print the ratio of wall times of one run a layer to a sweep, and whether the scores are equal."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    blocks = look(str(folder)).blocks
    with tempfile.TemporaryDirectory() as root:
        started = time.perf_counter()
        command = [sys.executable, "-c", "from lm_eval_ext.entry import main; main()", "sweep", "--model", str(folder)]
        command += ["--device", device, "--tasks", ",".join(tasks), "--out", f"{root}/sweep"]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        sweep = time.perf_counter() - started
        started = time.perf_counter()
        for layer in range(blocks + 1):
            name = f"layer-wrapper/{folder}:layer={layer}"
            subprocess.run(
                [sys.executable, "-c", ONE_LAYER, name, f"{root}/runs", device, *tasks],
                check=True,
                env=env,
                stderr=subprocess.DEVNULL,
            )
        runs = time.perf_counter() - started
        one, other = scores(Path(root) / "sweep"), scores(Path(root) / "runs")
        gap = max((abs(one[k] - other[k]) for k in one.keys() & other.keys()), default=float("nan"))
        record = json.loads((Path(root) / "sweep" / "sweep.json").read_text())["runs"][-1]
    print(
        f"| {blocks + 1} runs of one layer / one sweep, {len(tasks)} tasks | {runs / sweep:.2f} "
        f"({runs:.0f} s / {sweep:.0f} s) | {len(one.keys() & other.keys())} scores each, largest difference {gap:.1e}; "
        f"{record['forward_passes']} passes of {record['texts_asked']} texts asked for in the sweep's own process |"
    )


def main() -> None:
    """Read the options and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tasks", nargs="*", default=TASKS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = args.model or build(Path(root) / "minilm-shaped")
        print("| what | ratio | |\n|---|---:|---|")
        if args.repeats:
            bank_against_plain(folder, args.texts, args.repeats, args.device, args.batch)
        if args.tasks:
            sweep_against_runs(folder, args.tasks, args.device)


if __name__ == "__main__":
    main()
