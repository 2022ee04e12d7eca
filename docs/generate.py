"""Write docs/metrics.md from the registered metrics and signals; with --check, say whether it is up to date.

Example: python docs/generate.py --check
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from metrics.core import Metric, Signal, metric_cost, metrics, signals
from metrics.table import render

PAGE = Path(__file__).with_name("metrics.md")

HEAD = """# Metrics and signals

Written by `python docs/generate.py` (`make docs`) from the functions themselves; edit their docstrings, not this page.

A metric keeps its paper's natural sign; `higher =` says what a high value means, and every table turns it round where
need be, so that higher is uncertain. `cost` is the dearest thing that a metric needs: `free` (known without the model's
insides), `logits` (inside the pass that is made anyway), `hidden`, `lens` or `attention` (one more pass), `influence`
and `passes` (passes of their own), `samples` (several answers to one prompt, or what another model makes of the texts;
[sampling](sampling.md)). `standard` is everything that costs at most `logits`, `all` everything up to `attention`; the
name of a family is all its members. `min_k(share=0.1)` sets an option.
"""

SAMPLES = """Not stored but put together when a document's samples are scored: of texts, of what `eval-ext samples` made
of them, and of each sample's stored signals.
"""


def page() -> str:
    """The whole page, the same for the same registry."""
    kept = {name: known for name, known in signals().items() if known.kept and known.cost != "samples"}
    of_samples = {name: known for name, known in signals().items() if known.cost == "samples"}
    rows = [_metric_row(made) for made in metrics().values()]
    parts = [HEAD, "## Metrics\n", render(rows), "", *_sections(metrics(), _metric_facts)]
    parts += ["## Stored signals\n", render([_signal_row(s) for s in kept.values()]), ""]
    parts += _sections({n: s for n, s in kept.items() if s.compute is not None}, _signal_facts)
    parts += ["## Signals of samples\n", SAMPLES, render([_signal_row(s) for s in of_samples.values()]), ""]
    parts += _sections({n: s for n, s in of_samples.items() if s.compute is not None}, _signal_facts)
    return "\n".join(parts).rstrip() + "\n"


def _metric_row(made: Metric) -> dict[str, Any]:
    return {
        "metric": f"`{made.name}`",
        "meaning": made.summary,
        "higher =": made.higher,
        "cost": metric_cost(made),
        "unit": made.unit,
        "source": made.source,
    }


def _signal_row(known: Signal) -> dict[str, Any]:
    return {
        "signal": f"`{known.name}`",
        "meaning": known.summary,
        "axes": " x ".join(known.axes) or "scalar",
        "cost": known.cost,
        "unit": known.unit,
        "type": known.dtype,
    }


def _metric_facts(made: Metric) -> str:
    facts = [f"needs {', '.join(f'`{n}`' for n in made.needs)}", f"family {made.family}"]
    if made.options:
        facts.append("options " + ", ".join(f"`{k}={v}`" for k, v in made.options.items()))
    if made.variants:
        facts.append("also reported with " + ", ".join(_settings(v) for v in made.variants))
    return "; ".join(facts)


def _settings(options: Any) -> str:
    return "`" + ", ".join(f"{k}={v}" for k, v in options.items()) + "`"


def _signal_facts(known: Signal) -> str:
    return f"from {', '.join(f'`{n}`' for n in known.needs)}"


def _sections(known: dict[str, Any], facts: Callable[[Any], str]) -> Iterator[str]:
    """One section each: facts, and the docstring as it stands."""
    for name, made in known.items():
        yield f"### {name}\n\n{facts(made)}\n\n```text\n{inspect.getdoc(made.compute)}\n```\n"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when the page is out of date.")
def main(check: bool) -> None:
    """Write docs/metrics.md.

    Example: python docs/generate.py
    """
    text = page()
    if check:
        current = PAGE.read_text(encoding="utf-8") if PAGE.exists() else ""
        if current != text:
            raise click.ClickException(f"{PAGE} is out of date; run python docs/generate.py")
    else:
        PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
