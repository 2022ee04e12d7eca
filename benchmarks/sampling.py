"""How long do all sampling metrics take for 1,000 documents of 10 samples each, given clusters, embeddings and NLI?

Writes a store of made-up records (answers of 5 to 60 words out of 300, every fourth sample equal to another), then
reads and scores it as `eval-ext auroc --metrics sampling` does, with all that models would make of the texts in memory.
Prints seconds of the wall clock and of the processor: of everything together, then of parts, each in its own run.

    OMP_NUM_THREADS=2 python benchmarks/sampling.py [--documents 1000] [--samples 10] [--profile FILE]
"""

import argparse
import cProfile
import os
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from metrics.choosing import choose
from metrics.lexical import LEXICAL
from metrics.record import Key, Record, Span
from metrics.samples import Beside
from metrics.score import score, units
from metrics.store import open_store
from metrics.table import render
from metrics.writer import Writer

LAYERS, DIM, EMBEDDING = 9, 256, 384
AXES = {"logprob": ["token"], "entropy": ["token"], "hidden_last": ["layer", "dim"]}
FAMILIES = ("sampling_similarity", "sampling_spectrum", "sampling_relevance")
WORDS = [f"word{i}" for i in range(300)]


class Made:
    """What models would have made of the samples: the same made-up values for every document, other relevance."""

    def __init__(self, samples: int) -> None:
        drawn = torch.Generator().manual_seed(0)
        self._of = {
            "embedding": torch.randn(samples, EMBEDDING, generator=drawn) + 1,
            "nli": torch.randn(samples, samples, 3, generator=drawn).softmax(-1),
            "bertscore": torch.full((samples, samples), 0.5),
            "cluster_embedding": torch.arange(samples) % 3,
            "cluster_nli": torch.arange(samples) % 4,
        }
        self._relevance = torch.rand(1000, generator=drawn)
        self.lengths: dict[Key, int] = {}

    def record(self, key: Key) -> Mapping[str, Tensor]:
        """Relevance of each of the record's tokens."""
        return {"token_relevance": self._relevance[: self.lengths[key]]}

    def document(self, keys: Sequence[Key]) -> Mapping[str, Tensor]:
        """The same of every document."""
        return {name: value.clone() for name, value in self._of.items()} if keys else {}


def write(path: Path, documents: int, samples: int, made: Made) -> dict[Key, str]:
    """A store of samples; its texts."""
    drawn, torch_drawn = random.Random(0), torch.Generator().manual_seed(0)
    signals = {name: {"axes": axes, "unit": "nat"} for name, axes in AXES.items()}
    facts = {"model": "m", "architecture": "A", "dtype": "float32", "device": "cpu", "store_text": True}
    writer = Writer(path, {"run_id": "one", **facts, "layers": [*range(LAYERS)], "signals": signals})
    texts = {}
    for doc_id in range(documents):
        answers: list[str] = []
        for sample in range(samples):
            equal = sample % 4 == 3
            answers.append(answers[-1] if equal else " ".join(drawn.choices(WORDS, k=drawn.randint(5, 60))))
            tokens = len(answers[-1].split()) + 1
            key = Key("t", doc_id, 0, sample, "generate_until")
            texts[key], made.lengths[key] = answers[-1], tokens
            values = {
                "tokens": torch.zeros(tokens, dtype=torch.int32),
                "prompt_tokens": torch.zeros(3, dtype=torch.int32),
                "logprob": -torch.rand(tokens, generator=torch_drawn),
                "entropy": torch.rand(tokens, generator=torch_drawn),
                "hidden_last": torch.randn(LAYERS, DIM, generator=torch_drawn).half(),
            }
            spans = {"answer": Span(0, tokens - 1), "generation": Span(0, tokens)}
            hashes = {"prompt_hash": "p", "doc_hash": str(doc_id), "request_hash": str(doc_id)}
            writer.add(
                Record(
                    key=key,
                    kind="generate_until",
                    prompt_count=3,
                    token_count=tokens,
                    spans=spans,
                    answer=answers[-1],
                    chars=len(answers[-1]),
                    bytes=len(answers[-1]),
                    signals=values,
                    **hashes,
                )
            )
    writer.close()
    return texts


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Seconds by the wall clock and of the processor."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "wall, s": round(time.perf_counter() - wall, 2),
        "processor, s": round(time.process_time() - processor, 2),
    }


def main() -> None:
    """Write, time and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--profile", type=Path, help="Profile the whole, without timing it, into this file.")
    of = parser.parse_args()
    made = Made(of.samples)
    with tempfile.TemporaryDirectory() as folder:
        texts = write(Path(folder) / "store", of.documents, of.samples, made)
        store = open_store(Path(folder) / "store")
        beside = Beside(answers=texts, texts=texts, annex=made)
        found = units(store.entries())

        def scored(words: str) -> None:
            table = score(found, choose(words), store.records, beside=beside)
            if table.unscored and any(table.unscored.values()):
                raise SystemExit(f"unscored: {table.unscored}")

        if of.profile:
            cProfile.runctx("scored('sampling')", {}, {"scored": scored}, str(of.profile))
            return
        choices = choose("sampling")
        rows = [{"what": f"all {len(choices)} scores, with reading", **timed(lambda: scored("sampling"))}]
        rows += [
            {"what": "reading alone, with one score", **timed(lambda: scored("monte_carlo_entropy"))},
            {"what": "clusters", **timed(lambda: scored("+".join(_clusters())))},
            *({"what": name, **timed(lambda name=name: scored(name))} for name in FAMILIES),
        ]
        by_document: dict[int, list[str]] = {}
        for key, text in texts.items():
            by_document.setdefault(key.doc_id, []).append(text)
        for name, similarity in LEXICAL.items():
            rows.append(
                {
                    "what": f"{name} alone",
                    **timed(lambda f=similarity: [f(answers) for answers in by_document.values()]),
                }
            )
        print(f"{of.documents} documents x {of.samples} samples, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        print(render(rows))


def _clusters() -> list[str]:
    return [c.id for c in choose("sampling") if c.metric.family == "sampling"]


if __name__ == "__main__":
    main()
