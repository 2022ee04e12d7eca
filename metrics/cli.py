"""The command `eval-ext`: what can be done with a store, after the fact and without the model.

Commands of the other packages join through the entry-point group ``eval_ext.commands`` and are imported when called.
"""

from __future__ import annotations

import contextlib
import functools
import json
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import click

from metrics.cli_options import format_option
from metrics.core import COSTS, Metric, features, metric_cost, metrics, signals
from metrics.plan import Plan, Shape, bytes_per_record, make_plan
from metrics.table import render

OURS = {
    **{name: f"metrics.cli_store:{name}" for name in ("show", "score", "auroc")},
    "store": "metrics.cli_stores:store",
    "compare": "metrics.cli_compare:compare",
    "table": "metrics.cli_table:table",
    **{name: f"metrics.cli_look:{name}" for name in ("plot", "explain")},
    "grid": "metrics.cli_grid:grid",
    **{name: f"metrics.cli_calibration:{name}" for name in ("calibration", "threshold")},
    "domains": "metrics.cli_domains:domains_command",
    "judge": "metrics.cli_judge:judge",
    **{name: f"metrics.cli_fit:{name}" for name in ("fit", "apply")},
}
"""Commands that need pandas, imported when called."""

COUNT = click.IntRange(min=0)


class Root(click.Group):
    """A group whose further commands are imported when asked for; errors of the library become one line."""

    @functools.cached_property
    def _points(self) -> dict[str, EntryPoint]:
        own = [EntryPoint(name, value, "eval_ext.commands") for name, value in OURS.items()]
        return {point.name: point for point in (*entry_points(group="eval_ext.commands"), *own)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our own commands and those of the other packages."""
        return sorted({*super().list_commands(ctx), *self._points})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Our own command, or one from an entry point."""
        own = super().get_command(ctx, cmd_name)
        if own is not None or cmd_name not in self._points:
            return own
        try:
            return self._points[cmd_name].load()
        except ImportError as problem:
            raise click.ClickException(f"the command {cmd_name} cannot be loaded: {problem}") from None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read our own options; what is wrong with them is said in one line."""
        with _usage_in_one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run; what the library refuses becomes one line and exit status 1, and warnings one line each."""
        with warnings.catch_warnings(), _usage_in_one_line():
            warnings.showwarning = _one_line
            try:
                return super().invoke(ctx)
            except BrokenPipeError:  # the reader of our output has gone, as `head` does
                raise
            except (ValueError, TypeError, OSError) as problem:
                raise click.ClickException(_joined(str(problem))) from None


@contextlib.contextmanager
def _usage_in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as problem:
        text = problem.format_message()
        if problem.ctx is not None and text == problem.ctx.get_help():  # a group without a command shows its help
            raise
        see = f"; see {problem.ctx.command_path} --help" if problem.ctx is not None else ""
        raise click.ClickException(_joined(text).rstrip(".") + see) from None


def _joined(text: str) -> str:
    return " ".join(text.split())


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"Warning: {_joined(str(message))}", err=True)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="eval-ext")
def main() -> None:
    """Look at what was recorded while a model was evaluated.

    Record with lm-eval:  lm_eval --model hf-store --model_args pretrained=MODEL --tasks TASK --output_path OUT
    --log_samples, then:  eval-ext auroc OUT
    """


@main.command("list")
@click.argument("kind", type=click.Choice(["metrics", "signals", "features"]), default="metrics")
@click.option("--cost", type=click.Choice(COSTS), help="Only what costs at most this.")
@format_option
def list_(kind: str, cost: str | None, format_: str) -> None:
    """Show every metric (signal, feature): what it means, needs and costs, its direction and its source.

    Example: eval-ext list signals --cost logits
    """
    limit = COSTS.index(cost) if cost else len(COSTS)
    rows: list[dict[str, Any]] = []
    if kind != "signals":
        for made in (metrics() if kind == "metrics" else features()).values():
            needs = metric_cost(made)
            if COSTS.index(needs) <= limit:
                options = ", ".join(f"{k}={v}" for k, v in made.options.items())
                rows.append(
                    {
                        kind.removesuffix("s"): made.name,
                        "options": options,
                        "family": made.family,
                        "cost": needs,
                        **({"higher =": made.higher} if isinstance(made, Metric) else {}),
                        "unit": made.unit,
                        "needs": ", ".join(made.needs),
                        "source": made.source,
                        "meaning": made.summary,
                    }
                )
    else:
        for known in signals().values():
            if known.kept and COSTS.index(known.cost) <= limit:
                rows.append(
                    {
                        "signal": known.name,
                        "axes": " x ".join(known.axes) or "scalar",
                        "unit": known.unit,
                        "cost": known.cost,
                        "from": ", ".join(known.needs) or "raw",
                        "meaning": known.summary,
                    }
                )
    click.echo(render(rows, format_))


@main.command()
@click.option("--metrics", "metrics_", default="standard", show_default=True, help="Names and presets joined by +.")
@click.option("--signals", "signals_", default="", help="Further signals, by name or preset, joined by +.")
@click.option("--raw", default="none", show_default=True, help="Raw tensors kept whole: logits+hidden+attention.")
@click.option("--model", type=click.Path(path_type=Path), help="A model's folder or config.json.")
@click.option("--prompt", "prompt_tokens", type=COUNT, default=512, show_default=True, help="Tokens of a prompt.")
@click.option("--tokens", type=COUNT, default=256, show_default=True, help="Tokens of a typical answer.")
@click.option("--layers", type=click.IntRange(min=1), help="How many layers are recorded; all by default.")
@click.option(
    "--raw-bytes",
    type=click.IntRange(1, 8),
    default=2,
    show_default=True,
    help="Bytes of one number of a raw tensor (raw_dtype).",
)
@format_option
def plan(
    metrics_: str,
    signals_: str,
    raw: str,
    model: Path | None,
    prompt_tokens: int,
    tokens: int,
    layers: int | None,
    raw_bytes: int,
    format_: str,
) -> None:
    """Show what a choice of metrics will capture and how large a sample gets, before anything runs.

    Example: eval-ext plan --metrics all --raw hidden --model path/to/model --tokens 300
    """
    made = make_plan(metrics_, signals_, raw)
    shape = _shape(model, prompt_tokens, tokens, layers)
    if layers is not None and layers > shape.blocks + 1:
        raise click.ClickException(
            f"--layers {layers}: {model or 'a model of the default shape'} has {shape.blocks + 1}, the embedding's "
            f"output and {shape.blocks} blocks; give at most {shape.blocks + 1}"
        )
    sizes = bytes_per_record(made, shape, raw_bytes)
    known = signals()
    rows = [
        {"signal": n, "axes": " x ".join(known[n].axes), "cost": known[n].cost, "kB a sample": size / 1e3}
        for n, size in sizes.items()
    ]
    click.echo(render(rows, format_, digits=1))
    if format_ == "md":
        click.echo(_plan_text(made, shape, sum(sizes.values()), model))


def _plan_text(made: Plan, shape: Shape, total: int, model: Path | None) -> str:
    capture = ", ".join(made.capture) or "nothing"
    where = "one more teacher-forced pass a batch" if made.extra_pass else "no further pass"
    of = f"{model}" if model else "Llama-3.1-8B's shape; give --model for yours"
    tokens = 4 * (shape.prompt + shape.tokens)
    return (
        f"\nCaptures {capture}; {where}. {len(made.metrics)} metrics.\n"
        f"{(total + tokens) / 1e6:.3f} MB a sample of {shape.prompt} + {shape.tokens} tokens, with their ids ({of})."
    )


def _shape(model: Path | None, prompt: int, tokens: int, layers: int | None) -> Shape:
    if model is None:
        return Shape(32, 32, 4096, 128256, prompt, tokens, layers)
    file = model / "config.json" if model.is_dir() else model
    if not file.is_file():
        raise ValueError(f"--model {model}: {file} does not exist; give the folder of a downloaded model")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"--model {model}: {file} is not a JSON file ({problem})") from None
    config = config.get("text_config", config) if isinstance(config, dict) else {}

    def size(*names: str) -> int:
        found = next((config[n] for n in names if isinstance(config.get(n), int)), None)
        if found is None:
            raise ValueError(f"{file} holds no number {' or '.join(names)}; give the config.json of a decoder")
        return int(found)

    return Shape(
        size("num_hidden_layers", "n_layer"),
        size("num_attention_heads", "n_head"),
        size("hidden_size", "n_embd"),
        size("vocab_size"),
        prompt,
        tokens,
        layers,
    )
