"""Options that several commands share: where labels come from, and which documents, verdicts and spans are meant."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce, wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from metrics.core import Choice, Metric
from metrics.outside import read_scores
from metrics.score import SPANS
from metrics.table import FORMATS

Command = Callable[..., Any]


class View(NamedTuple):
    """Which verdicts, tasks and part of the answers are looked at, and scores from elsewhere beside ours."""

    label: str | None = None
    filter: str | None = None
    tasks: tuple[str, ...] = ()
    threshold: float | None = None
    span: str = "answer"
    scores: tuple[Path, ...] = ()

    def outside(self) -> list[Choice[Metric]]:
        """The scores from elsewhere, as metrics that need nothing.

        Raises:
            click.ClickException: two files have a column of the same name.
        """
        found: dict[str, Choice[Metric]] = {}
        for file in self.scores:
            for choice in read_scores(file):
                if choice.id in found:
                    raise click.ClickException(
                        f"--scores {file}: column {choice.id} is in another file too; rename one"
                    )
                found[choice.id] = choice
        return list(found.values())


span_option = click.option("--span", type=click.Choice(SPANS), default="answer", show_default=True)
filter_option = click.option(
    "--filter", "filter_", help="lm-eval's filter that reads the answers; the first of each task by default."
)
out_option = click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables here.")
metrics_option = click.option(
    "--metrics", "metrics_", default="standard", show_default=True, help="Names, ids and presets joined by +."
)
format_option = click.option(
    "--format", "format_", type=click.Choice(FORMATS), default="md", show_default=True, help="How to write the table."
)


def source_options(command: Command) -> Command:
    """PATH and where its labels come from: the command takes `path` and `given`, of ``--samples`` or ``--labels``.

    Raises, when called:
        click.ClickException: both are given.
    """

    @wraps(command)
    def one_source(*, samples: Path | None, labels: Path | None, **rest: Any) -> Any:
        if samples is not None and labels is not None:
            raise click.ClickException(f"--samples {samples} and --labels {labels}: give one source of right and wrong")
        return command(given=samples or labels, **rest)

    return applied(
        one_source,
        click.argument("path", type=click.Path(path_type=Path)),
        click.option("--samples", type=click.Path(path_type=Path), help="lm-eval's output, when PATH is a store."),
        click.option("--labels", type=click.Path(path_type=Path), help="A jsonl or csv with doc_id and correct."),
    )


def view_options(command: Command) -> Command:
    """Which verdicts, tasks and span, and scores from elsewhere: the command takes `view`."""

    @wraps(command)
    def viewed(
        *,
        label: str | None,
        filter_: str | None,
        tasks: tuple[str, ...],
        threshold: float | None,
        span: str,
        scores: tuple[Path, ...],
        **rest: Any,
    ) -> Any:
        return command(view=View(label, filter_, tasks, threshold, span, scores), **rest)

    return applied(
        viewed,
        click.option("--label", help="Only this verdict of lm-eval: a metric's name, such as exact_match."),
        click.option("--filter", "filter_", help="Only this filter of lm-eval, such as strict-match."),
        click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times."),
        click.option("--threshold", type=float, help="Call documents right whose graded label is at least this."),
        span_option,
        click.option(
            "--scores",
            multiple=True,
            type=click.Path(path_type=Path, dir_okay=False),
            help="A csv or jsonl of further scores, high meaning uncertain: doc_id, task, sample, then scores.",
        ),
    )


def applied(command: Command, *options: Callable[[Command], Command]) -> Command:
    """A command with some options, which its help shows in this order."""
    return reduce(lambda made, option: option(made), reversed(options), command)
