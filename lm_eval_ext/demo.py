"""The demonstration: stock lm_eval with hf-store on a model whose every error has a known cause."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import click

from metrics.cases import Case, cases, errors_by
from metrics.choosing import choose
from metrics.manifest import is_store
from metrics.plots import save
from metrics.report import Table, auroc_table, show
from metrics.stats import delong_test
from metrics.store import Store, open_store
from metrics.table import render
from tasks import yaml_folder
from tasks.counting import demo_model_folder

FEW = 10
"""Fewer errors than this get no sentence."""

SHOWN = ("first_token_entropy", "sequence_nll", "margin", "self_certainty", "boosted_prob", "prompt_length", "random")
LAYER_TASKS = ("WordCategoryClustering", "ListCountClassification")
"""Shipped tasks of MTEB's kind, on words and lists that the model knows."""

CAUSES = {
    "unseen_member": "a word of the asked category that the model never saw in training (a knowledge gap)",
    "unseen_distractor": "a never-seen word of another category",
    "unseen_length": "a list longer than any in training",
    "several": "several of these at once",
}


def run(out: Path, limit: int | None = None) -> None:
    """Evaluate, print the tables, save the figures, and say in words what the numbers say."""
    _refuse_other(out)
    command = [sys.executable, "-m", "lm_eval", "--model", "hf-store"]
    command += ["--model_args", f"pretrained={demo_model_folder()},store={out / 'store'},store_mode=overwrite"]
    command += ["--tasks", "counting_gen,counting_mc", "--include_path", str(yaml_folder())]
    command += ["--device", "cpu", "--batch_size", "32", "--output_path", str(out / "lm-eval"), "--log_samples"]
    if limit is not None:
        command += ["--limit", str(limit)]
    click.echo("$ " + shlex.join(["lm_eval", *command[3:]]) + "\n", err=True)
    done = subprocess.run(command, env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False)
    if done.returncode:
        raise click.ClickException(f"lm_eval ended with status {done.returncode}; its messages are above")
    store = open_store(out / "store")
    overall, causes = _tables(store)
    case, table = overall
    click.echo("\n" + show(table, "md") + "\n")
    click.echo(show_causes(table, {name: t for name, (_, t) in causes.items()}) + "\n")
    click.echo("What this says\n" + "\n".join(f"- {line}" for line in lessons(case, table, causes)) + "\n")
    try:
        for one, its in (overall, *causes.values()):
            click.echo(f"wrote {save(one, its, out / 'figures', baselines=['prompt_length', 'random'])}", err=True)
    except ImportError:
        click.echo("No figures: they need matplotlib: pip install 'eval-ext[plots]'", err=True)
    click.echo(f"All of it again, any way you like:  eval-ext auroc {out / 'lm-eval'} --errors-by cause", err=True)


def run_layers(out: Path, sweep: click.Command) -> None:
    """Evaluate every layer of the same model as an embedding, by the command `sweep`, and draw the scores by layer."""
    if find_spec("mteb") is None:
        click.echo("No layers: they need MTEB: pip install 'eval-ext[demo]'", err=True)
        return
    plot = ["--plot", str(out / "figures" / "layers.png")] if find_spec("matplotlib") is not None else []
    args = ["--model", str(demo_model_folder()), "--tasks", ",".join(LAYER_TASKS), "--out", str(out / "layers"), *plot]
    click.echo("\n$ " + shlex.join(["eval-ext", "sweep", *args]) + "\n", err=True)
    sweep.main(args=args, prog_name="eval-ext sweep", standalone_mode=False)


def _refuse_other(out: Path) -> None:
    """Only what an earlier demonstration wrote is written over."""
    store = out / "store"
    if is_store(store) and open_store(store).manifest.get("model") != str(demo_model_folder()):
        raise click.ClickException(f"--out {out}: {store} holds a recording of your own; give another folder")


def _tables(store: Store) -> tuple[tuple[Case, Table], dict[str, tuple[Case, Table]]]:
    chosen = choose("standard")
    frame = store.scores("standard")
    case = next(c for c in cases(frame, chosen) if c.task == "counting_gen")
    values = frame.loc[frame["task"] == "counting_gen", "doc:cause"].tolist()
    found = {}
    for one in errors_by(case, "cause", values):
        found[one.subset.rsplit("=", 1)[1]] = (one, auroc_table(one, against="prompt_length"))
    order = [name for name in (*CAUSES, *found) if name in found]
    return (case, auroc_table(case, against="prompt_length")), {name: found[name] for name in order}


def show_causes(overall: Table, causes: Mapping[str, Table]) -> str:
    """One row a metric, one column a cause of error: AUROC of those wrong answers against all right ones."""
    rows = []
    for name in SHOWN:
        row = {"metric": name}
        for title, table in {"all errors": overall, **causes}.items():
            e = table.estimates[name]
            known = not math.isnan(e.value)
            row[f"{title} ({e.n_positive})"] = f"{e.value:.3f} [{e.lower:.3f}, {e.upper:.3f}]" if known else "–"
        rows.append(row)
    return "### AUROC [95 % CI] by cause of error (number of wrong answers)\n\n" + render(rows, "md")


def lessons(case: Case, overall: Table, causes: Mapping[str, tuple[Case, Table]]) -> list[str]:
    """What the numbers say, in words chosen by the numbers."""
    said = [_lesson("All errors together", case, overall)]
    for name, (one, table) in causes.items():
        said.append(_lesson(f"Errors from {CAUSES.get(name, name)}", one, table))
    return said


def _lesson(what: str, case: Case, table: Table) -> str:
    """How well the first token's entropy sees some errors, and whether the list's length alone does as well."""
    assert case.wrong is not None
    metric, length = "first_token_entropy", "prompt_length"
    seen, simple = table.estimates[metric], table.estimates[length]
    for count, which in ((int(case.wrong.sum()), "error"), (int((~case.wrong).sum()), "right answer")):
        if count < FEW:
            are = f"{which} is" if count == 1 else f"{which}s are"
            return f"{what}: {count} {are} too few to say anything."
    if seen.lower <= 0.5:
        sight = "points the wrong way" if seen.upper < 0.5 else "is no better than chance"
    elif seen.value >= 0.65:
        sight = "sees them clearly" if seen.value >= 0.85 else "sees them"
    else:
        sight = "hardly sees them"
    test = delong_test(case.scores[metric], case.scores[length], case.wrong)
    verdict = "length alone does as well" if simple.lower > 0.5 else "not clearly better than length alone"
    if test.p < 0.05:
        verdict = "it does better than length" if test.difference.value > 0 else "length alone does better"
    return (
        f"{what}: entropy {sight} (AUROC {seen.value:.2f} [{seen.lower:.2f}, {seen.upper:.2f}]); {verdict} "
        f"({simple.value:.2f}, paired p = {test.p:.2g})."
    )
