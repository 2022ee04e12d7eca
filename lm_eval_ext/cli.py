"""The commands `demo` and `tasks`: they need the harness or the shipped tasks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tasks")
def tasks_command() -> None:
    """Print the folder of the shipped tasks, for lm_eval's --include_path.

    Example: lm_eval --tasks counting_gen --include_path "$(eval-ext tasks)" ...
    """
    from tasks import yaml_folder

    click.echo(yaml_folder())


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path), default="demo-output", show_default=True, help="Where to write."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only so many documents of each task.")
def demo(out: Path, limit: int | None) -> None:
    """Record a small trained model on the counting task, and say which metrics see its errors.

    Takes about a minute on a laptop, without a GPU or a network.

    Example: eval-ext demo --out demo-output
    """
    from lm_eval_ext.demo import run

    run(out, limit)
