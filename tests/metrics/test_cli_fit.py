"""`eval-ext fit` and `apply` as a user meets them: on small stores whose states give wrong answers away."""

import json

import fitting
import numpy as np
import pandas as pd
import pytest
from commands import ok, refused

from metrics.fitted.probe import load_probe
from metrics.stats import auroc

FIT = ("--method", "semantic_entropy_probe(at=last,c=0.1)", "--target", "wrong")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    fitting.judged(folder)
    return folder


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A store of the same model and another task's documents, and one of a larger model."""
    folder = tmp_path_factory.mktemp("other")
    fitting.judged(folder, seed=1, of="new {task}{i}")
    return folder


def fitted(folder, tmp_path, *more):
    arguments = ("fit", folder / "out", *FIT, "--out", tmp_path / "probe", "--scores-out", tmp_path / "oof.csv", *more)
    return ok(*arguments)


def test_a_probe_finds_the_layer_and_is_judged_out_of_fold(one, tmp_path):
    done = fitted(one, tmp_path)
    assert "semantic_entropy_probe(at=last,c=0.1) out-of-fold" in done.stdout
    assert "In-sample AUROC of the kept model" in done.stdout and "layer=2, c=0.1 (5 of 5)" in done.stdout
    probe = load_probe(tmp_path / "probe")
    assert probe.layer == 2 and probe.inputs.layers == (2,) and probe.width == fitting.WIDTH
    facts = probe.facts
    assert (facts["n"], facts["tasks"], facts["label"], facts["seed"]) == (60, ["t"], "acc@none", 0)
    frame = pd.read_csv(tmp_path / "oof.csv")
    name = "semantic_entropy_probe(at=last,c=0.1)@probe"
    assert list(frame) == ["task", "doc_id", "sample", name, "takes"] and len(frame) == 60
    wrong = np.array([json.loads(line)["acc"] == 0 for line in next((one / "out").glob("*.jsonl")).open()])
    assert auroc(frame[name], wrong).value == facts["auroc_out_of_fold"][0] > 0.85
    assert f"{facts['auroc_out_of_fold'][0]:.3f} [" in done.stdout


def test_applied_to_another_store_and_joined_in_one_table(one, other, tmp_path):
    fitted(one, tmp_path)
    done = ok("apply", tmp_path / "probe", other / "store", "--out", tmp_path / "s.csv")
    assert done.stdout == "" and "60 answers" in done.stderr and "in-sample" not in done.stderr
    table = ok("auroc", other / "out", "--scores", tmp_path / "s.csv", "--metrics", "mean_nll", "--format", "json")
    takes = {row["metric"]: row["compute"] for row in json.loads(table.stdout)}
    assert takes["mean_nll"] == "1 answer" and "1 answer + pass" in takes.values()
    rows = {row["metric"]: row for row in json.loads(table.stdout)}
    assert rows["semantic_entropy_probe(at=last,c=0.1)@probe"]["auroc"] > 0.85


def test_scores_of_the_documents_fitted_on_are_called_in_sample(one, tmp_path):
    fitted(one, tmp_path)
    done = ok("apply", tmp_path / "probe", one / "out", "--out", tmp_path / "s.jsonl", "--task", "t")
    assert "Warning: 60 of 60 answers are of documents that the probe was fitted on" in done.stderr


def test_two_runs_write_the_same_files(one, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        fitted(one, tmp_path / name, "--calibrate", "platt", "--seed", 3)
    for file in ("probe/model.safetensors", "probe/model.json", "oof.csv"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_calibrated_scores_are_probabilities(one, other, tmp_path):
    done = fitted(one, tmp_path, "--calibrate", "isotonic")
    assert "Calibrated (isotonic): out-of-fold probabilities of being wrong, Brier" in done.stdout
    ok("apply", tmp_path / "probe", other / "store", "--out", tmp_path / "s.csv")
    values = pd.read_csv(tmp_path / "s.csv").iloc[:, 3]
    assert values.between(0, 1).all() and values.nunique() > 2


def test_another_model_is_refused(one, tmp_path):
    fitted(one, tmp_path)
    fitting.judged(tmp_path / "o", weights="w1")
    says = "the probe of m (main, weights w0): semantic_entropy_probe(at=last,c=0.1) reads that model's insides"
    refused("apply", tmp_path / "probe", tmp_path / "o" / "store", "--out", tmp_path / "s.csv", says=says)
    ok("fit", one / "out", "--method", "entropy_lr(c=1)", "--out", tmp_path / "plain")
    arguments = ("apply", tmp_path / "plain", tmp_path / "o" / "store", "--out", tmp_path / "s.csv")
    refused(*arguments, says="pass --other-model")
    ok(*arguments, "--other-model")
    both = (one / "store", tmp_path / "o" / "store", "--transfer")
    refused("fit", *both, *FIT, says="reads the insides of one model")
    ok("fit", *both, "--method", "entropy_lr(c=1)")


def test_other_recorded_layers_are_refused(tmp_path):
    """As many numbers of other layers are not the inputs learnt from."""
    for name, layers in (("a", [0, 2, 4]), ("b", [1, 3, 4])):
        fitting.judged(tmp_path / name, of=f"{name}{{task}}{{i}}", layers=layers, lens=True)
    method = ("--method", "profile_lr(c=1)")
    ok("fit", tmp_path / "a" / "out", *method, "--out", tmp_path / "p")
    says = "recorded layers 1, 3, 4; entropy_profile was learnt from 0, 2, 4"
    refused("apply", tmp_path / "p", tmp_path / "b" / "store", "--out", tmp_path / "s.csv", says=says)
    assert not (tmp_path / "s.csv").exists()
    refused("fit", tmp_path / "a" / "out", tmp_path / "b" / "out", *method, "--transfer", says=says)


def test_a_metric_as_the_target(one):
    text = ok("fit", one / "out", "--method", "entropy_lr(c=1)", "--target", "mean_entropy").stdout
    assert "Learnt: high mean_entropy, at or above" in text and "Spearman with mean_entropy 0.9" in text


def test_a_confident_metric_is_learnt_where_it_is_low(one):
    text = ok("fit", one / "out", "--method", "entropy_lr(c=1)", "--target", "min_probability").stdout
    assert "Learnt: low min_probability, at or below" in text


def test_a_metric_without_a_direction_is_no_target(one):
    target = ("--target", "state_norm")
    refused("fit", one / "out", "--method", "entropy_lr(c=1)", *target, says="state_norm has no direction")


def test_boosting_over_metrics(one):
    text = ok("fit", one / "out", "--method", "boosting(depth=1,trees=5)", "--inputs", "mean_nll+mean_entropy").stdout
    assert "boosting(depth=1,trees=5) out-of-fold" in text and "Nothing chosen: depth=1, trees=5 (5 of 5)" in text


def test_aseu_learns_from_embeddings(one, tmp_path):
    rng = np.random.default_rng(0)
    task, doc = np.array(["t"] * 236), np.repeat(np.arange(59), 4)
    np.savez(tmp_path / "e.npz", task=task, doc_id=doc, embedding=rng.normal(size=(236, 5)) + 1)
    text = ok("fit", one / "out", "--method", "aseu(components=2)", "--embeddings", tmp_path / "e.npz").stdout
    assert "aseu(components=2) out-of-fold" in text and "t: 1 of 60 documents left out" in text


def test_transfer_between_parts_and_stores(one, other):
    text = ok("fit", one / "out", *FIT, "--transfer", "--split", "half", "--folds", 3).stdout
    assert "| t, half=0 " in text and "on t, half=1" in text and "Mean AUROC in-domain" in text
    rows = json.loads(ok("fit", one / "store", other / "store", *FIT, "--transfer", "--format", "json").stdout)
    assert {(r["fitted_on"], r["how"]) for r in rows} >= {(f"{one}/store/t", "out-of-fold")}
    assert all(r["auroc"] > 0.8 for r in rows if r["how"] != "as it is")


def test_several_tasks_are_pooled_only_when_named(tmp_path):
    fitting.judged(tmp_path, tasks=("t", "u"))
    arguments = ("fit", tmp_path / "out", *FIT)
    refused(*arguments, says="several tasks: name one, or pool them by --task t --task u")
    text = ok(*arguments, "--task", "t", "--task", "u").stdout
    assert "### t, acc@none" in text and "### u, acc@none" in text and "### Macro average over 2 tasks" in text


def test_documents_of_one_group_stay_together(one):
    arguments = ("fit", one / "out", *FIT, "--layers", "2", "--group")
    text = ok(*arguments, "block", "--folds", 3).stdout
    assert "3 stratified folds of 20 groups" in text and "resampling groups" in text
    refused(*arguments, "half", says="2 groups with right answers among 60 documents; 5 folds need 10 of each class")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--method", "saplm"], "unknown method 'saplm'. Did you mean 'saplma'"),
        (["--method", "saplma(at=mean)"], "hidden_mean was not recorded; record with signals=hidden_mean"),
        (["--method", "lookback_lr"], "lookback_ratio was not recorded; record with signals=lookback_ratio"),
        (["--method", "saplma", "--layers", "1"], "layer 1 is not recorded; the store has 0, 2, 4"),
        (["--method", "saplma", "--folds", "30"], "30 folds need 60 of each class"),
        (["--method", "saplma", "--group", "colour"], "--group colour: the logged documents of t have the fields "),
        (["--method", "saplma", "--transfer"], "--transfer: one task of one store"),
        (["--method", "saplma", "--split", "half"], "--split: give --transfer too"),
        (["--method", "saplma", "--transfer", "--out", "p"], "leave --out and --scores-out out"),
        (["--method", "saplma", "--scores-out", "p.txt"], "the ending must be .csv or .jsonl"),
        (["--method", "saplma", "--target", "standard"], "--target standard: that is"),
        (["--method", "aseu"], "give --embeddings FILE.npz"),
        (["--method", "aseu", "--target", "mean_nll"], "learns from embeddings of samples"),
        (["--method", "saplma", "--task", "u"], "no labelled document is left by --task, --label and --filter"),
    ],
)
def test_refused(one, more, says):
    refused("fit", one / "out", *more, says=says)


def test_refused_paths(one, tmp_path):
    refused("fit", one / "out", one / "store", *FIT, says="2 paths: one is fitted on, unless --transfer")
    refused("apply", tmp_path, one / "store", "--out", tmp_path / "s.csv", says="is not a probe")
    refused("apply", tmp_path, one / "store", "--out", tmp_path / "s.txt", says="the ending must be .csv or .jsonl")
    fitted(one, tmp_path)
    refused("fit", one / "out", *FIT, "--out", tmp_path / "probe", says="it holds a probe already")
    arguments = ("apply", tmp_path / "probe", one / "store", "--out", tmp_path / "s.csv")
    refused(*arguments, "--task", "u", says="--task u: not in")
