"""`eval-ext grid` as a user meets it, on a small store whose wrong answers have more entropy."""

import json

import numpy as np
import pytest
import torch
from commands import ok, refused
from stores import record, results, write

from metrics import open_store, stats

RIGHT = [float(i % 3 > 0) for i in range(60)]
GRID = ("--metrics", "entropy+nll", "--poolings", "mean+max", "--weightings", "uniform+improbability", "--repeats", "8")


def store_of(folder, right=RIGHT, **more):
    made = torch.Generator().manual_seed(0)
    records = []
    for i, good in enumerate(right):
        n = 2 + i % 4
        one = record(i, tokens=n, names=("entropy", "logprob", "scalar"), **more)
        entropy = torch.rand(n, generator=made) + 0.3 * (1 - good)
        one.signals.update(entropy=entropy, logprob=-torch.rand(n, generator=made))
        records.append(one)
    return write(folder / "store", records, shard_records=16), results(folder / "out", "t", right)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return store_of(tmp_path_factory.mktemp("grid"))


def rows_of(made, *more):
    done = ok("grid", made[0], "--samples", made[1].parent, *GRID, "--format", "json", *more)
    tables = {}
    for row in json.loads(done.stdout):
        tables.setdefault(row["table"].split(": ")[1].split(",")[0], []).append(row)
    return tables, done


def test_the_tables_say_what_auroc_says(made):
    tables, done = rows_of(made, "--top", "0", "--against", "mean_nll")
    top = {row["metric"]: row for row in tables["the grid"]}
    assert "8 configurations, 1 process" in done.stderr
    frame = open_store(made[0]).scores(["entropy:mean", "nll:max@improbability"], labels=made[1].parent)
    wrong = frame["label:acc@none"].to_numpy() == 0
    for name in ("entropy:mean", "nll:max@improbability"):
        if name in top:  # else of the same order as another
            assert top[name]["auroc"] == pytest.approx(stats.auroc(frame[name], wrong).value)
    assert {"answer_length", "prompt_length", "random", "sequence_nll", "mean_entropy", "mean_nll"} <= set(top)
    best = max((r for r in tables["the grid"] if r.get("wins") is not None), key=lambda r: r["auroc"])
    nested = {row["what"]: row for row in tables["chosen on a disjoint split"]}
    assert nested[f"best in-sample: {best['metric']}"]["auroc"] == pytest.approx(best["auroc"])
    inside, outside = (nested[f"winner, on the {part}"]["auroc"] for part in ("part that chose it", "other part"))
    assert 0 <= outside <= 1 and inside >= outside - 0.2
    assert sum(row.get("wins") or 0 for row in tables["the grid"]) == pytest.approx(1)
    assert all(0 <= row["p_bh"] <= 1 for row in top.values() if row.get("p_bh") is not None)


def test_effects_average_over_the_other_factors(made):
    tables, _ = rows_of(made)
    rows = tables["effect of each factor on the AUROC"]
    assert {row["factor"] for row in rows} == {"token metric", "pooling", "weighting"}
    by = {(r["factor"], r["level"]): r["auroc"] for r in rows}
    words = [f"entropy:{p}{w}" for p in ("mean", "max") for w in ("", "@improbability")]
    frame = open_store(made[0]).scores(words, labels=made[1].parent)
    wrong = frame["label:acc@none"].to_numpy() == 0
    wanted = np.mean([stats.auroc(frame[word], wrong).value for word in words])
    assert by["token metric", "entropy"] == pytest.approx(wanted)


def test_it_says_what_is_missing(made):
    done = ok("grid", made[0], "--samples", made[1].parent, "--metrics", "entropy+margin", "--poolings", "mean",
              "--repeats", "2")  # fmt: skip
    assert "not recorded, so 3 combinations are left out: top_logprobs; record with signals=top_logprobs" in done.stderr
    refused("grid", made[0], "--samples", made[1].parent, "--metrics", "margin", "--poolings", "mean",
            says="nothing to combine: it lacks top_logprobs; record again with signals=top_logprobs")  # fmt: skip
    refused("grid", made[0], "--samples", made[1].parent, "--metrics", "entropi", says="Did you mean 'entropy'?")
    refused("grid", made[0], "--samples", made[1].parent, "--metrics", "", says="nothing to combine")


def test_one_class_and_few_of_a_class(tmp_path):
    store, path = store_of(tmp_path / "one", [1.0] * 12)
    assert "With one class there is no AUROC" in ok("grid", store, "--samples", path.parent, *GRID).stdout
    store, path = store_of(tmp_path / "few", [1.0] * 12 + [0.0] * 3)
    text = ok("grid", store, "--samples", path.parent, *GRID).stdout
    assert "no winner is chosen on a split" in text and "disjoint" not in text
