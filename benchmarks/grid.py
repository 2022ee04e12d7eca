"""What `eval-ext grid` costs: 300 configurations of 32 layers on 1,319 answers of 200 tokens, 9,600 scores a document.

Five made-up signals of every layer x three weightings x 20 poolings. Prints the seconds of naming the combinations, of
scoring (with the start of processes, reading and checking the store), of sorting and ranking all columns by AUROC, and,
apart, of a few random splits. CPU seconds of this process and its children stand beside wall seconds, since machines
are shared.

    python benchmarks/grid.py [--jobs 2] [--records 1319] [--splits 10]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from metrics import stats
from metrics.core import raw, signals
from metrics.grid import grid_score
from metrics.record import Key, Record, Span
from metrics.score import units
from metrics.store import open_store
from metrics.table import render
from metrics.tokenwise.composite import combine
from metrics.writer import Writer

TOKENS, LAYERS = 200, 32
SIGNALS = [f"made_up_{i}" for i in range(5)]
POOLINGS = (
    *("mean", "sum", "std", "max", "min", "first", "tail", "tail(tokens=32)", "lowest_window", "highest_window"),
    *("bottom_windows", "top_windows", "bottom_share", "top_share", "top_share(share=0.05)", "top_share(share=0.2)"),
    *("quantile", "quantile(q=0.25)", "quantile(q=0.5)", "quantile(q=0.75)"),
)
WEIGHTINGS = ("uniform", "entropy", "improbability")
T = TypeVar("T")

for name in SIGNALS:  # at import, so that the worker processes know them too
    if name not in signals():
        raw(name, axes=("layer", "token"), unit="nat", cost="lens", summary="Made up.")


def write_store(path: Path, records: int) -> None:
    """A store of random signals."""
    made = torch.Generator().manual_seed(0)
    manifest = {"run_id": "r", "model": "m", "architecture": "A", "dtype": "float32", "device": "cpu", "signals": {}}
    writer = Writer(path, manifest)
    for i in range(records):
        values = {"logprob": -3 * torch.rand(TOKENS, generator=made), "entropy": torch.rand(TOKENS, generator=made)}
        values |= {name: torch.rand(LAYERS, TOKENS, generator=made) for name in SIGNALS}
        spans = {"answer": Span(0, TOKENS), "generation": Span(0, TOKENS)}
        key = Key("t", i, 0, 0)
        writer.add(Record(key, "generate_until", 50, TOKENS, spans, "a", f"p{i}", f"d{i}", f"r{i}", signals=values))
    writer.close()


def timed(rows: list[dict[str, object]], what: str, function: Callable[[], T]) -> T:
    """The function's value; a row with its wall and CPU seconds, of children too, is added."""
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    value = function()
    rows.append({"step": what, "wall s": time.perf_counter() - wall, "CPU s": sum(os.times()[:4]) - cpu})
    return value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--records", type=int, default=1319)
    parser.add_argument("--splits", type=int, default=10)
    options = parser.parse_args()
    rows: list[dict[str, object]] = []
    names = [f"{name}(layer={layer})" for name in SIGNALS for layer in range(LAYERS)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        write_store(path, options.records)
        chosen = timed(rows, "name the combinations", lambda: list(combine(names, POOLINGS, WEIGHTINGS)))
        found = units(open_store(path).entries())
        table = timed(rows, "score", lambda: grid_score(path, found, chosen, span="answer", jobs=options.jobs))
    wrong = np.random.default_rng(0).random(options.records) < 0.15
    scores = np.stack([table.values[c.id] for c in chosen])
    assert np.isfinite(scores).all()
    ordered = timed(rows, "sort the columns", lambda: stats.Sorted(scores))
    timed(rows, "AUROC and p of all", lambda: (ordered.auroc(wrong), ordered.p_of_no_difference(wrong)))
    whole = {"step": "all of it"} | {k: sum(float(str(r[k])) for r in rows) for k in ("wall s", "CPU s")}
    apart: list[dict[str, object]] = []
    eligible = np.ones(len(chosen), dtype=bool)
    timed(
        apart,
        f"{options.splits} random splits (apart)",
        lambda: stats.nested_selection(ordered, wrong, eligible, repeats=options.splits, share=0.5, seed=0),
    )
    print(f"{len(chosen)} scores of {options.records} answers of {TOKENS} tokens, {options.jobs} processes")
    print(render([*rows, whole, *apart], digits=2))


if __name__ == "__main__":
    main()
