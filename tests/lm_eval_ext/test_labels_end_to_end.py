"""From an evaluation to scores with labels beside them: joined by key, and what does not join is counted and named."""

import json
import shutil

import numpy as np
import pytest
import torch

from metrics.choosing import choose
from metrics.plan import derive, make_plan
from metrics.store import open_store

LABEL = "label:exact_match@none"


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_to_files, demo_model):
    """The shipped tasks, once."""
    where = tmp_path_factory.mktemp("labels")
    arguments = {"pretrained": demo_model, "store": str(where / "store"), "raw": "logits"}
    run_to_files("hf-store", arguments, ["counting_gen", "counting_mc"], where / "out", limit=30, batch_size=8)
    return where


def samples(folder, task):
    (path,) = folder.rglob(f"samples_{task}_*.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_document_has_its_label(run):
    frame = open_store(run / "store").scores("standard")
    assert frame.attrs["unused_labels"] == {}
    for task, metric in [("counting_gen", "exact_match"), ("counting_mc", "acc")]:
        logged = {s["doc_id"]: s[metric] for s in samples(run / "out", task)}
        rows = frame[frame["task"] == task]
        assert dict(zip(rows["doc_id"], rows[f"label:{metric}@none"])) == logged
        assert len(rows) == 30
        assert {0.0, 1.0} == set(logged.values())
    assert frame["doc:cause"].notna().all()


@pytest.mark.parametrize("source", ["folder", "result", "samples"])
def test_labels_from_a_folder_a_result_or_a_sample_file(source, run):
    store = open_store(run / "store")
    where = {
        "folder": run / "out",
        "result": next((run / "out").rglob("results_*.json")),
        "samples": next((run / "out").rglob("samples_counting_gen_*.jsonl")),
    }[source]
    frame = store.scores("mean_nll", labels=where)
    usual = store.scores("mean_nll")
    rows = frame["task"] == "counting_gen"
    assert frame.loc[rows, LABEL].tolist() == usual.loc[rows, LABEL].tolist()
    assert frame.loc[rows, LABEL].notna().all()


def test_scores_from_the_store_equal_those_on_the_fly(run):
    """Every metric of free text, once from kept signals and once from the logits themselves."""
    store = open_store(run / "store")
    chosen = [c for c in choose("standard") if not any("option" in n for n in c.metric.needs)]
    frame = store.scores("standard").set_index(["task", "doc_id"])
    plan = make_plan("standard")
    fields = {"random", "prompt_length"}
    checked = 0
    for record in store.records(["logits", "tokens"]):
        if record.key.task != "counting_gen":
            continue
        start, stop = record.spans["answer"]
        raw = {"logits": record.signals["logits"][start:stop], "tokens": record.signals["tokens"][start:stop]}
        available = {**raw, **derive(plan.stage("logits"), raw), "token_count": torch.tensor(stop - start)}
        for choice in chosen:
            if set(choice.metric.needs) <= set(available) and choice.metric.name not in fields:
                expected = float(choice(available))
                got = frame.loc[("counting_gen", record.key.doc_id), choice.id]
                np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6, err_msg=choice.id)
                checked += 1
    assert checked >= 30 * 15


def test_the_chosen_option_is_the_models(run):
    frame = open_store(run / "store").scores("choice_probability")
    for sample in samples(run / "out", "counting_mc"):
        own = np.array([r[0][0] for r in sample["resps"]], dtype=float)
        row = frame[(frame["task"] == "counting_mc") & (frame["doc_id"] == sample["doc_id"])].iloc[0]
        assert row["option"] == own.argmax()
        assert (own.argmax() == sample["doc"]["answer"]) == sample["acc"]
        p = np.exp(own - own.max())
        assert row["choice_probability"] == pytest.approx(p.max() / p.sum(), rel=1e-5)


def test_no_samples_no_labels(tmp_path, run):
    shutil.copytree(run, tmp_path / "copy")
    store = open_store(tmp_path / "copy" / "store")
    for path in (tmp_path / "copy" / "out").rglob("samples_*"):
        path.unlink()
    with pytest.raises(ValueError, match="--log_samples"):
        store.scores("mean_nll", labels=tmp_path / "copy" / "out")


def test_a_damaged_result_file_beside_it_stops_nothing(tmp_path, run_to_files, demo_model, capsys):
    folder = tmp_path / "out" / demo_model.replace("/", "__")
    folder.mkdir(parents=True)
    (folder / "results_2020-01-01.json").write_text('{"config": {"hf_st')
    (folder / "results_2020-01-02.json").write_text("[1, 2]")
    arguments = {"pretrained": demo_model, "store": str(tmp_path / "s")}
    run_to_files("hf-store", arguments, ["counting_gen"], tmp_path / "out", limit=4, batch_size=4)
    assert open_store(tmp_path / "s").manifest["runs"][0]["results"]
    assert "next: eval-ext auroc" in capsys.readouterr().err


def test_an_output_path_that_is_a_json_file(tmp_path, run_to_files, demo_model):
    arguments = {"pretrained": demo_model, "store": str(tmp_path / "s")}
    run_to_files("hf-store", arguments, ["counting_gen"], tmp_path / "out" / "mine.json", limit=4, batch_size=4)
    store = open_store(tmp_path / "s")
    assert "mine_" in store.manifest["runs"][0]["results"][0]
    assert store.scores("mean_nll")[LABEL].notna().all()


def test_a_cache_hit_never_reaches_the_model_and_is_counted(tmp_path, run_to_files, demo_model):
    where = {"use_cache": str(tmp_path / "cache"), "batch_size": 4}
    plain = {"pretrained": demo_model, "store": str(tmp_path / "first")}
    run_to_files("hf-store", plain, ["counting_gen"], tmp_path / "one", limit=6, **where)
    assert len(open_store(tmp_path / "first")) == 6
    cached = {"pretrained": demo_model, "store": str(tmp_path / "second")}
    run_to_files("hf-store", cached, ["counting_gen"], tmp_path / "two", limit=10, **where)
    store = open_store(tmp_path / "second")
    assert sorted(k.doc_id for k in store.entries()) == [6, 7, 8, 9]
    frame = store.scores("mean_nll", labels=tmp_path / "two")
    assert frame[LABEL].notna().all()
    ((why, count),) = frame.attrs["unused_labels"].items()
    assert why.startswith("counting_gen: never reached the model (a harness cache hit)")
    assert count == 6
    assert samples(tmp_path / "one", "counting_gen") == samples(tmp_path / "two", "counting_gen")[:6]


def test_a_chosen_subset_of_documents_joins_right(tmp_path, run_to_files, demo_model, run):
    """With --samples the log holds the documents' own numbers, and the requests count from zero."""
    chosen = [17, 3, 11, 0, 25]
    arguments = {"pretrained": demo_model, "store": str(tmp_path / "s")}
    run_to_files(
        "hf-store", arguments, ["counting_gen"], tmp_path / "out", samples={"counting_gen": chosen}, batch_size=4
    )
    frame = open_store(tmp_path / "s").scores("sequence_nll")
    whole = open_store(run / "store").scores("sequence_nll")
    whole = whole[whole["task"] == "counting_gen"].set_index("doc_id")
    assert frame.attrs["unused_labels"] == {}
    assert len(frame) == 5
    assert frame["doc:id"].tolist() == sorted(chosen)  # the field of the document itself
    for _, row in frame.iterrows():
        assert row[LABEL] == whole.loc[row["doc:id"], LABEL]
        assert row["sequence_nll"] == pytest.approx(whole.loc[row["doc:id"], "sequence_nll"], abs=1e-5)


def test_an_empty_answer_has_no_score_and_a_reason(make_lm, toy_task, words_of, evaluate, reopened):
    lm = make_lm()
    docs = [{"text": words_of(3, i), "word": "w1"} for i in range(4)]
    task = toy_task(
        "empty",
        docs,
        output_type="generate_until",
        doc_to_target="{{word}}",
        generation_kwargs={"until": ["w"], "max_gen_toks": 4, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    evaluate(lm, [task])
    store = reopened(lm)
    frame = store.scores("mean_nll+sequence_nll+mean_entropy")
    for name in ("mean_nll", "sequence_nll", "mean_entropy"):
        assert frame[name].isna().all()
        assert frame.attrs["unscored"][name] == {"empty answer": 4}
    assert store.scores("mean_nll", span="generation")["mean_nll"].notna().all()


def test_samples_after_the_first_are_unlabelled(tmp_path, make_lm, toy_task, words_of, evaluate, reopened):
    lm = make_lm()
    docs = [{"text": words_of(3, i), "word": "w1"} for i in range(3)]
    task = toy_task(
        "repeated",
        docs,
        output_type="generate_until",
        doc_to_target="{{word}}",
        repeats=3,
        generation_kwargs={"until": [], "max_gen_toks": 4, "do_sample": True, "temperature": 1.0},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    results = evaluate(lm, [task])
    path = tmp_path / "samples_repeated_x.jsonl"
    path.write_text(
        "".join(json.dumps({k: s[k] for k in s if k != "arguments"}) + "\n" for s in results["samples"]["repeated"])
    )
    frame = reopened(lm).scores("mean_nll", labels=path)
    assert len(frame) == 9
    assert frame.loc[frame["sample"] == 0, LABEL].notna().all()
    assert frame.loc[frame["sample"] > 0, LABEL].isna().all()
    assert frame["mean_nll"].nunique() > 3
