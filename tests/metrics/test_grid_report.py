"""`eval-ext grid` as a user meets it, on a small store whose wrong answers have more entropy."""

import json
import math

import numpy as np
import pytest
from commands import ok
from stores import judged

from metrics import open_store, stats
from metrics.cases import Case
from metrics.choosing import choose
from metrics.grid_report import Scheme, grid_tables, show_grid

RIGHT = [float(i % 3 > 0) for i in range(60)]
GRID = ("--metrics", "entropy+nll", "--poolings", "mean+max", "--weightings", "uniform+improbability", "--repeats", "8")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return judged(tmp_path_factory.mktemp("grid"), RIGHT)


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
        assert top[name]["auroc"] == pytest.approx(stats.auroc(frame[name], wrong).value)
    assert {"answer_length", "prompt_length", "random", "sequence_nll", "mean_entropy", "mean_nll"} <= set(top)
    best = max((r for r in tables["the grid"] if r.get("wins") is not None), key=lambda r: r["auroc"])
    nested = {row["what"]: row for row in tables["chosen on a disjoint split"]}
    assert nested[f"best in-sample: {best['metric']}"]["auroc"] == pytest.approx(best["auroc"])
    inside, outside = (nested[f"winner, on the {part}"]["auroc"] for part in ("part that chose it", "other part"))
    assert 0 <= outside <= 1 and inside >= outside - 0.2
    orders = [row for row in tables["the grid"] if row.get("first_of_order") == row["metric"]]
    assert sum(row["wins"] for row in orders) == pytest.approx(1)
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


def test_one_class_and_few_of_a_class(tmp_path):
    store, path = judged(tmp_path / "one", [1.0] * 12)
    assert "With one class there is no AUROC" in ok("grid", store, "--samples", path.parent, *GRID).stdout
    store, path = judged(tmp_path / "few", [1.0] * 12 + [0.0] * 3)
    text = ok("grid", store, "--samples", path.parent, *GRID).stdout
    assert "no winner is chosen on a split" in text and "disjoint" not in text
    assert "fewer than 5 of a class in one part" in text


WRONG = np.arange(60) % 3 == 0
RNG = np.random.default_rng(7)
GOOD = WRONG + RNG.random(60)
"""Wrong answers score higher, some of them."""

NOISE = RNG.random(60)


def tables_of(scores, words, wrong=WRONG, *, against=None, repeats=4, share=0.5, **how):
    """Tables by what they are, of scores made up for composites and others."""
    case = Case("t", "acc", scores, 1.0 - wrong, wrong)
    found = grid_tables(case, choose(words), Scheme(repeats, share, 0, against), top=0, **how)
    return {table.title.split(": ")[1].split(",")[0]: table for table in found}


def auroc_by_pairs(score, wrong):
    bad, good = score[wrong & ~np.isnan(score)], score[~wrong & ~np.isnan(score)]
    return np.mean([(b > g) + (b == g) / 2 for b in bad for g in good])


def test_every_configuration_has_a_row_that_names_its_order():
    words = ["entropy:mean", "nll:max", "entropy:max", "nll:mean"]
    scores = dict(zip(words, (NOISE, GOOD, 2 * NOISE, GOOD**2)))
    whole = tables_of(scores, words, every=True)["the grid"]
    rows = {row["metric"]: row for row in whole.rows}
    assert list(rows) == ["nll:max", "nll:mean", "entropy:mean", "entropy:max"]  # by AUROC, orders together
    assert [r["first_of_order"] for r in rows.values()] == ["nll:max", "nll:max", "entropy:mean", "entropy:mean"]
    assert {r["same_order"] for r in rows.values()} == {2}
    assert {**rows["nll:mean"], "metric": "nll:max"} == rows["nll:max"]
    short = tables_of(scores, words)["the grid"]
    assert [row["metric"] for row in short.rows] == ["nll:max", "entropy:mean"]
    assert "each shown once" in short.notes[1] and "a row for every configuration" in whole.notes[1]
    assert "first_of_order" not in show_grid(short, "md")


def test_a_small_p_against_the_baseline_stands_beside_its_gain():
    scores = {"entropy:mean": -GOOD, "nll:max": NOISE, "mean_nll": GOOD}
    table = tables_of(scores, ["entropy:mean", "nll:max"], against="mean_nll")["the grid"]
    worse = next(row for row in table.rows if row["metric"] == "entropy:mean")
    assert worse["delta"] == pytest.approx(auroc_by_pairs(-GOOD, WRONG) - auroc_by_pairs(GOOD, WRONG))
    assert worse["p_delta_bh"] < 0.001 and worse["delta_upper"] < 0
    text = show_grid(table, "md")
    assert "gain over baseline" in text and f"{worse['delta']:.3f} [{worse['delta_lower']:.3f}, " in text


def test_no_p_with_fewer_than_five_of_a_class():
    """Ten wrong answers: halves have five each; of 80 % two are left to judge."""
    wrong = np.arange(60) < 10
    scores = {"entropy:mean": wrong + 0.0, "entropy:max": NOISE, "mean_nll": NOISE}
    found = {share: tables_of(scores, list(scores)[:2], wrong, share=share) for share in (0.2, 0.5, 0.8)}
    assert ["chosen on a disjoint split" in found[share] for share in found] == [False, True, False]
    assert any("no winner is chosen" in note for note in found[0.8]["the grid"].notes)


def test_a_split_with_few_of_a_class_in_common_is_not_tested():
    part = np.where(WRONG & (np.cumsum(WRONG) > 6), np.nan, NOISE)  # six wrong answers have a score
    scores = {"entropy:mean": GOOD, "entropy:max": NOISE, "mean_nll": part}
    found = tables_of(scores, list(scores)[:2], against="mean_nll", repeats=10)
    row = next(r for r in found["chosen on a disjoint split"].rows if r["what"].startswith("mean_nll"))
    assert not math.isnan(row["gain"])
    counted = next(n for n in found["chosen on a disjoint split"].notes if n.startswith("Splits without a test"))
    assert int(counted.rstrip(".").split()[-1]) >= 5
    fewer = scores | {"mean_nll": np.where(np.cumsum(WRONG) > 4, np.nan, NOISE)}
    found = tables_of(fewer, list(scores)[:2], against="mean_nll", repeats=10)
    row = next(r for r in found["chosen on a disjoint split"].rows if r["what"].startswith("mean_nll"))
    assert math.isnan(row["p"])
    assert all(math.isnan(r["p_delta_bh"]) for r in found["the grid"].rows if "delta" in r)


def test_the_gain_is_over_documents_that_both_score():
    """The reference has no score of the answers that are hard for both: where both score, nothing is gained."""
    hard = np.arange(60) % 5 == 0
    both = np.where(hard, NOISE, GOOD)
    scores = {"entropy:mean": both, "mean_entropy": np.where(hard, np.nan, both)}
    row = tables_of(scores, ["entropy:mean"], repeats=10)["chosen on a disjoint split"].rows[-1]
    assert row["what"].startswith("mean_entropy") and row["auroc"] > auroc_by_pairs(both, WRONG)
    assert row["gain"] == row["gain_lower"] == row["gain_upper"] == 0
    assert row["p"] == 1


def test_effects_of_aurocs_that_do_not_vary():
    words = [f"{token}:{pool}" for token in ("entropy", "nll") for pool in ("mean", "max")]
    table = tables_of(dict.fromkeys(words, GOOD), words)["effect of each factor on the AUROC"]
    assert all(math.isnan(row["share"]) for row in table.rows)
    assert not any("nan" in note for note in table.notes)
    assert any("same AUROC" in note for note in table.notes)
