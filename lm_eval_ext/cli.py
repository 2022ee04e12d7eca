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
@click.option("--limit", type=click.IntRange(min=1), help="Only so many documents of each counting task.")
@click.pass_context
def demo(ctx: click.Context, out: Path, limit: int | None) -> None:
    """Record a small trained model on the counting task, say which metrics see its errors, and rank its layers.

    The second half takes the same model's layers as embeddings of words and lists, if MTEB is installed. Both take
    about two minutes on a laptop, without a GPU or a network.

    Example: eval-ext demo --out demo-output
    """
    from lm_eval_ext.demo import run, run_layers

    run(out, limit)
    root = ctx.find_root()
    sweep = root.command.get_command(root, "sweep") if isinstance(root.command, click.Group) else None
    if sweep is not None:
        run_layers(out, sweep)
