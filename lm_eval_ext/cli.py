"""The commands `demo` and `tasks`: they need the harness or the shipped tasks."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("tasks")
@click.option(
    "--local",
    "data",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Write the tasks of uq_suite whose sets are files below this folder, as TASK_local.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default="uq_suite_local",
    show_default=True,
    help="Where --local writes them.",
)
def tasks_command(data: Path | None, out: Path) -> None:
    """Print the folder of the shipped tasks, or of local variants of them, for lm_eval's --include_path.

    Example: lm_eval --tasks uq_suite --include_path "$(eval-ext tasks)" ...
    """
    from tasks import yaml_folder
    from tasks.uq_suite import local

    if data is None:
        click.echo(yaml_folder())
    else:
        names = local(data, out)
        click.echo(f"wrote uq_suite_local: {', '.join(names)}", err=True)
        click.echo(out.resolve())


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
