"""The command `sweep`: every layer of one or several models on MTEB, then the ranking."""

from __future__ import annotations

import contextlib
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

FIGURES = (".png", ".svg", ".pdf")
LIST = "comma-separated, or repeat the option"


@click.command()
@click.option("--config", type=click.Path(path_type=Path), help="A YAML file with any of these options.")
@click.option("--model", "models", multiple=True, help="A hub id or a folder, with @revision if wanted; repeatable.")
@click.option("--revision", "revisions", multiple=True, help="Of each model that names none itself; repeatable.")
@click.option("--layers", help="all, 0+4+-1, 0.5 (depth), last:4; none for aggregates only.  [default: all]")
@click.option(
    "--aggregate", "aggregates", multiple=True, help="mean:last:4, concat:3+6 or weighted:FILE besides; repeatable."
)
@click.option("--tasks", multiple=True, help=f"Names of MTEB, or file.py:Class; {LIST}.")
@click.option("--preset", help="A fixed list of tasks: layer-by-layer-32.")
@click.option("--pooling", multiple=True, help=f"mean, cls, last, max, weighted or auto; {LIST}.  [default: auto]")
@click.option("--norm", multiple=True, help=f"final, raw or auto; {LIST}.  [default: auto, which is final]")
@click.option("--max-length", type=click.IntRange(min=1), help="Tokens a text is cut to.  [default: the model's limit]")
@click.option("--dtype", help="float32, float16, bfloat16 or auto.  [default: auto, as the model is stored]")
@click.option("--prompt", help="A text before every text, or @FILE.")
@click.option("--normalize/--no-normalize", default=None, help="Unit length.  [default: as the model's modules do]")
@click.option("--trust-remote-code", is_flag=True, default=None, help="Run code that the model's repository brings.")
@click.option("--out", type=click.Path(path_type=Path), help="Where results go.  [default: layer-sweep]")
@click.option("--workers", type=click.IntRange(min=0), help="Processes that score; 0: none.  [default: cores - 1]")
@click.option("--batch-size", type=click.IntRange(min=1), help="Texts in a forward pass.  [default: 32]")
@click.option("--device", help="cpu, cuda, cuda:0,cuda:1 ...  [default: all GPUs, else the CPU]")
@click.option("--bank", type=click.Path(path_type=Path), help="Where rows of texts are kept.  [default: OUT/bank]")
@click.option("--bank-limit", help="Bytes the bank may take, as 500MB.  [default: 20GB]")
@click.option("--save-predictions", is_flag=True, default=None, help="Keep predictions, for P(best) over items.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw score by layer: .png, .svg or .pdf.")
@click.option("--dry-run", is_flag=True, help="Show the plan with its size, and stop.")
@click.option("--verbose", is_flag=True, help="Let MTEB and transformers log.")
def sweep(config: Path | None, plot: Path | None, dry_run: bool, verbose: bool, **options: Any) -> None:
    """Evaluate every layer of models on MTEB tasks, each text through each model once, and rank the layers.

    What is done already is not done again: the same command goes on after a kill. Results are MTEB's own files.

    Example: eval-ext sweep --model EleutherAI/pythia-410m --preset layer-by-layer-32 --dry-run
    """
    from mteb_ext import sweep_config

    chosen = sweep_config.load(config) if config is not None else sweep_config.SweepConfig()
    chosen = sweep_config.merged(chosen, _given(options))
    if plot is not None and plot.suffix not in FIGURES:
        raise click.ClickException(f"--plot {plot}: the ending must be {' or '.join(FIGURES)}")
    _sweep(chosen, dry_run, plot, verbose)


def _sweep(config: Any, dry_run: bool, plot: Path | None, verbose: bool) -> None:
    from mteb_ext import sweep_plan
    from mteb_ext.scoring import SUPERSEDED, quiet
    from mteb_ext.sweep_report import blocked, headline
    from mteb_ext.sweep_results import Results
    from mteb_ext.tasks import resolve

    warnings.filterwarnings("ignore", message=SUPERSEDED)  # the root command restores the filters
    with contextlib.nullcontext() if verbose else quiet():
        tasks = resolve(config.tasks, config.preset)
        subjects, refused = sweep_plan.subjects(config)
        results = Results(config.out)
        plan = sweep_plan.table(subjects, tasks, results)
        if dry_run:
            _show(plan or sweep_plan.task_table(tasks), headline(plan, config) if plan else "", refused)
        elif not subjects:
            raise click.ClickException(blocked(refused))
        else:
            click.echo(headline(plan, config), err=True)
            failed = _evaluate(config, tasks, subjects, refused, results, plan, plot, verbose)
            raise click.exceptions.Exit(int(failed))


def _show(rows: Sequence[Mapping[str, Any]], text: str, refused: Sequence[Any]) -> None:
    """The plan."""
    from metrics.table import render

    click.echo(render(rows, "md", digits=1))
    click.echo(f"\n{text or 'Only the tasks are known, for no model can be evaluated.'}")
    for one in refused:
        click.echo(f"{one.name} cannot be evaluated: {one.reason}", err=True)
    if refused:
        raise click.exceptions.Exit(1)


def _evaluate(
    config: Any,
    tasks: Any,
    subjects: Any,
    refused: Any,
    results: Any,
    plan: Sequence[Mapping[str, Any]],
    plot: Path | None,
    verbose: bool,
) -> bool:
    """Run the sweep, then rank; whether something failed."""
    from tqdm import tqdm

    from mteb_ext.sweep import Sweep
    from mteb_ext.sweep_report import costs, summary

    def tell(line: str) -> None:
        tqdm.write(line, file=sys.stderr)  # above a progress bar, if there is one

    lock = results.claim()
    run = Sweep(config, tasks, results, tell, progress=sys.stderr.isatty(), verbose=verbose)
    try:
        run.run(subjects, refused)
    except KeyboardInterrupt:
        click.echo(
            f"\nStopped. {run.outcome.done} of {run.total} pending units are evaluated and kept; the same command "
            "goes on from there.",
            err=True,
        )
        raise click.exceptions.Exit(130) from None
    finally:
        with contextlib.suppress(OSError):  # a full disk has been told of already, or shows in what follows
            results.record(costs(config, subjects, tasks, run.outcome))
        lock.release()
    _rank(config.out, plot)
    click.echo("\n" + summary(run.outcome, plan), err=True)
    return bool(run.outcome.failures)


def _rank(out: Path, plot: Path | None) -> None:
    """The ranking of what there is now."""
    from mteb_ext.cli_layers import layers

    if not any((out / "results").rglob("experiments/*/*.json")):
        return
    try:
        layers.main(args=[str(out), *(("--plot", str(plot), "--per-type") if plot else ())], standalone_mode=False)
    except click.ClickException as problem:
        click.echo(f"No ranking: {problem.format_message()}", err=True)
    else:
        click.echo(f"\nThe same any way you like:  eval-ext layers {out} --plot layers.png", err=True)


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that were given; lists may be written with commas."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        if value is None or value == ():
            continue
        given[name] = _split(value) if name in ("tasks", "pooling", "norm") else value
    return given


def _split(values: Sequence[str]) -> tuple[str, ...]:
    """Parts between commas, but for those inside brackets, as in ``benchmark:MTEB(eng, v2)``."""
    outside = re.compile(r"(?:[^,(\[]|\([^)]*\)|\[[^\]]*\]|[(\[])+")
    return tuple(part.strip() for value in values for part in outside.findall(value) if part.strip())
