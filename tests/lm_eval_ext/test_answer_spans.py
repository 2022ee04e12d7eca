"""A task's own filters, from an evaluation to scores of the answer's parts and clusters of samples."""

import csv
import itertools
import json
import math

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from metrics.answers import NOT_GENERATED, UNMATCHED
from metrics.cases import Way
from metrics.cli import main
from metrics.figures import tokens
from metrics.fitted.estimators import estimators
from metrics.fitted.inputs import Inputs
from metrics.fitted.probe import Probe, digests, save_probe, store_facts
from metrics.fitted.reading import Asked, read_rows
from metrics.store import open_store
from tasks import counting

TAKE = {"function": "take_first"}
FILTERS = [
    {"name": "number", "filter": [{"function": "regex", "regex_pattern": r"(\d+)\)"}, TAKE]},
    {"name": "bracket", "filter": [{"function": "regex", "regex_pattern": r"\d+(\))"}, TAKE]},
]
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_to_files, demo_model, toy_task):
    """Twenty documents, three samples each: most answers are a number and a bracket."""
    where = tmp_path_factory.mktemp("answers")
    lines = (counting.demo_model_folder().parent / "test.jsonl").read_text().splitlines()[:20]
    documents = [{**d, "words": " ".join(d["words"])} for d in map(json.loads, lines)]
    shared = {"doc_to_text": "Type: {{category}}\nList: [{{words}}]\nAnswer: (", "target_delimiter": ""}
    sampled = {"until": ["\n"], "max_gen_toks": 3, "do_sample": True, "temperature": 2.0}
    asked = toy_task(
        "asked",
        documents,
        **shared,
        output_type="generate_until",
        doc_to_target="{{answer}}",
        repeats=3,
        generation_kwargs=sampled,
        filter_list=FILTERS,
        metric_list=[EXACT],
    )
    chosen = toy_task(
        "chosen",
        documents,
        **shared,
        output_type="multiple_choice",
        doc_to_choice=[str(n) for n in range(11)],
        doc_to_target="answer",
        metric_list=[{**EXACT, "metric": "acc"}],
    )
    arguments = {"pretrained": demo_model, "store": str(where / "store")}
    run_to_files("hf-store", arguments, [asked, chosen], where / "out", batch_size=16)
    return where


def told(*arguments):
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def rows_of(store, **options):
    frame = store.scores("mean_nll+discrete_semantic_entropy", **options)
    return frame.set_index(["task", "doc_id", "sample"]).loc["asked"]


def test_token_metrics_of_the_match_and_of_what_stands_before_it(run):
    """Against the recorded log-probabilities and the ids of digits and brackets themselves."""
    store = open_store(run / "store")
    parts = {
        ("number", "exact"): rows_of(store, span="exact")["mean_nll"],
        ("bracket", "exact"): rows_of(store, span="exact", filter="bracket")["mean_nll"],
        ("bracket", "reasoning"): rows_of(store, span="reasoning", filter="bracket")["mean_nll"],
    }
    seen = 0
    for record in store.records(["logprob", "tokens"]):
        if record.key.task != "asked":
            continue
        at = record.key.doc_id, record.key.occurrence
        number, mark, _ = record.answer.partition(")")
        if mark and number.isdigit() and len(number) == 1:
            first, second = (-record.signals["logprob"][:2]).tolist()
            assert parts["number", "exact"][at] == pytest.approx(first)
            assert parts["bracket", "exact"][at] == pytest.approx(second)
            assert parts["bracket", "reasoning"][at] == pytest.approx(first)
            seen += 1
        elif not any(c.isdigit() for c in record.answer):
            assert math.isnan(parts["number", "exact"][at])
    assert seen > 20


def test_samples_are_one_answer_where_the_filter_reads_the_same(run):
    store = open_store(run / "store")
    answers = {(k.doc_id, k.occurrence): e["answer"] for k, e in store.entries().items() if k.task == "asked"}
    brackets = rows_of(store, filter="bracket")["discrete_semantic_entropy"]
    numbers = rows_of(store)["discrete_semantic_entropy"]
    for doc in range(20):
        texts = [answers[doc, sample] for sample in range(3)]
        read = [text.partition(")")[0] if ")" in text and text[0].isdigit() else None for text in texts]
        if None in read or any(not number.isdigit() for number in read):
            continue
        counts = [read.count(number) for number in set(read)]
        assert numbers[doc, 0] == pytest.approx(-sum(c / 3 * math.log(c / 3) for c in counts), abs=1e-6)
        assert brackets[doc, 0] == pytest.approx(0)


def test_what_could_not_be_mapped_is_counted(run):
    store = open_store(run / "store")
    frame = store.scores("mean_nll", span="exact")
    unmapped = frame.groupby("task")["unmapped"].value_counts().to_dict()
    texts = [e["answer"] for k, e in store.entries().items() if k.task == "asked"]
    lost = sum(not any(a.isdigit() and b == ")" for a, b in itertools.pairwise(text)) for text in texts)
    assert 0 < lost < 30
    assert unmapped == {("asked", UNMATCHED): lost, ("chosen", NOT_GENERATED): 20}
    assert frame.attrs["unscored"]["mean_nll"] == {UNMATCHED: lost, NOT_GENERATED: 20}
    assert "unmapped" not in store.scores("mean_nll")
    said = told("score", run / "store", "--metrics", "mean_nll", "--span", "exact", "--out", run / "scores.csv").stderr
    assert f"{lost} of 80 unscored, {UNMATCHED}: mean_nll" in said


def test_each_verdict_is_scored_with_its_own_filter(run):
    store = open_store(run / "store")
    arguments = (
        "auroc",
        run / "out",
        "--metrics",
        "mean_nll",
        "--task",
        "asked",
        "--span",
        "exact",
        "--format",
        "json",
    )
    rows = json.loads(told(*arguments).stdout)
    by_filter = {row["table"].split("@")[1]: row for row in rows if row["metric"] == "mean_nll"}
    first = rows_of(store, span="exact").xs(0, level="sample")
    scored = first["mean_nll"].notna()
    assert by_filter["number"]["n"] == scored.sum()
    wrong = 1 - first["label:exact_match@number"]
    assert by_filter["number"]["auroc"] == pytest.approx(roc_auc_score(wrong[scored], first["mean_nll"][scored]))
    notes = next(row["notes"] for row in rows if row["table"].endswith("@number"))
    lost = int((~scored).sum())
    assert (f"In {lost} of 20 answers there is nothing to score: {UNMATCHED}." in notes) == (lost > 0)


def test_labels_from_a_table_are_of_the_first_filter(run):
    with (run / "mine.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["task", "doc_id", "correct"], *(["asked", doc, doc % 2] for doc in range(20))])
    store = open_store(run / "store")
    ours = rows_of(store, span="exact", labels=run / "mine.csv")["mean_nll"]
    assert ours.equals(rows_of(store, span="exact")["mean_nll"])
    told("auroc", run / "store", "--labels", run / "mine.csv", "--metrics", "mean_nll", "--span", "exact")


def test_commands_look_at_the_same_tokens(run):
    page = run / "page.html"
    told("explain", run / "store", "--task", "asked", "--doc", 0, "--span", "exact", "--out", page)
    answer = open_store(run / "store").spanned("exact")
    key = next(k for k in answer.entries() if k[:4] == ("asked", 0, 0, 0))
    spans = answer.entries()[key]["spans"]
    marked = spans["exact"].stop - spans["exact"].start if "exact" in spans else 0
    assert page.read_text().count('class="t exact"') == marked
    out = told("grid", run / "out", "--metrics", "nll", "--poolings", "mean", "--task", "asked", "--span", "exact")
    assert "asked, exact_match@number" in out.stdout
    told("plot", run / "out", "curves", "--task", "asked", "--span", "exact", "--out", run / "figures")
    out = told("compare", run / "store", run / "store", "--metrics", "mean_nll", "--task", "asked", "--span", "exact")
    assert "mean_nll" in out.stdout


def test_a_filter_that_is_not_there(run):
    result = CliRunner().invoke(main, ["score", str(run / "store"), "--span", "exact", "--filter", "nmber"])
    assert result.exit_code == 1
    assert "filter 'nmber' is not known; the results have bracket, number" in result.output


def test_each_verdict_is_drawn_with_its_own_filter(run, tmp_path, monkeypatch):
    seen, curves = {}, tokens.curves

    def spy(title, signal, unit, values, wrong):
        seen[title.split("@")[1]] = values
        return curves(title, signal, unit, values, wrong)

    monkeypatch.setattr(tokens, "curves", spy)
    out = ("--out", tmp_path, "--signal", "entropy", "--metrics", "mean_nll")
    told("plot", run / "out", "curves", "--task", "asked", "--span", "exact", *out)
    store = open_store(run / "store")
    assert set(seen) == {"number", "bracket"}
    for name, values in seen.items():
        expected = {}
        for record in store.spanned("exact", filter=name).records(["entropy"]):
            if record.key.task == "asked" and record.key.occurrence == 0:
                start, stop = record.spans.get("exact", (0, 0))
                expected[record.key] = record.signals["entropy"][start:stop].tolist()
        assert {key: value.tolist() for key, value in values.items()} == expected
    both = [key for key, value in seen["number"].items() if value.size]
    assert any(seen["number"][key].tolist() != seen["bracket"][key].tolist() for key in both)


def nll_of(run, name):
    return rows_of(open_store(run / "store"), span="exact", filter=name)["mean_nll"]


@pytest.mark.parametrize(("name", "way"), [("number", Way()), ("bracket", Way(filter="bracket"))])
def test_a_probe_learns_from_the_span_of_its_verdicts_filter(run, name, way):
    asked = Asked(lambda case: case.verdict == f"exact_match@{name}", "exact", target="mean_nll")
    (rows,) = read_rows(open_store(run / "store"), Inputs("", (), (), ("mean_nll",)), None, asked)
    expected = nll_of(run, name).xs(0, level="sample").to_numpy()
    assert rows.way == way and not all(math.isnan(v) for v in expected)
    assert rows.x[:, 0] == pytest.approx(expected, nan_ok=True)
    assert rows.values == pytest.approx(expected, nan_ok=True)


def test_a_probe_scores_the_span_of_its_filter(run):
    """A probe that gives the odds of its one input back, the mean NLL."""
    rows = np.random.default_rng(0).normal(size=(50, 1))
    params = estimators()["logistic"].fit(rows, rows[:, 0] > 0, {}, 0)
    facts = store_facts(open_store(run / "store").manifest)
    inputs, trained = Inputs("", (), (), ("mean_nll",)), digests([])
    probe = Probe("p", "logistic", inputs, None, "exact", "none", facts, True, 1, params, trained, filter="bracket")
    save_probe(probe, run / "probe")
    told("apply", run / "probe", run / "store", "--task", "asked", "--out", run / "applied.csv")
    found = pd.read_csv(run / "applied.csv").set_index(["doc_id", "sample"])["p@probe"]
    expected = nll_of(run, "bracket")
    assert found.to_numpy() == pytest.approx(probe.scores(expected.to_numpy()[:, None]), nan_ok=True)
    assert (found.notna() == expected.notna()).all() and found.notna().sum() > 20
    assert not np.allclose(found, probe.scores(nll_of(run, "number").to_numpy()[:, None]), equal_nan=True)
