"""kill -9 at random moments of a recording: what is left, and what a resumed store holds.

The demo model answers counting questions of three request types, batch size 1, greedy, every signal recorded, two
records a shard. One run is left alone. Others are killed, a fifth of them in start-up, a fifth in closing, the rest in
between, at seeded moments spread over what the phase took in the run left alone; then read, then resumed. The resumed
store is compared with the uninterrupted one, bit for bit.

    python benchmarks/kill.py --moments 50

Each recording is a fork of this process, so that the moments fall into our work and not into imports. A record counts
as finished once the writer has returned from writing its shard; the child notes it in a log of its own.
"""

from __future__ import annotations

import functools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import click
import torch
from lm_eval.api.instance import Instance

import lm_eval_ext.model as ours
from metrics import shard
from metrics.core import signals
from metrics.manifest import is_store
from metrics.store import open_store
from metrics.writer import Writer
from tasks.counting import demo_model_folder

PHASES = ("start-up", "recording", "closing")
GREEDY = {"until": [")"], "max_gen_toks": 8, "do_sample": False}


def requests(documents: int) -> dict[str, list[Instance]]:
    """Requests of each type; three options that share a row make a document of multiple choice."""
    text = (Path(demo_model_folder()).parent / "test.jsonl").read_text(encoding="utf-8")
    docs = [json.loads(line) for line in text.splitlines()[:documents]]
    prompts = [f"Type: {doc['category']}\nList: [{' '.join(doc['words'])}]\nAnswer: (" for doc in docs]
    made: dict[str, list[Instance]] = {"generate_until": [], "loglikelihood": [], "loglikelihood_rolling": []}
    for i, prompt in enumerate(prompts):
        where = {"doc": {"id": i}, "metadata": ("counting", i, 1)}
        made["generate_until"].append(
            Instance(request_type="generate_until", arguments=(prompt, dict(GREEDY)), idx=0, **where)
        )
        made["loglikelihood"] += [
            Instance(request_type="loglikelihood", arguments=(prompt, str(k)), idx=k, **where) for k in range(3)
        ]
        if i % 3 == 0:
            made["loglikelihood_rolling"].append(
                Instance(request_type="loglikelihood_rolling", arguments=(prompt,), idx=0, **where)
            )
    return made


def record(store: Path, log: Path, asked: dict[str, list[Instance]]) -> None:
    """One run, resumed if the store is there; the log names what is finished and what the run is about."""
    with log.open("ab", buffering=0) as out:

        def note(line: str) -> None:
            out.write(f"{line}\n".encode())

        write = shard.write

        def noted(folder, name, records, run=0):
            size = write(folder, name, records, run)
            note("\n".join(f"finished {json.dumps(r.key)}" for r in records))
            return size

        shard.write = noted
        ours.Writer = functools.partial(Writer, shard_records=2)
        note(f"phase start-up {time.monotonic()}")
        lm = ours.HFStoreLM(
            str(demo_model_folder()), store=store, store_mode="resume", metrics="all", signals="all", batch_size=1,
            device="cpu", dtype="float32",
        )  # fmt: skip
        note(f"phase recording {time.monotonic()}")
        for kind, of in asked.items():
            getattr(lm, kind)(of, disable_tqdm=True)
        note(f"phase closing {time.monotonic()}")
        lm.get_model_info()
        lm.close()
        note(f"phase ended {time.monotonic()}")


def forked(store: Path, log: Path, asked: dict[str, list[Instance]]) -> int:
    """Start a run in a fork; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(log.with_name(f"{log.name}.err"), os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
        status = 1
        try:
            record(store, log, asked)
            status = 0
        finally:
            os._exit(status)  # a fork runs nothing of its parent's end
    return child


def finish(store: Path, log: Path, asked: dict[str, list[Instance]]) -> None:
    """A run to its end."""
    _, status = os.waitpid(forked(store, log, asked), 0)
    if status:
        raise click.ClickException(
            f"the run ended with {status}: {log.with_name(f'{log.name}.err').read_text()[-2000:]}"
        )


def marks(log: Path) -> dict[str, float]:
    """When each phase began."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []  # the last may be half written
    return {name: float(at) for name, at in (line.split()[1:] for line in lines if line.startswith("phase "))}


def contents(store: Path) -> dict[tuple, tuple]:
    """Every entry, and every signal down to its bits."""
    found = {}
    for one in open_store(store).records(sorted(signals())):
        bits = {
            n: (str(v.dtype), tuple(v.shape), v.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
            for n, v in one.signals.items()
        }
        found[tuple(one.key)] = (repr({**vars(one), "signals": sorted(bits)}), bits)
    return found


def unlike(whole: dict[tuple, tuple], resumed: dict[tuple, tuple]) -> int:
    """How many records or signals differ."""
    missing = len(whole.keys() ^ resumed.keys())
    both = whole.keys() & resumed.keys()
    entries = sum(whole[k][0] != resumed[k][0] for k in both)
    return missing + entries + sum(whole[k][1].get(n) != v for k in both for n, v in resumed[k][1].items())


def moments(number: int, seed: int, whole: dict[str, float]) -> Iterator[tuple[str, float]]:
    """Phase and seconds after its start, one in each of as many equal stretches of it."""
    rng = random.Random(seed)
    fifth = max(1, number // 5)
    times = list(whole.values())
    for phase, start, stop, count in zip(PHASES, times, times[1:], (fifth, number - 2 * fifth, fifth)):
        for i in range(count):
            yield phase, (i + rng.random()) / count * (stop - start)


def kill_in(phase: str, delay: float, folder: Path, asked: dict[str, list[Instance]]) -> None:
    """Start a recording and kill it so long after its phase began; sooner when it ends before."""
    while True:
        folder.mkdir()
        child = forked(folder / "store", folder / "log", asked)
        while phase not in marks(folder / "log"):
            if os.waitpid(child, os.WNOHANG)[0]:
                raise click.ClickException(f"the run ended by itself: {(folder / 'log.err').read_text()[-2000:]}")
            time.sleep(0.001)
        time.sleep(delay)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return
        delay *= 0.8
        shutil.rmtree(folder)


def kill(folder: Path, phase: str, delay: float, asked: dict[str, list[Instance]], whole: dict) -> Counter[str]:
    """One recording killed and resumed; what was found, by name."""
    store, log = folder / "store", folder / "log"
    kill_in(phase, delay, folder, asked)
    phase = [p for p in PHASES if p in marks(log)][-1]  # a run that had just ended was killed in closing
    lines = log.read_text().split("\n")[:-1]
    finished = {tuple(json.loads(line.removeprefix("finished "))) for line in lines if line.startswith("finished ")}
    found = Counter({f"{phase}|kills": 1, f"{phase}|finished": len(finished)})
    held: set[tuple] = set()
    if is_store(store):
        opened = open_store(store)
        held = {tuple(key) for key in opened.entries()}
        found[f"{phase}|damaged shards"] = len({*opened.damaged(), *opened.problems})
        files = list((store / "shards").iterdir())
        found[f"{phase}|half-written"] = sum(p.suffix == ".tmp" for p in files) + sum(
            p.suffix == ".safetensors" and not p.with_suffix(".jsonl").exists() for p in files
        )
    else:
        found[f"{phase}|no store yet"] = 1
    found[f"{phase}|lost"] = len(finished - held)
    finish(store, log, asked)
    err = log.with_name(f"{log.name}.err").read_text()
    found[f"{phase}|served"] = sum(int(line.split()[1]) for line in err.splitlines() if "are served from" in line)
    found[f"{phase}|unequal"] = unlike(whole, contents(store))
    return found


COLUMNS = ("kills", "no store yet", "damaged shards", "half-written", "finished", "lost", "served", "unequal")


@click.command()
@click.option("--moments", "number", default=50, show_default=True, help="How many runs to kill.")
@click.option("--documents", default=12, show_default=True, help="Documents asked for; about 4.3 records each.")
@click.option("--seed", default=0, show_default=True)
def main(number: int, documents: int, seed: int) -> None:
    """Kill recordings and say what is left of them."""
    torch.set_num_threads(1)
    asked = requests(documents)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        finish(folder / "first", folder / "first.log", asked)
        finish(folder / "whole", folder / "whole.log", asked)
        times = marks(folder / "whole.log")
        seconds = times["ended"] - times[PHASES[0]]
        whole = contents(folder / "whole")
        kept = {n for _, bits in whole.values() for n in bits}
        click.echo(f"{len(whole)} records of {len(kept)} signals; an uninterrupted run takes {seconds:.2f} s.")
        click.echo(f"Two uninterrupted runs: {unlike(whole, contents(folder / 'first'))} differences.\n")
        totals: Counter[str] = Counter()
        for i, (phase, delay) in enumerate(moments(number, seed, times)):
            totals += kill(folder / f"killed{i}", phase, delay, asked, whole)
    click.echo(f"| killed in | {' | '.join(COLUMNS)} |")
    click.echo(f"| --- |{' ---: |' * len(COLUMNS)}")
    for phase in PHASES:
        click.echo(f"| {phase} | {' | '.join(str(totals[f'{phase}|{c}']) for c in COLUMNS)} |")
    click.echo(f"| all | {' | '.join(str(sum(totals[f'{p}|{c}'] for p in PHASES)) for c in COLUMNS)} |")
    if any(totals[f"{p}|{c}"] for p in PHASES for c in ("damaged shards", "lost", "unequal")):
        raise click.ClickException("something finished was lost, or a resumed store differs")


if __name__ == "__main__":
    main()
