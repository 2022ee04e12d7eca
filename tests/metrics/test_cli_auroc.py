"""`auroc` as a user meets it: on a small store, with lm-eval's files beside it."""

import io
import json
import re
import shutil
import sys

import numpy as np
import pandas as pd
import pytest
from commands import call, ok, refused
from judged_run import GEN, write_run

from metrics import open_store, shard


@pytest.fixture
def out(tmp_path):
    return write_run(tmp_path)


@pytest.fixture
def logs(out):
    return out / "lm-eval"


def without_samples(logs):
    for file in logs.rglob("samples_*"):
        file.unlink()


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
