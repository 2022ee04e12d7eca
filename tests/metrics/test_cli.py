"""The commands as a user meets them: on a small store written here, with lm-eval's files beside it."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from commands import call, ok, refused

from metrics import open_store, shard
from metrics.cli import main
from metrics.record import Key, Record, Span
from metrics.writer import Writer

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
        "plan",
        "plot",
        "replay",
        "samples",
        "score",
        "show",
    ),
    *("store", "sweep", "table", "tasks", "threshold"),
)
STAMP = "2026-01-02T03-04-05.678901"
GEN, MC = 60, 40


def record(task, doc_id, request=0, *, rng, kind="generate_until", answer="text", tokens=4):
    return Record(
        key=Key(task, doc_id, request, 0),
        kind=kind,
        prompt_count=10 + doc_id % 7,
        token_count=tokens,
        spans={"answer": Span(0, max(0, tokens - 1)), "generation": Span(0, tokens)},
        answer=answer,
        prompt_hash=f"p{doc_id}",
        doc_hash=f"{task}{doc_id}",
        request_hash=f"{task}{doc_id}{request}",
        chars=5 + request,
        bytes=5 + request,
        signals={
            "logprob": torch.tensor(-rng.random(tokens), dtype=torch.float32),
            "entropy": torch.tensor(rng.random(tokens), dtype=torch.float32),
        },
    )


def sample(task, doc_id, verdicts, filter_="none", **doc):
    return {
        "doc_id": doc_id,
        "doc": {"question": f"q{doc_id}", "cause": "odd" if doc_id % 2 else "even", **doc},
        "filter": filter_,
        "metrics": list(verdicts),
        "doc_hash": f"{task}{doc_id}",
        **verdicts,
    }


@pytest.fixture
def out(tmp_path):
    """A folder with `store`, and `lm-eval` as its --output_path: tasks gen (two filters, F1) and mc (acc, acc_norm)."""
    rng = np.random.default_rng(0)
    store, results = tmp_path / "store", tmp_path / "lm-eval" / "model" / f"results_{STAMP}.json"
    results.parent.mkdir(parents=True)
    manifest = {"model": "toy", "architecture": "Toy", "dtype": "float32", "device": "cpu", "signals": {"logprob": {}}}
    writer = Writer(store, {"run_id": "r1", **manifest})
    lines = {"gen": [], "mc": []}
    for i in range(GEN):
        writer.add(record("gen", i, rng=rng, tokens=3 + i % 5))
        wrong = bool(rng.random() < 0.4)
        strict = {"exact_match": float(not wrong), "f1": float(rng.random())}
        lines["gen"].append(sample("gen", i, strict, "strict-match", answer=i))
        lines["gen"].append(sample("gen", i, {"exact_match": float(rng.random() < 0.7)}, "flexible", answer=i))
    for i in range(MC):
        for option in range(3):
            answer = [-float(rng.random()) * 5, False]
            writer.add(record("mc", i, option, rng=rng, kind="loglikelihood", answer=answer, tokens=2 + option))
        verdicts = {"acc": float(rng.random() < 0.6), "acc_norm": float(rng.random() < 0.6), "words": [3.0, 4.0]}
        lines["mc"].append(sample("mc", i, verdicts, answer=f"{i}"))
    writer.close()
    open_store(store).link(results, "r1")
    results.write_text(json.dumps({"config": {"hf_store": {"store": str(store), "run_id": "r1"}}}))
    for task, rows in lines.items():
        file = results.parent / f"samples_{task}_{STAMP}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.fixture
def logs(out):
    return out / "lm-eval"


def without_samples(logs):
    for file in logs.rglob("samples_*"):
        file.unlink()


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


# show and score


def test_show_counts_what_is_there(out):
    text = ok("show", out / "store").stdout
    assert "toy (Toy, float32, cpu)" in text and f"{GEN + 3 * MC} records" in text and "ended" in text
    rows = json.loads(ok("show", out / "store", "--format", "json").stdout)
    assert [(r["task"], r["records"]) for r in rows] == [("gen", GEN), ("mc", 3 * MC)]


def test_show_verify_tells_whole_from_damaged(out):
    store = out / "store"
    assert "agrees with its checksum" in ok("show", store, "--verify").stderr
    (data,) = (store / "shards").glob("*.safetensors")
    content = bytearray(data.read_bytes())
    content[-1] ^= 1
    data.write_bytes(content)
    result = call("show", store, "--verify")
    assert result.exit_code == 1
    assert f"Damaged: {data}" in result.stderr and "damaged shards: 1" in result.stderr.splitlines()[-1]


def test_show_an_empty_store(tmp_path):
    manifest = {"run_id": "r", "model": "m", "architecture": "A", "dtype": "d", "device": "cpu", "signals": {}}
    Writer(tmp_path / "s", manifest).close()
    assert "0 records" in ok("show", tmp_path / "s").stdout
    assert json.loads(ok("show", tmp_path / "s", "--format", "json").stdout) == []
    refused("auroc", tmp_path / "s", says="names no result file")


@pytest.mark.parametrize("command", ["show", "score"])
def test_what_is_no_store_is_named(tmp_path, command):
    refused(command, tmp_path / "nothing", says=f"{tmp_path / 'nothing'} is not a store")


def test_score_writes_the_frame_in_every_form(out):
    store = out / "store"
    chosen = ("score", store, "--metrics", "mean_nll+answer_length+choice_entropy")
    frame = open_store(store).scores("mean_nll+answer_length+choice_entropy")
    printed = ok(*chosen)
    tables = {"stdout": pd.read_csv(io.StringIO(printed.stdout))}
    assert f"{GEN} of {GEN + MC} unscored, not multiple choice: choice_entropy" in printed.stderr
    for ending, read in {
        "csv": pd.read_csv,
        "jsonl": lambda p: pd.read_json(p, lines=True),
        "parquet": pd.read_parquet,
    }.items():
        file = out / "new folder" / f"scores.{ending}"
        result = ok(*chosen, "--out", file)
        assert result.stdout == "" and f"wrote {file}" in result.stderr
        tables[ending] = read(file)
    for table in tables.values():
        assert list(table.columns) == list(frame.columns)
        assert np.allclose(table["mean_nll"], frame["mean_nll"], rtol=1e-12)
        assert np.array_equal(table["label:acc@none"], frame["label:acc@none"], equal_nan=True)


def test_score_takes_labels_from_a_file(out):
    (out / "l.csv").write_text("task,doc_id,correct\ngen,0,1\ngen,1,0\n")
    text = ok("score", out / "store", "--metrics", "mean_nll", "--labels", out / "l.csv").stdout
    assert pd.read_csv(io.StringIO(text))["label:correct@l.csv"].notna().sum() == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "x.xlsx"), "--out x.xlsx: the ending must be .csv, .jsonl or .parquet"),
        (("--out", "/proc/none/x.csv"), "/proc/none"),
        (("--out", "."), "'.'"),
        (("--metrics", "perplexitty"), "Did you mean 'perplexity'?"),
        (("--labels", "no-labels.csv"), "no-labels.csv does not exist"),
        (("--span", "prompt"), "'prompt'"),
    ],
)
def test_score_refuses(out, arguments, says):
    refused("score", out / "store", *arguments, says=says)


# auroc


def titles(text):
    return re.findall(r"^### (.*)$", text, flags=re.M)


ALL = [
    "gen, exact_match@flexible",
    "mc, acc@none",
    "mc, acc_norm@none",
    "gen, exact_match@strict-match",
    "gen, f1@strict-match",
]


def test_auroc_finds_the_store_and_makes_a_table_for_each_verdict(logs):
    result = ok("auroc", logs)
    assert sorted(titles(result.stdout)) == sorted([*ALL, "Macro average over 2 tasks"])
    assert "words@none: not one number a document" in result.stderr
    assert result.stdout.startswith("###")


def test_every_way_to_name_the_same_run_gives_the_same_tables(out, logs):
    expected = ok("auroc", logs).stdout
    results = next(logs.rglob("results_*.json"))
    for arguments in ([results], [out / "store"], [out / "store", "--samples", logs], [out], [logs, "--labels", logs]):
        assert ok("auroc", *arguments).stdout == expected


def test_csv_holds_every_number_of_the_frame(out, logs):
    text = ok("auroc", logs, "--format", "csv", "--metrics", "mean_nll", "--task", "gen").stdout
    table = pd.read_csv(io.StringIO(text))
    row = table[(table["table"] == "gen, exact_match@strict-match") & (table["metric"] == "mean_nll")].iloc[0]
    frame = open_store(out / "store").scores("mean_nll")
    label = frame["label:exact_match@strict-match"]
    assert (row["n"], row["wrong"]) == (GEN, (label == 0).sum())
    assert row["error_rate"] == pytest.approx((label == 0).sum() / GEN)
    from sklearn.metrics import roc_auc_score

    has = label.notna()
    assert row["auroc"] == pytest.approx(roc_auc_score(label[has] == 0, frame["mean_nll"][has]), abs=1e-12)


def test_baselines_are_there_unasked(logs):
    rows = json.loads(ok("auroc", logs, "--format", "json", "--metrics", "mean_nll").stdout)
    for title in {row["table"] for row in rows}:
        names = {row["metric"] for row in rows if row["table"] == title}
        assert names == {"mean_nll", "answer_length", "prompt_length", "random"}
    assert all(row.get("notes") for row in rows)


def test_latex_and_out(out, logs):
    file = out / "deep" / "table.tex"
    result = ok("auroc", logs, "--format", "latex", "--out", file, "--metrics", "mean_nll")
    assert result.stdout == "" and f"wrote {file}" in result.stderr
    text = file.read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 6


def test_one_names_a_verdict_a_filter_or_a_task(logs):
    assert titles(ok("auroc", logs, "--filter", "strict-match", "--label", "exact_match").stdout) == [ALL[3]]
    assert titles(ok("auroc", logs, "--label", "acc").stdout) == ["mc, acc@none"]
    assert "Macro" not in ok("auroc", logs, "--task", "mc").stdout
    assert len(titles(ok("auroc", logs, "--task", "mc", "--task", "gen").stdout)) == 6


def test_an_empty_selection_says_what_there_is(logs):
    refused("auroc", logs, "--task", "mcc", says="mc, acc_norm@none")
    refused("auroc", logs, "--task", "mc", "--filter", "strict-match", says="leave nothing")


def test_graded_labels_are_correlated_or_cut(logs):
    assert "Spearman" in ok("auroc", logs, "--label", "f1").stdout
    text = ok("auroc", logs, "--label", "f1", "--threshold", 0.5).stdout
    assert titles(text) == ["gen, f1@strict-match >= 0.5"] and "AUROC" in text


def test_acc_norm_describes_the_option_that_it_judges(out, logs):
    options = ("--metrics", "mean_nll", "--format", "csv", "--label", "acc_norm")
    table = pd.read_csv(io.StringIO(ok("auroc", logs, *options).stdout))
    frame = open_store(out / "store").scores("mean_nll", norm="chars")
    frame = frame[frame["task"] == "mc"]
    from sklearn.metrics import roc_auc_score

    expected = roc_auc_score(frame["label:acc_norm@none"] == 0, frame["mean_nll"])
    assert table.set_index("metric").loc["mean_nll", "auroc"] == pytest.approx(expected, abs=1e-12)
    plain = open_store(out / "store").scores("mean_nll")
    assert not np.allclose(plain[plain["task"] == "mc"]["mean_nll"], frame["mean_nll"])


def test_errors_by_a_field(logs):
    text = ok("auroc", logs, "--label", "exact_match", "--filter", "flexible", "--errors-by", "cause").stdout
    title = "gen, exact_match@flexible"
    assert titles(text) == [title, *(f"{title}, wrong answers with cause={c}" for c in ("even", "odd"))]


def test_errors_by_leaves_graded_labels_whole_and_says_so(logs):
    result = ok("auroc", logs, "--label", "f1", "--errors-by", "cause")
    assert len(titles(result.stdout)) == 1 and "graded, so no table for each cause" in result.stderr


def test_errors_by_an_unknown_field_names_the_known(logs):
    refused("auroc", logs, "--errors-by", "reason", says="no such field; they have answer, cause, question")


def test_against_takes_a_metric_however_it_is_written(logs):
    options = ("--metrics", "min_k", "--task", "gen", "--label", "exact_match", "--filter", "flexible")
    for against in ("mean_nll", "min_k(share=0.2)", "min_k( share = 0.50 )"):
        assert "Gain: over" in ok("auroc", logs, *options, "--against", against).stdout
    refused("auroc", logs, "--against", "standard", says="--against standard: that is")
    refused("auroc", logs, "--against", "mean_nl", says="Did you mean 'mean_nll'?")
    against = ok("auroc", logs, "--task", "gen", "--against", "choice_entropy").stdout
    assert "choice_entropy has no score here" in against


def test_bootstrap_adds_intervals(logs):
    plain = ok("auroc", logs, "--task", "gen", "--metrics", "mean_nll", "--format", "csv").stdout
    more = ok("auroc", logs, "--task", "gen", "--metrics", "mean_nll", "--format", "csv", "--bootstrap", "50").stdout
    assert set(pd.read_csv(io.StringIO(more)).columns) - set(pd.read_csv(io.StringIO(plain)).columns) == {
        f"{name}_{end}" for name in ("average_precision", "prr", "aurc") for end in ("lower", "upper")
    }


def test_a_metric_that_was_not_recorded_is_said_not_dropped(logs):
    text = ok("auroc", logs, "--metrics", "mean_nll+margin", "--task", "gen").stdout
    assert "No score of these documents, signal 'top_logprobs' was not recorded: margin." in text


@pytest.mark.parametrize("name", ["labels.csv", "labels.jsonl"])
def test_labels_from_a_file(out, logs, name):
    rows = [{"task": "gen", "doc_id": i, "correct": i % 3 == 0} for i in range(GEN)] + [
        {"task": "gen", "doc_id": 999, "correct": True},
        {"task": "other", "doc_id": 1, "correct": True},
    ]
    if name.endswith("csv"):
        pd.DataFrame(rows).to_csv(out / name, index=False)
    else:
        (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    without_samples(logs)
    for path in (logs, out / "store"):
        result = ok("auroc", path, "--labels", out / name)
        assert titles(result.stdout) == [f"gen, correct@{name}"]
        assert "error rate 0.667" in result.stdout
        assert "1 labels without a record: task 'other' is not in the store" in result.stderr
        assert "1 labels without a record: gen: never reached the model" in result.stderr


def test_without_samples_the_remedy_is_named(out, logs):
    without_samples(logs)
    for path in (logs, out / "store"):
        refused("auroc", path, says="--log_samples, or pass --labels FILE")


def test_a_store_without_its_results_wants_samples(out, logs):
    moved = logs.rename(out / "elsewhere")
    refused("auroc", out / "store", says="is gone, so right and wrong are not known; pass --samples OUT")
    assert "###" in ok("auroc", out / "store", "--samples", moved).stdout


def test_a_moved_store_is_asked_for(out, logs):
    shutil.move(out / "store", out / "moved")
    refused(
        "auroc", logs, says=f"{out / 'store'}, which is not there; give its new place: eval-ext auroc STORE --samples"
    )
    assert "###" in ok("auroc", out / "moved", "--samples", logs).stdout


def test_results_of_another_model_are_named(out, logs):
    next(logs.rglob("results_*.json")).write_text('{"config": {"model": "hf"}}')
    refused("auroc", logs, says="was not made with --model hf-store")


def test_a_resumed_store_is_labelled_from_all_its_runs(out, logs):
    first = next(logs.rglob("results_*.json"))
    second = first.with_name("results_2026-02-02T03-04-05.678901.json")
    second.write_text(first.read_text())
    mc = next(logs.rglob("samples_mc_*"))
    mc.rename(mc.with_name("samples_mc_2026-02-02T03-04-05.678901.jsonl"))
    manifest = json.loads((out / "store" / "manifest.json").read_text())
    manifest["runs"].append({**manifest["runs"][0], "run_id": "r2", "results": [str(second)]})
    shard.write_json(out / "store" / "manifest.json", manifest)
    assert {t.split(",")[0] for t in titles(ok("auroc", out / "store").stdout)} >= {"gen", "mc"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--metrics", "entropyy"), "Did you mean"),
        (("--labels", "no-such.csv"), "no-such.csv does not exist"),
        (("--samples", "no-such"), "no-such does not exist"),
        (("--samples", "a", "--labels", "b"), "--samples a and --labels b: give one"),
        (("--threshold", "high"), "'high'"),
        (("--out", "/proc/none/t.md"), "/proc/none"),
        (("--format", "html"), "'html'"),
    ],
)
def test_auroc_refuses(logs, arguments, says):
    refused("auroc", logs, *arguments, says=says)


def test_auroc_of_nothing(tmp_path):
    refused("auroc", tmp_path / "none", says="does not exist; give lm-eval's --output_path or a store")
    refused("auroc", tmp_path, says="holds no lm-eval result file")
    (tmp_path / "notes.txt").write_text("x")
    refused("auroc", tmp_path / "notes.txt", says="neither a store nor lm-eval's result file")
    (tmp_path / "results_x.json").write_text("{")
    refused("auroc", tmp_path, says="is not a JSON file")


def test_a_sample_file_is_not_the_result_file(logs):
    refused("auroc", next(logs.rglob("samples_gen*")), says="give its folder")


def test_labels_of_another_run_match_nothing(out):
    (out / "l.csv").write_text("task,doc_id,correct\nother,0,1\n")
    refused("auroc", out / "store", "--labels", out / "l.csv", says="no label belongs to a record")


def test_a_damaged_shard_is_one_warning_and_a_counted_gap(out, logs):
    (index,) = (out / "store" / "shards").glob("*.jsonl")
    index.with_suffix(".safetensors").write_bytes(b"short")
    result = call("auroc", logs)
    assert result.exit_code == 1
    assert result.stderr.count("Warning: ") == 1 and result.stderr.count("Error: ") == 1


def test_plots_are_written_and_named(out, logs):
    folder = out / "figures"
    result = ok("auroc", logs, "--metrics", "mean_nll+mean_entropy", "--plot", folder, "--label", "acc")
    assert [p.name for p in folder.iterdir()] == ["mc_acc_none.png"]
    assert f"wrote {folder / 'mc_acc_none.png'}" in result.stderr


def test_plots_without_matplotlib_are_one_line(out, logs, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = call("auroc", logs, "--plot", out / "figures")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == "Error: --plot needs matplotlib: pip install 'eval-ext[plots]'"


def test_score_without_pyarrow_is_one_line(out, monkeypatch):
    def missing(*_, **__):
        raise ImportError("no pyarrow")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", missing)
    refused("score", out / "store", "--metrics", "mean_nll", "--out", out / "x.parquet", says="needs pyarrow")


def test_a_command_that_cannot_be_imported_is_one_line(monkeypatch):
    from importlib.metadata import EntryPoint

    broken = {"broken": EntryPoint("broken", "no_such_module:command", "eval_ext.commands")}
    monkeypatch.setitem(vars(main), "_points", broken)
    refused("broken", says="the command broken cannot be loaded: No module named 'no_such_module'")


# the real program


def run(*arguments, **options):
    program = Path(sys.executable).with_name("eval-ext")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)


def test_the_program_keeps_tables_and_messages_apart(out, logs):
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
