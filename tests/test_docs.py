"""What the pages say is what the program does."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from metrics import open_store
from metrics.cli import main
from metrics.core import metrics, signals
from metrics.record import Key, Record, Span
from metrics.writer import Writer

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXT = {page: page.read_text(encoding="utf-8") for page in PAGES}
COMMANDS = main.list_commands(None)  # type: ignore[arg-type]


def blocks(language):
    return [(p.name, code) for p, text in TEXT.items() for code in re.findall(rf"```{language}\n(.*?)```", text, re.S)]


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def demo_output(tmp_path, monkeypatch):
    """A small `demo-output` in the current folder, as `eval-ext demo` leaves it."""
    monkeypatch.chdir(tmp_path)
    store, folder = Path("demo-output/store"), Path("demo-output/lm-eval/model")
    folder.mkdir(parents=True)
    manifest = {"run_id": "r", "model": "m", "architecture": "A", "dtype": "float32", "device": "cpu", "signals": {}}
    writer = Writer(store, manifest)
    samples = []
    for i in range(12):
        signals_ = {"entropy": torch.rand(3), "logprob": -torch.rand(3)}
        spans = {"answer": Span(0, 2), "generation": Span(0, 3)}
        key, kind = Key("counting_gen", i, 0, 0), "generate_until"
        writer.add(Record(key, kind, 9, 3, spans, "4", f"p{i}", f"d{i}", f"r{i}", signals=signals_))
        verdict = {"metrics": ["exact_match"], "exact_match": float(i % 3 > 0)}
        samples.append({"doc_id": i, "doc": {"cause": "x"}, "filter": "none", "doc_hash": f"d{i}", **verdict})
    writer.close()
    results = (folder / "results_2026-01-01T00-00-00.000001.json").absolute()
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(store.absolute()), "run_id": "r"}}}))
    log = folder / "samples_counting_gen_2026-01-01T00-00-00.000001.jsonl"
    log.write_text("".join(json.dumps(s) + "\n" for s in samples))
    open_store(store).link(results, "r")
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_on_a_page(command):
    assert any(f"eval-ext {command}" in text for text in TEXT.values())


def test_the_pages_name_no_command_that_is_none():
    named = {(p.name, word) for p, t in TEXT.items() for word in re.findall(r"`eval-ext ([a-z]+)\b", t)}
    assert named and {word for _, word in named} <= set(COMMANDS), named


def test_the_pages_name_no_option_that_is_none():
    for page, text in TEXT.items():
        for command, rest in re.findall(r"eval-ext ([a-z]+)\b([^`\n|]*)", text):
            if command in COMMANDS:
                made = main.get_command(None, command)  # type: ignore[arg-type]
                if isinstance(made, click.Group):
                    made = made.commands.get(rest.split()[0].partition("|")[0]) if rest.split() else None
                    if made is None:
                        continue
                known = {o for p in made.params for o in p.opts}
                assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= known | {"--help"}, (page.name, command, rest)


def test_the_page_of_metrics_is_up_to_date(generate):
    assert generate.PAGE.read_text(encoding="utf-8") == generate.page(), "run: python docs/generate.py"


def test_the_page_of_metrics_names_all_with_their_formula(generate):
    text = generate.page()
    for name, made in metrics().items():
        assert f"### {name}\n" in text and made.compute.__doc__.strip().splitlines()[0] in text
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{name}`")]
        assert made.source in row and f" {made.higher} " in row and f" {made.unit} " in row
    for name, known in signals().items():
        assert any(line.startswith(f"| `{name}`") for line in text.splitlines()) == known.kept


def test_the_generator_checks(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "PAGE", tmp_path / "metrics.md")
    stale = CliRunner().invoke(generate.main, ["--check"])
    assert stale.exit_code == 1 and "out of date; run python docs/generate.py" in stale.stderr
    assert CliRunner().invoke(generate.main, []).exit_code == 0
    assert CliRunner().invoke(generate.main, ["--check"]).exit_code == 0


def test_pages_link_to_what_exists():
    for page, text in TEXT.items():
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_python_on_the_pages_runs(demo_output):
    found = blocks("python")
    assert any(name == "README.md" for name, _ in found)
    for name, code in found:
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=demo_output, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{name}:\n{code}\n{done.stderr}"
