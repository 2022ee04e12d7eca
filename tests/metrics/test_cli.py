"""The commands as a user meets them: what they are, those that need no store, and the program itself."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ok, refused
from judged_run import write_run

from metrics.cli import main

COMMANDS = (
    *(
        "apply",
        "auroc",
        "calibration",
        "compare",
        "demo",
        "domains",
        "explain",
        "fit",
        "grid",
        "judge",
        "layers",
        "list",
    ),
    *("plan", "plot", "replay", "samples", "score", "show", "store", "sweep", "table", "tasks", "threshold"),
)


# what each command is


def test_the_commands_are_these():
    listed = re.findall(r"^  ([a-z]+) ", ok("--help").output.split("Commands:")[1], flags=re.M)
    assert tuple(listed) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_shows_an_example(command):
    text = ok(command, "--help").output
    example = next(line for line in text.splitlines() if line.strip().startswith("Example: "))
    assert f"eval-ext {command}" in text[text.index(example) :]


# list and plan


@pytest.mark.parametrize("kind", ["metrics", "signals"])
@pytest.mark.parametrize("format_", ["md", "csv", "json", "latex"])
def test_list_is_one_table(kind, format_):
    text = ok("list", kind, "--format", format_).stdout
    if format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
    elif format_ == "json":
        rows = json.loads(text)
    else:
        assert text.count("entropy") > 1
        return
    assert {"mean_entropy"} <= {r["metric"] for r in rows} if kind == "metrics" else {r["signal"] for r in rows}
    assert all(row["meaning"] and row["cost"] for row in rows)


def test_every_markdown_line_of_list_has_the_same_columns():
    for kind in ("metrics", "signals"):
        lines = ok("list", kind).stdout.strip().splitlines()
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_list_limits_by_cost():
    rows = json.loads(ok("list", "signals", "--cost", "logits", "--format", "json").stdout)
    assert {r["cost"] for r in rows} == {"free", "logits"}


def test_plan_counts_what_a_model_will_take(tmp_path):
    config = {"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 11}
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = ("plan", "--metrics", "mean_nll", "--raw", "hidden+logits", "--tokens", 5, "--model")
    for model in (tmp_path, tmp_path / "config.json"):
        rows = json.loads(ok(*arguments, model, "--format", "json").stdout)
        sizes = {row["signal"]: row["kB a sample"] * 1e3 for row in rows}
        assert sizes == pytest.approx({"logits": 5 * 11 * 2, "logprob": 5 * 4, "hidden": 3 * 6 * 8 * 2})
    text = ok(*arguments, tmp_path).stdout
    assert "Captures logits, hidden; one more teacher-forced pass a batch." in text and "MB a sample" in text


def test_plan_knows_how_many_layers_a_model_has(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"n_layer": 2, "n_head": 2, "n_embd": 8, "vocab_size": 11}))
    arguments = ("plan", "--signals", "hidden_mean", "--model", tmp_path, "--layers")
    ok(*arguments, 3)
    refused(*arguments, 4, says=f"--layers 4: {tmp_path} has 3, the embedding's output and 2 blocks; give at most 3")
    refused("plan", "--layers", 34, says="--layers 34: a model of the default shape has 33")


def test_plan_without_signals_is_no_error():
    assert "Captures nothing" in ok("plan", "--metrics", "answer_length").stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--metrics", "mean_entopy"), "Did you mean 'mean_entropy'?"),
        (("--signals", "entropi"), "Did you mean 'entropy'?"),
        (("--raw", "logit"), "Did you mean 'logits'?"),
        (("--tokens", "-1"), "'--tokens': -1"),
        (("--prompt", "x"), "'--prompt': 'x'"),
        (("--layers", "0"), "'--layers': 0"),
        (("--raw-bytes", "0"), "'--raw-bytes': 0"),
        (("--model", "no/such"), "--model no/such: no/such does not exist"),
        (("--what",), "--what"),
        (("--format", "xml"), "'xml'"),
    ],
)
def test_plan_refuses(arguments, says):
    refused("plan", *arguments, says=says)


@pytest.mark.parametrize("content", ["[1]", "{}", "x", '{"n_layer": null}', "\x00"])
def test_plan_names_a_config_that_is_none(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    refused("plan", "--model", tmp_path, says=str(tmp_path / "config.json"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--nope",), "'--nope'; see eval-ext --help"),
        (("aurok",), "aurok"),
        (("auroc",), "'PATH'; see eval-ext auroc --help"),
        (("auroc", "x", "--against"), "--against"),
        (("list", "everything"), "'everything'"),
    ],
)
def test_a_wrong_call_is_one_line(arguments, says):
    refused(*arguments, says=says)


def test_a_command_that_cannot_be_imported_is_one_line(monkeypatch):
    from importlib.metadata import EntryPoint

    broken = {"broken": EntryPoint("broken", "no_such_module:command", "eval_ext.commands")}
    monkeypatch.setitem(vars(main), "_points", broken)
    refused("broken", says="the command broken cannot be loaded: No module named 'no_such_module'")


# the real program


def run(*arguments, **options):
    program = Path(sys.executable).with_name("eval-ext")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def test_the_program_keeps_tables_and_messages_apart(tmp_path):
    logs = write_run(tmp_path) / "lm-eval"
    done = run("auroc", logs, "--format", "json", "--metrics", "mean_nll")
    assert done.returncode == 0
    assert len(json.loads(done.stdout)) == 24
    assert "labels of" in done.stderr and "scoring" not in done.stderr
    failed = run("auroc", logs, "--metrics", "mean_nl")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert len(failed.stderr.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="no /dev/full")
def test_a_reader_that_leaves_is_no_error():
    program = Path(sys.executable).with_name("eval-ext")
    done = subprocess.run(
        ["bash", "-c", f"{program} list --format json | true"], capture_output=True, text=True, timeout=60
    )
    assert "Error" not in done.stderr and "Traceback" not in done.stderr
