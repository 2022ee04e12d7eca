"""The command `eval-ext judge`: right and wrong by a language model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from tqdm.auto import tqdm

from metrics import judge as judging
from metrics import providers
from metrics.cli_cases import write
from metrics.cli_options import format_option
from metrics.judge import Item, Work
from metrics.judge_cache import Cache
from metrics.judge_endpoint import Ask, Endpoint, EndpointFailed, Refused, ask_all, asker
from metrics.judge_report import Estimate, agreement_table, estimate, show_agreement
from metrics.logged import Logged, read_logged, results_at
from metrics.results import settings_of

PRICE = click.FloatRange(min=0)
SHOWN = 3
"""Unclear replies that are shown."""


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--endpoint", required=True, help="The address up to /v1, such as http://localhost:8000/v1.")
@click.option("--model", required=True, help="The judge's name there.")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path, dir_okay=False), help="The labels, a .jsonl file."
)
@click.option("--task", "tasks", multiple=True, help="Only this task; may be given several times.")
@click.option("--filter", "filter_", help="Judge what this filter of lm-eval picked; by default the whole response.")
@click.option("--question", help="The documents' field with the question; else a usual name, else the prompt.")
@click.option("--gold", help="The documents' field with the gold answers; else lm-eval's target.")
@click.option(
    "--prompt", type=click.Path(path_type=Path, dir_okay=False), help="A text with {question} {gold} {answer}."
)
@click.option("--skip-exact", is_flag=True, help="Call answers equal to the gold right without asking.")
@click.option(
    "--cache", type=click.Path(path_type=Path, dir_okay=False), help="Replies; OUT with .cache.jsonl if none."
)
@click.option("--workers", type=click.IntRange(min=1), default=4, show_default=True, help="Calls at a time.")
@click.option("--retries", type=click.IntRange(min=0), default=5, show_default=True, help="Of a failed call.")
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True, help="Seconds."
)
@click.option("--max-tokens", type=click.IntRange(min=1), default=16, show_default=True, help="Of a reply.")
@click.option("--seed", default=0, show_default=True, help="Sent with each call; not every endpoint heeds it.")
@click.option("--body", default="{}", help="JSON put over the request's fields; null takes a field out.")
@click.option("--key-env", default="OPENAI_API_KEY", show_default=True, help="The environment variable of the key.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="A tokenizer.json, to count prompt tokens by.")
@click.option("--price-in", type=PRICE, help="Of a million prompt tokens.")
@click.option("--price-out", type=PRICE, help="Of a million completion tokens.")
@click.option("--max-cost", type=PRICE, help="Ask nothing if the estimate is above this.")
@click.option("--dry-run", is_flag=True, help="Show the estimate and one prompt, and ask nothing.")
@click.option("--yes", is_flag=True, help="Go on without asking whether to.")
@format_option
def judge(
    path: Path,
    endpoint: str,
    model: str,
    out: Path,
    tasks: tuple[str, ...],
    filter_: str | None,
    question: str | None,
    gold: str | None,
    prompt: Path | None,
    skip_exact: bool,
    cache: Path | None,
    workers: int,
    retries: int,
    timeout: float,
    max_tokens: int,
    seed: int,
    body: str,
    key_env: str,
    tokenizer: Path | None,
    price_in: float | None,
    price_out: float | None,
    max_cost: float | None,
    dry_run: bool,
    yes: bool,
    format_: str,
) -> None:
    """Ask a language model whether each answer means the same as the gold answer, and write labels.

    PATH is the output folder or a result file of lm_eval --log_samples, of any model, or a store. What each call would
    cost is said first; replies are kept as they come, and the same command goes on where it stopped. Then:
    eval-ext auroc PATH --labels OUT

    Example: eval-ext judge OUT --endpoint http://localhost:8000/v1 --model Qwen/Qwen2.5-7B-Instruct --out labels.jsonl
    """
    if out.suffix != ".jsonl":
        raise click.ClickException(f"--out {out}: labels are written as .jsonl; give such a name")
    if max_cost is not None and price_in is None and price_out is None:
        raise click.ClickException("--max-cost needs --price-in and --price-out")
    template = judging.check_template(_read(prompt), f"--prompt {prompt}") if prompt else None
    settings = _settings({"temperature": 0, "max_tokens": max_tokens, "seed": seed}, body)
    results = results_at(path)
    documents = _of_tasks(read_logged(results), tasks)
    fallbacks = _fallbacks(documents, filter_, results) if filter_ is not None else ()
    work = judging.make_work(documents, judging.Wanted(question, gold, filter_, skip_exact), fallbacks)
    prompts = {item: judging.prompt_of(item, template) for item in work.asked}
    keys = {text: judging.key_of(model, text, settings) for text in prompts.values()}
    with Cache(cache or out.with_suffix(".cache.jsonl")) as held:
        to_ask = [text for text, key in keys.items() if key not in held]
        count = _counter(tokenizer) if tokenizer else None
        most = settings.get("max_completion_tokens", settings.get("max_tokens", max_tokens))
        made = estimate(work, to_ask, most_tokens=most, count=count, price_in=price_in, price_out=price_out)
        _say(made, work, to_ask)
        if dry_run:
            return
        if max_cost is not None and made.cost is not None and made.cost > max_cost:
            raise click.ClickException(
                f"the estimate {made.cost:.2f} is above --max-cost {max_cost:g}; nothing is asked"
            )
        _confirm(to_ask, yes)
        refused = _asked(to_ask, keys, held, Endpoint(endpoint, model, settings, key_env, retries, timeout), workers)
        replies = {item: held[keys[text]] for item, text in prompts.items() if keys[text] in held}
    rows, unclear = judging.label_rows(work, replies, model)
    _write_rows(rows, out)
    _say_unlabelled(work, replies, unclear, refused)
    without = {pair for result in results for pair in settings_of(result).lower_is_better}
    table = agreement_table(rows, documents, filter_=filter_, without=without)
    if table.rows:
        write([table], format_, None, show_agreement)


def _read(prompt: Path) -> str:
    try:
        return prompt.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        why = problem.strerror if isinstance(problem, OSError) else "not a UTF-8 text"
        raise click.ClickException(f"--prompt {prompt}: {why}; give a text with {{gold}} and {{answer}}") from None


def _settings(given: dict[str, Any], body: str) -> dict[str, Any]:
    try:
        over = json.loads(body)
    except ValueError as problem:
        raise click.ClickException(f"--body {body}: not JSON ({problem})") from None
    if not isinstance(over, dict) or {"model", "messages", "stream"} & set(over):
        raise click.ClickException(f"--body {body}: give an object of fields other than model, messages and stream")
    return {name: value for name, value in {**given, **over}.items() if value is not None}


def _of_tasks(documents: list[Logged], tasks: Sequence[str]) -> list[Logged]:
    known = dict.fromkeys(one.task for one in documents)
    if strange := [task for task in tasks if task not in known]:
        raise click.ClickException(f"--task {strange[0]}: there is no such task; the samples have {', '.join(known)}")
    return [one for one in documents if not tasks or one.task in tasks]


def _fallbacks(documents: Sequence[Logged], filter_: str, results: Sequence[Path]) -> set[tuple[str, int]]:
    filters = {task: steps for result in results for task, steps in settings_of(result).filters.items()}
    found, said = judging.unmatched(documents, filter_, filters, providers.load("answers"))
    for line in said:
        click.echo(line, err=True)
    return found


def _counter(path: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise click.ClickException(f"--tokenizer {path}: {file} does not exist; give a tokenizer.json or its folder")
    counting = Tokenizer.from_file(str(file))
    return lambda text: len(counting.encode(text).ids)


def _say(made: Estimate, work: Work, to_ask: Sequence[str]) -> None:
    for line in made.lines(work):
        click.echo(line, err=True)
    for task, sources in work.sources.items():
        click.echo(f"{task}: the question is {', '.join(_named(s) for s in sources)}", err=True)
    if to_ask:
        click.echo("The first prompt:\n  " + "\n  ".join(to_ask[0].rstrip().split("\n")), err=True)


def _named(source: str) -> str:
    return source if source.startswith("the ") else f"the field {source}"


def _confirm(to_ask: Sequence[str], yes: bool) -> None:
    if not to_ask or yes:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(f"{len(to_ask):,} calls are to be made; pass --yes to make them, or --dry-run")
    click.confirm("Make these calls?", abort=True, err=True)


def _asked(
    to_ask: Sequence[str], keys: Mapping[str, str], held: Cache, endpoint: Endpoint, workers: int
) -> list[Refused]:
    """Ask what is left and keep each reply; the requests that were refused."""
    refused: list[Refused] = []
    if not to_ask:
        return refused
    try:
        ask: Ask = asker(endpoint)
    except ImportError as problem:
        raise click.ClickException(str(problem)) from None
    got = 0
    with tqdm(total=len(to_ask), desc="Judging", unit="call", disable=not sys.stderr.isatty()) as bar:
        try:
            for prompt, reply in ask_all(to_ask, ask, workers=workers):
                bar.update()
                if isinstance(reply, Refused):
                    refused.append(reply)
                    continue
                got += 1
                facts = {"model": endpoint.model, **reply._asdict()}
                held.add(keys[prompt], facts.pop("text"), facts)
        except EndpointFailed as problem:
            why = f"{problem}".removesuffix(".")
            kept = f"what it answered is kept in {held.path}, and " if got else ""
            raise click.ClickException(
                f"{endpoint.url} failed after {got:,} of {len(to_ask):,} calls: {why}"
                f"{'' if why.endswith('?') else ';'} {kept}no labels are written. "
                f"Run the same command again {'to go on' if got else 'when it answers'}"
            ) from None
    return refused


def _write_rows(rows: Sequence[Mapping[str, Any]], out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        temporary.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
        temporary.replace(out)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()
    right = sum(row["correct"] for row in rows)
    click.echo(f"wrote {out}: {len(rows):,} labels, {right:,} right", err=True)


def _say_unlabelled(
    work: Work, replies: Mapping[Item, str], unclear: Mapping[str, int], refused: Sequence[Refused]
) -> None:
    lost = sum(len(documents) for item, documents in work.asked.items() if item not in replies)
    if lost:
        click.echo(f"{lost:,} documents without a label, refused: {refused[0]}", err=True)
    if unclear:
        most = sorted(unclear, key=lambda reply: -unclear[reply])[:SHOWN]
        examples = ", ".join(repr(reply[:60]) for reply in most)
        click.echo(
            f"{sum(unclear.values()):,} documents without a label, the reply says neither yes nor no: {examples}",
            err=True,
        )
