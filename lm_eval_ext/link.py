"""The two ends that lm-eval leaves open: how an error reaches the user, and which result file belongs to the store."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any, NoReturn

import click
from lm_eval.loggers import EvaluationTracker

from lm_eval_ext.ranks import first_here
from metrics.results import find_results
from metrics.store import Store

HOSTS = ("lm_eval", "lm-eval", "lm_eval_ext", "lm-eval.exe", "lm_eval.exe")


def fail(problem: Exception) -> NoReturn:
    """Report bad input: one line and exit status 2 on lm-eval's command line, the exception itself in a program.

    Of several processes, which all have the same to say, the first speaks.
    """
    program = Path(sys.argv[0])
    if program.name in HOSTS or (program.name == "__main__.py" and program.parent.name in HOSTS):
        if first_here():
            click.echo(f"hf-store: {problem}", err=True)
        raise SystemExit(2)
    raise problem


def announce_results() -> None:
    """Have lm-eval's tracker tell the store where it wrote its result file.

    The harness offers no event for it, so the tracker's method is wrapped, once, and does what it did before; only
    results that name a store are looked at.
    """
    original = EvaluationTracker.save_results_aggregated
    if getattr(original, "tells_the_store", False):
        return

    @functools.wraps(original)
    def save(self: Any, results: dict[str, Any], samples: dict[str, Any] | None = None) -> None:
        original(self, results=results, samples=samples)
        linked = (results.get("config") or {}).get("hf_store")
        if linked and self.output_path:
            _link(linked, Path(self.output_path), logged=samples is not None)

    save.tells_the_store = True  # type: ignore[attr-defined]
    EvaluationTracker.save_results_aggregated = save


def _link(linked: dict[str, str], output: Path, *, logged: bool) -> None:
    try:
        results = find_results(output, linked["run_id"])
        Store(linked["store"]).link(results.absolute(), linked["run_id"])
    except (OSError, ValueError) as problem:
        click.echo(f"hf-store: the store does not name its result file: {problem}", err=True)
        return
    if logged:
        click.echo(f"hf-store: next: eval-ext auroc {output}", err=True)
    else:
        click.echo("hf-store: right and wrong are not known without --log_samples; add it for AUROC tables", err=True)
