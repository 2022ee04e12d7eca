"""The command `replay`: a store of a run made long ago, or by another engine."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from metrics.cli import format_option
from metrics.logged_lines import BROKEN
from metrics.manifest import is_store, read_manifest

if TYPE_CHECKING:
    from lm_eval_ext.model import HFStoreLM
    from lm_eval_ext.replay import Tallies
    from lm_eval_ext.replay_log import Log, Scanned
    from metrics.store import Store

LARGE = 0.01
"""From this difference in a log-likelihood on, another model or another setting is more likely than rounding."""

DIFFERENCE = "largest difference"
SHOWN = ("task", "kind", "requests", "records", "round-tripped", "left out", "first token unclear", DIFFERENCE)
"""Columns of the table; the manifest holds them all."""


@click.command()
@click.argument("samples", type=click.Path(path_type=Path))
@click.option("--model", required=True, help="The model that reads the texts: a hub id or a folder.")
@click.option(
    "--model-args",
    default="",
    help="Further arguments, as of lm_eval --model hf-store: dtype=float32,max_length=2048,add_bos_token=False,...",
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="The new store.  [default: hf-store/<model>/<UTC time>, as hf-store]"
)
@click.option("--store-mode", type=click.Choice(["new", "resume", "overwrite"]), default="new", show_default=True)
@click.option("--metrics", "metrics_", default="standard", show_default=True, help="Metrics to prepare for.")
@click.option("--signals", "signals_", default="", help="Further signals, by name or preset, joined by +.")
@click.option("--layers", default="all", show_default=True, help="Layers of hidden states and attention: 0+4+-1, ...")
@click.option("--lens", help="A tuned lens: a safetensors file, or a folder of the tuned-lens package.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Texts in a pass.")
@click.option("--task", "tasks", multiple=True, help="Only this task; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="Only so many documents of each task.")
@click.option("--keep-unfaithful", is_flag=True, help="Record texts too whose ids do not give them back.")
@format_option
def replay(
    samples: Path,
    model: str,
    model_args: str,
    out: Path | None,
    store_mode: str,
    metrics_: str,
    signals_: str,
    layers: str,
    lens: str | None,
    batch_size: int,
    tasks: tuple[str, ...],
    limit: int | None,
    keep_unfaithful: bool,
    format_: str,
) -> None:
    """Make a store of an existing run: of lm-eval's --log_samples folder (of any engine), or of another store.

    SAMPLES is an lm-eval output folder, a results_*.json, a samples_*.jsonl or a store. One pass of the model over
    prompts and answers gives the signals. From a store the token ids are exact; from a log they are made from the text,
    and what the ids do not give back is counted, listed in STORE/unfaithful.jsonl and left out.

    Example: eval-ext replay results/ --model EleutherAI/pythia-410m --out hf-store/replayed
    """
    chosen = {
        "store_mode": store_mode,
        "metrics": metrics_,
        "signals": signals_ or None,
        "layers": layers,
        "lens": lens,
        "batch_size": batch_size,
        **({"store": str(out)} if out is not None else {}),
    }
    load = _Loader(model, model_args, chosen)
    if is_store(samples):
        _replay_store(samples, load, tasks, limit, format_)
    else:
        _replay_log(samples, load, tasks, limit, keep_unfaithful, format_)


class _Loader:
    """Opens the model and its store once everything else has been looked at."""

    def __init__(self, model: str, model_args: str, chosen: dict[str, Any]) -> None:
        from lm_eval.utils import simple_parse_args_string

        try:
            given = simple_parse_args_string(model_args)
        except (ValueError, IndexError):
            raise click.ClickException(f"--model-args {model_args}: give name=value, joined by commas") from None
        for name in given:
            if name in (*chosen, "store", "pretrained"):
                option = {"pretrained": "model", "store": "out"}.get(name, name.replace("_", "-"))
                raise click.ClickException(f"--model-args {name}={given[name]}: say it as --{option}")
        self.model, self.arguments = model, {**given, **chosen}
        self.store = Path(chosen["store"]) if "store" in chosen else None
        self.mode = chosen["store_mode"]

    def __call__(self, source: dict[str, Any]) -> HFStoreLM:
        """The model, after a check that a resumed store is of the same source."""
        self.check_model()
        self._check_store(source)
        import torch

        from lm_eval_ext.model import HFStoreLM

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            lm = HFStoreLM(self.model, **{"device": device, **self.arguments})
        except RuntimeError as problem:
            raise click.ClickException(f"{self.model} cannot be loaded: {' '.join(str(problem).split())}") from None
        lm.recorder.note(replay=source)
        return lm

    def check_model(self) -> None:
        """Refuse a model that is not there, before anything is made of it."""
        if self.model.startswith((".", "/", "~")) and not Path(self.model).exists():
            raise click.ClickException(f"--model {self.model} does not exist; give its folder, or its id on the hub")
        from transformers import AutoConfig

        known = {name: self.arguments[name] for name in ("revision", "trust_remote_code") if name in self.arguments}
        try:
            if "gguf_file" not in self.arguments:
                AutoConfig.from_pretrained(self.model, **known)
        except (OSError, ValueError) as problem:
            raise click.ClickException(f"--model {self.model}: {' '.join(str(problem).split())}") from None

    def _check_store(self, source: dict[str, Any]) -> None:
        if self.store is None or not is_store(self.store) or self.mode == "overwrite":
            return
        if self.mode == "new":
            raise click.ClickException(
                f"store {self.store} exists; give another --out, or --store-mode resume to go on with it, or overwrite"
            )
        for run in read_manifest(self.store)["runs"]:
            before = run.get("replay", {}).get("files")
            if before != source["files"]:
                what = (
                    "was recorded, not replayed"
                    if before is None
                    else "was replayed from other samples, or they changed"
                )
                raise click.ClickException(f"store {self.store} {what}; give another --out, or --store-mode overwrite")


def _replay_log(
    samples: Path, load: _Loader, tasks: Sequence[str], limit: int | None, keep: bool, format_: str
) -> None:
    from lm_eval_ext.replay import replay_log
    from lm_eval_ext.replay_log import find_log, scan
    from metrics.store import Store

    log = find_log(samples)
    for task in tasks:
        if task not in log.files:
            raise click.ClickException(f"{samples} holds no task '{task}'; it holds {', '.join(sorted(log.files))}")
    scans = [scan(task, path, limit) for task, path in log.files.items() if not tasks or task in tasks]
    _introduce(log, scans)
    files = {str(one.path.absolute()): one.sha256 for one in scans}
    source = {"source": str(samples.absolute()), "of": "samples", "files": files, "limit": limit, "kept": keep}
    with _opened(load, source, format_) as (lm, tallies):
        if log.results is not None:
            Store(lm.store_path).link(log.results.absolute(), lm.recorder.writer.run_id)
        with _bar(sum(one.requests for one in scans)) as bar:
            replay_log(lm, scans, tallies, keep=keep, limit=limit, progress=bar.update)
    labels = "" if log.results is not None else f" --samples {samples}"
    click.echo(f"next: eval-ext auroc {lm.store_path}{labels}", err=True)


def _replay_store(samples: Path, load: _Loader, tasks: Sequence[str], limit: int | None, format_: str) -> None:
    from lm_eval_ext.replay_store import check_vocabulary, chosen_keys, digest, replay_store
    from metrics.results import linked_results
    from metrics.store import Store

    recorded = Store(samples)
    keys = chosen_keys(recorded, tasks, limit)
    load.check_model()
    check_vocabulary(recorded, load.model, load.arguments)
    files = {str(samples.absolute()): digest(recorded)}
    source = {"source": str(samples.absolute()), "of": "store", "files": files, "limit": limit}
    with _opened(load, source, format_) as (lm, tallies):
        made = Store(lm.store_path)
        _say_other(recorded, made)
        for results in linked_results(recorded.manifest):
            made.link(results, lm.recorder.writer.run_id)
        with _bar(len(keys)) as bar:
            replay_store(lm, recorded, keys, tallies, progress=bar.update)
    click.echo(f"next: eval-ext auroc {lm.store_path}", err=True)


@contextlib.contextmanager
def _opened(load: _Loader, source: dict[str, Any], format_: str) -> Iterator[tuple[HFStoreLM, Tallies]]:
    """The model with its new store and empty tallies; at the end these are shown and noted, and the store is closed."""
    from lm_eval_ext.replay import UNFAITHFUL, Tallies
    from lm_eval_ext.room import out_of_memory

    lm = load(source)
    tallies = Tallies(Path(lm.store_path) / UNFAITHFUL)
    try:
        with tallies.open():
            yield lm, tallies
        lm.recorder.flush()
        lm.recorder.note(replay={**source, "tallies": tallies.rows(), "reasons": dict(tallies.reasons())})
    except (RuntimeError, MemoryError) as problem:
        if not out_of_memory(problem):
            raise
        raise click.ClickException(
            f"memory ran out over a single text; what was replayed is kept in {lm.store_path}: record fewer signals, "
            "or give a smaller max_length in --model-args"
        ) from None
    finally:
        lm.close()
    _report(tallies, format_)


def _introduce(log: Log, scans: Sequence[Scanned]) -> None:
    """Say what is replayed, and what of it cannot be known from the log."""
    by, arguments = log.config.get("model"), log.config.get("model_args")
    told = ",".join(f"{k}={v}" for k, v in arguments.items()) if isinstance(arguments, dict) else arguments
    documents = sum(one.documents for one in scans)
    click.echo(
        f"replaying {', '.join(one.task for one in scans)}: {documents} documents"
        + (f" of {log.results}, a run of --model {by} --model_args {told}" if by else ""),
        err=True,
    )
    for one in scans:
        if one.cut:
            click.echo(f"{one.path}: {BROKEN}", err=True)
    if "think_end_token" in str(told):
        click.echo(
            "the run cut thoughts off; the log lacks them, so answers are read as if there had been none", err=True
        )


def _say_other(recorded: Store, made: Store) -> None:
    """Say in what the new store cannot equal the recorded one."""
    for name in ("model", "weights", "dtype", "max_length"):
        before, now = recorded.manifest.get(name), made.manifest.get(name)
        if before is not None and before != now:
            click.echo(f"{name} is {now}, recorded was {before}", err=True)


def _bar(total: int) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, desc="replay", disable=not sys.stderr.isatty())


def _report(tallies: Tallies, format_: str) -> None:
    """The table, and a line for each thing in it that a reader should know of."""
    from lm_eval_ext.replay import UNFAITHFUL
    from metrics.table import render

    rows = tallies.rows()
    shown = [{name: row[name] for name in SHOWN} for row in rows]
    if format_ in ("md", "latex"):
        apart = [row[DIFFERENCE] for row in rows]
        shown = [{**row, DIFFERENCE: None if d is None else f"{d:.1e}"} for row, d in zip(shown, apart)]
    click.echo(render(shown, format_))
    for reason, count in tallies.reasons().most_common():
        click.echo(f"{count} of {sum(row['requests'] for row in rows)}: {reason}", err=True)
    if tallies.reasons():
        click.echo(f"they are listed in {tallies.path.parent / UNFAITHFUL}", err=True)
    for row in rows:
        if (row[DIFFERENCE] or 0) > LARGE:
            click.echo(
                f"{row['task']}: log-likelihoods differ by up to {row[DIFFERENCE]:.3g} from earlier ones: "
                "another model, precision or setting (add_bos_token, max_length)? Labels are those of the earlier run",
                err=True,
            )
