"""Options that several commands share: where labels come from, and which tasks and verdicts are meant."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click

Command = Callable[..., Any]


def source_options(command: Command) -> Command:
    """Where right and wrong come from: `--samples` or `--labels`, of which `one_source` takes one."""
    return applied(
        command,
        click.option("--samples", type=click.Path(path_type=Path), help="lm-eval's output, when PATH is a store."),
        click.option(
            "--labels", type=click.Path(path_type=Path), help="A jsonl or csv with columns doc_id and correct."
        ),
    )


def verdict_options(command: Command) -> Command:
    """Which verdicts and tasks: `--label`, `--filter`, `--task`, and `--threshold` for graded ones."""
    return applied(
        command,
        click.option("--label", help="Only this verdict of lm-eval: a metric's name, such as exact_match."),
        click.option("--filter", "filter_", help="Only this filter of lm-eval, such as strict-match."),
        click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times."),
        click.option("--threshold", type=float, help="Call documents right whose graded label is at least this."),
    )


def applied(command: Command, *options: Callable[[Command], Command]) -> Command:
    """A command with some options, which its help shows in this order."""
    return reduce(lambda made, option: option(made), reversed(options), command)


def one_source(samples: Path | None, labels: Path | None) -> Path | None:
    """What `--samples` or `--labels` names; None where neither is given.

    Raises:
        click.ClickException: both are given.
    """
    if samples is not None and labels is not None:
        raise click.ClickException(f"--samples {samples} and --labels {labels}: give one source of right and wrong")
    return samples or labels
