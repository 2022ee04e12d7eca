"""`plot` and `explain` as a user calls them, on a store with every kind of signal."""

import re
from dataclasses import replace

import pandas as pd
import pytest
import stores
import torch
from commands import ok, refused

from metrics.figures import tokens

LABELS = "doc_id,correct,task\n" + "".join(f"{i},{int(i % 3 > 0)},t\n" for i in range(24))
AXES = {
    "entropy": ["token"],
    "logprob": ["token"],
    "lens_entropy": ["layer", "token"],
    "rollout_here": ["token"],
    "attention_received": ["layer", "key"],
}
COST = {"rollout_here": "influence"}


def record(i, **more):
    made = torch.Generator().manual_seed(i)
    n = 3 + i % 4
    held = {
        "tokens": torch.arange(n, dtype=torch.int32),
        "prompt_tokens": torch.arange(3, dtype=torch.int32),
        "entropy": torch.rand(n, generator=made),
        "logprob": -torch.rand(n, generator=made),
        "lens_entropy": torch.rand(3, n, generator=made),
        "rollout_here": torch.rand(n, generator=made),
        "attention_received": torch.rand(2, 3 + n, generator=made),
    }
    return stores.record(i, tokens=n, signals=held, **more)


@pytest.fixture
def store(tmp_path):
    described = {k: {"axes": v, "unit": "nat", "cost": COST.get(k, "logits")} for k, v in AXES.items()}
    facts = {**stores.facts(), "signals": described, "layers": [0, 1, 2]}
    (tmp_path / "labels.csv").write_text(LABELS)
    return stores.write(tmp_path / "s", [record(i) for i in range(24)], facts)


def labelled(store):
    return "--labels", store.parent / "labels.csv"


def test_every_kind_is_drawn_with_its_numbers(store, tmp_path):
    out = tmp_path / "figures"
    few = ("--replicates", 20, "--most", 1, "--metrics", "mean_entropy+mean_nll")
    told = ok("plot", store, *labelled(store), "--out", out, "--data", "--doc", 4, *few)
    names = {p.stem for p in out.glob("*.png")}
    assert names == {p.stem for p in out.glob("*.csv")} and len(names) == 10
    for part in ("distributions", "roc", "coverage", "correlation", "curves", "profile", "influence", "received"):
        assert any(part in name for name in names), part
    assert told.stdout == "" and told.stderr.count("wrote ") == 20
    received = pd.read_csv(next(out.glob("*attention_received.csv")))
    assert received["layer"].unique().tolist() == [1, 2]


def test_a_record_without_the_span_is_counted_as_left_out(tmp_path, monkeypatch):
    seen, curves = {}, tokens.curves

    def spy(title, signal, unit, values, wrong):
        seen.update({key.doc_id: value.size for key, value in values.items()})
        return curves(title, signal, unit, values, wrong)

    monkeypatch.setattr(tokens, "curves", spy)
    described = {k: {"axes": v, "unit": "nat", "cost": COST.get(k, "logits")} for k, v in AXES.items()}
    rows = [replace(record(i), spans={}) if i == 5 else record(i) for i in range(24)]
    stores.write(tmp_path / "s", rows, {**stores.facts(), "signals": described, "layers": [0, 1, 2]})
    (tmp_path / "labels.csv").write_text(LABELS)
    given = ("curves", "--signal", "entropy", "--metrics", "mean_nll", "--out", tmp_path / "f")
    ok("plot", tmp_path / "s", "--labels", tmp_path / "labels.csv", *given)
    assert len(seen) == 24 and [doc for doc, size in seen.items() if not size] == [5]


def test_what_lacks_a_signal_is_named_and_the_rest_drawn(tmp_path):
    facts = {**stores.facts(names=("entropy",)), "layers": []}
    held = [stores.record(i, names=("entropy",)) for i in range(6)]
    bare = stores.write(tmp_path / "s", held, facts)
    told = ok("plot", bare, "--out", tmp_path / "f", "--metrics", "mean_entropy+max_entropy").stderr
    assert re.search(r"roc: right and wrong are not known; pass --labels", told)
    assert re.search(r"influence: .*signals=influence", told) and "correlation.png" in told
    assert "curves_entropy.png" in told
    refused("plot", bare, "roc", "influence", says="nothing could be drawn")


@pytest.mark.parametrize("right", [0, 1])
def test_what_needs_right_and_wrong_answers_says_so(store, tmp_path, right):
    """One class has no ROC curve and a flat risk; its distribution is one all the same."""
    labels = tmp_path / "one.csv"
    labels.write_text("doc_id,correct,task\n" + "".join(f"{i},{right},t\n" for i in range(24)))
    given = ("--labels", labels, "--out", tmp_path / "f", "--metrics", "mean_entropy+mean_nll")
    told = ok("plot", store, "roc", "coverage", "distributions", *given).stderr
    why = f"t, correct@one.csv: {24 - 24 * right} of 24 answers are wrong; this needs right and wrong ones"
    assert f"roc: {why}" in told and f"coverage: {why}" in told, told
    assert len(list((tmp_path / "f").iterdir())) == 1 and "distributions" in told
    refused("plot", store, "roc", *given, says="nothing could be drawn")


def test_a_metric_that_scores_one_class_is_left_out_and_named(tmp_path):
    """`entropy` is not a number where the answer is right."""
    held = [record(i) for i in range(24)]
    for i, one in enumerate(held):
        if i % 3:
            one.signals["entropy"][:] = float("nan")
    described = {k: {"axes": v, "unit": "nat", "cost": "logits"} for k, v in AXES.items()}
    (tmp_path / "labels.csv").write_text(LABELS)
    made = stores.write(tmp_path / "s", held, {**stores.facts(), "signals": described, "layers": [0, 1, 2]})
    given = ("--out", tmp_path / "f", "--data", "--metrics", "mean_entropy+mean_nll", "--replicates", 20)
    told = ok("plot", made, "roc", *labelled(made), *given).stderr
    assert "mean_entropy scored right answers only or wrong ones only, so left out" in told, told
    numbers = pd.read_csv(next((tmp_path / "f").glob("*roc.csv")))
    assert "mean_entropy" not in set(numbers["metric"]) and "mean_nll" in set(numbers["metric"])


def test_one_document_is_asked_for_where_it_is_needed(store, tmp_path):
    told = ok("plot", store, "influence", "curves", *labelled(store), "--out", tmp_path / "f", "--format", "svg").stderr
    assert "influence: this shows one document; pass --doc N" in told
    assert [p.suffix for p in (tmp_path / "f").iterdir()] == [".svg"]


def test_the_same_seed_gives_the_same_file(store, tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        more = ("--out", tmp_path / folder, "--data", "--seed", seed, "--replicates", 20, "--format", "svg")
        ok("plot", store, "roc", *labelled(store), "--metrics", "mean_entropy", *more)
    a, b, c = ({p.name: p.read_bytes() for p in (tmp_path / folder).iterdir()} for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["pie"], "kind 'pie' is not known; choose distributions"),
        (["--task", "u"], "--task u:"),
        (["curves", "--doc", "99"], "t has 0 to 23"),
        (["curves", "--label", "f1"], "leave nothing"),
    ],
)
def test_what_plot_refuses(store, tmp_path, given, says):
    refused("plot", store, *given, *labelled(store), "--out", tmp_path / "f", says=says)


def test_a_page_is_written(store, tmp_path):
    out = tmp_path / "new" / "page.html"
    told = ok("explain", store, "--doc", 4, "--out", out, *labelled(store), "--metrics", "mean_entropy")
    text = out.read_text()
    assert "right" in text and "mean_entropy" in text and "of 23 others" in text and 'class="t answer"' in text
    assert "wrote" in told.stderr and "--tokenizer" in told.stderr and told.stdout == ""


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["--doc", 24], "--doc 24: "),
        (["--doc", 24], "t has 0 to 23"),
        (["--doc", 1, "--task", "u"], "--task u: "),
        (["--doc", 1, "--sample", 3], "document 1 of t has sample 0"),
        (["--doc", 1, "--option", 2], "document 1 of t has option 0"),
        (["--doc", 1, "--signal", "lens_entropi"], "Did you mean 'lens_entropy'"),
        (["--doc", 1, "--tokenizer", "/no/such"], "/no/such does not exist"),
    ],
)
def test_what_explain_refuses(store, tmp_path, given, says):
    refused("explain", store, *given, "--out", tmp_path / "p.html", says=says)
    assert not (tmp_path / "p.html").exists()


def test_a_document_of_several_tasks_needs_a_task(tmp_path):
    held = [stores.record(1, task) for task in ("a", "b")]
    both = stores.write(tmp_path / "s", held)
    refused("explain", both, "--doc", 1, says="several tasks, a, b; pass --task")
    ok("explain", both, "--doc", 1, "--task", "b", "--out", tmp_path / "p.html")
