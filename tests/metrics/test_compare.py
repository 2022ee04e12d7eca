"""Documents of two stores find each other, and the tables say what a loop over them says."""

from collections import Counter

import numpy as np
import pandas as pd
import pytest
import stores

from metrics import stats
from metrics.choosing import choose
from metrics.compare import judged, match_documents, pair_frame, pair_up, recorded
from metrics.compare_tables import accuracy_table, auroc_table, macro_auroc_table, show
from metrics.disagreement import disagreement_table, pick
from metrics.store import open_store

METRICS = choose("mean_entropy+sequence_nll+margin+answer_length+random")


@pytest.fixture
def side(tmp_path):
    """A function (name, numbers, right, **options) -> a store's judged cases and its documents."""

    def make(name, right, *, seed=0, tasks=("t",), renumber=lambda i: i, threshold=None, tokens=4):
        rows = [
            stores.record(renumber(i), task, tokens=tokens, seed=seed + k, doc_hash=f"{task}{i}")
            for k, task in enumerate(tasks)
            for i in right
        ]
        store = open_store(stores.write(tmp_path / name, rows, shard_records=50))
        labels = tmp_path / f"{name}.csv"
        lines = [f"{renumber(i)},{v},{task}\n" for task in tasks for i, v in right.items() if v is not None]
        labels.write_text("doc_id,correct,task\n" + "".join(lines))
        frame = store.scores([c.id for c in METRICS], labels=labels)
        entries = store.entries()
        return judged(frame, entries, METRICS, threshold=threshold), recorded(entries)

    return make


def paired(one, two):
    return pair_up(one[0], two[0], (one[1], two[1]))


def verdicts(n, seed, share=0.6):
    return dict(enumerate((np.random.default_rng(seed).random(n) < share).astype(int)))


# which documents


def test_documents_match_by_number_and_digest_then_by_digest():
    first = {0: "a", 1: "b", 2: "c", 3: "d", 4: "e", 9: "e"}
    second = {0: "a", 1: "c", 2: "b", 3: "x", 4: "e", 8: "e", 7: "q"}
    found = match_documents(first, second)
    assert found.pairs == {0: 0, 1: 2, 2: 1, 4: 4, 9: 8}
    assert found.only_first == Counter({"another document has its number": 1})
    assert found.only_second == Counter({"another document has its number": 1, "not recorded": 1})


def test_a_document_under_several_numbers_is_not_guessed_at():
    found = match_documents({0: "a", 1: "a", 2: ""}, {5: "a", 2: "", 3: ""})
    assert found.pairs == {2: 2}
    assert found.only_first == Counter({"the same document stands under several numbers": 2})
    assert found.only_second == Counter({"the same document stands under several numbers": 1, "not recorded": 1})


def test_nothing_in_common():
    found = match_documents({0: "a"}, {1: "b"})
    assert found.pairs == {} and found.only_first == found.only_second == Counter({"not recorded": 1})


def test_other_numbers_for_the_same_documents(side):
    right = verdicts(40, 1)
    one, two = side("a", right), side("b", right, renumber=lambda i: 100 + i)
    ((pair,), alone) = paired(one, two)
    assert not alone and len(pair.documents) == 40
    assert all(b.doc_id == a.doc_id + 100 and a.doc_hash == b.doc_hash for a, b in pair.documents)
    assert np.array_equal(pair.first.wrong, pair.second.wrong)
    assert np.array_equal(pair.first.scores["answer_length"], pair.second.scores["answer_length"])


def test_documents_without_a_label_are_counted(side):
    one, two = side("a", {0: 1, 1: None, 2: 0}), side("b", {0: 1, 1: 1, 2: None, 3: 1})
    ((pair,), _) = paired(one, two)
    assert [a.doc_id for a, _ in pair.documents] == [0] and pair.unlabelled == (1, 1)
    note = accuracy_table([pair]).notes[1]
    assert "3 documents in both" in note and "1 only in B (not recorded in A)" in note
    assert "1 without a label in A; 1 without a label in B" in note


def test_tasks_and_verdicts_without_a_pair_are_said(side):
    one, two = side("a", {0: 1}, tasks=("t", "u")), side("b", {0: 1}, tasks=("t",))
    pairs, alone = paired(one, two)
    assert [p.task for p in pairs] == ["t"] and alone == ["u: not recorded in B"]
    assert pairs[0].title == "t, correct@a.csv | correct@b.csv"


# accuracy


def test_accuracy_is_the_count(side):
    right1, right2 = verdicts(80, 2), verdicts(80, 3, 0.5)
    ((pair,), _) = paired(side("a", right1), side("b", right2))
    (row,) = accuracy_table([pair]).rows
    cells = Counter((right1[i], right2[i]) for i in range(80))
    assert [row[k] for k in ("both_right", "only_a", "only_b", "both_wrong")] == [
        cells[1, 1], cells[1, 0], cells[0, 1], cells[0, 0]
    ]  # fmt: skip
    assert row["a"] == pytest.approx(sum(right1.values()) / 80) and row["b"] == sum(right2.values()) / 80
    assert row["p"] == stats.mcnemar(cells[1, 0], cells[0, 1])
    assert row["difference"] == pytest.approx(row["a"] - row["b"])
    assert (row["a_lower"], row["a_upper"]) == stats.wilson_interval(sum(right1.values()), 80)


def test_all_right_in_both(side):
    ((pair,), _) = paired(side("a", dict.fromkeys(range(30), 1)), side("b", dict.fromkeys(range(30), 1)))
    (row,) = accuracy_table([pair]).rows
    assert row["difference"] == 0 and row["p"] == 1 and row["lower"] < 0 < row["upper"]
    table = auroc_table(pair)
    assert all(np.isnan(r["difference"]) and np.isnan(r["p"]) for r in table.rows) and table.shown == []
    assert any("All metrics" in n and "one class only: 0 wrong of 30" in n for n in table.notes), table.notes
    assert "0 of 30 documents are right in one" in disagreement_table(pair, METRICS[0]).notes[0]


def test_graded_labels_compare_means(side):
    rng = np.random.default_rng(4)
    one, two = dict(enumerate(rng.random(60))), dict(enumerate(rng.random(60)))
    ((pair,), _) = paired(side("a", one), side("b", two))
    (row,) = accuracy_table([pair]).rows
    assert row["difference"] == pytest.approx(np.mean(list(one.values())) - np.mean(list(two.values())))
    assert row["lower"] < row["difference"] < row["upper"] and np.isnan(row["p"]) and row["both_right"] is None
    table = disagreement_table(pair, METRICS[0], top=3)
    apart = sorted((abs(one[i] - two[i]) for i in one), reverse=True)[:3]
    assert [abs(r["label_a"] - r["label_b"]) for r in table.rows] == pytest.approx(apart)
    ((cut,), _) = paired(side("c", one, threshold=0.5), side("d", two, threshold=0.5))
    assert cut.binary and accuracy_table([cut]).rows[0]["a"] == np.mean(np.array(list(one.values())) >= 0.5)


# AUROC


def test_aurocs_are_each_for_its_own_errors(side):
    right1, right2 = verdicts(90, 5), verdicts(90, 6)
    ((pair,), _) = paired(side("a", right1), side("b", right2, seed=7))
    table = auroc_table(pair)
    rows = {row["metric"]: row for row in table.rows}
    assert "margin" not in rows and any("margin" in n and "not recorded" in n for n in table.notes)
    entropy = rows["mean_entropy"]
    assert entropy["a"] == stats.auroc(pair.first.scores["mean_entropy"], pair.first.wrong).value
    assert entropy["b"] == stats.auroc(pair.second.scores["mean_entropy"], pair.second.wrong).value
    direct = stats.paired_auroc_difference(
        pair.first.scores["mean_entropy"], pair.first.wrong, pair.second.scores["mean_entropy"], pair.second.wrong
    )
    assert (entropy["difference"], entropy["p"], entropy["se"]) == (
        direct.difference.value, direct.p, direct.difference.se
    )  # fmt: skip
    leaders = [r for r in table.rows if not np.isnan(r["p"])]
    assert [r["p_bh"] for r in leaders] == pytest.approx(list(stats.benjamini_hochberg([r["p"] for r in leaders])))
    assert rows["answer_length"]["a"] == 0.5 and np.isnan(rows["answer_length"]["p"])  # all tied: no test


def test_a_store_against_itself(side):
    right = verdicts(50, 8)
    ((pair,), _) = paired(side("a", right), side("b", right))
    for row in auroc_table(pair).rows:
        assert row["difference"] == 0 and np.isnan(row["p"]) and np.isnan(row["p_bh"])  # nothing to test
    assert accuracy_table([pair]).rows[0]["difference"] == 0


def test_few_errors_are_not_tested(side):
    right1 = {i: int(i > 3) for i in range(40)}
    ((pair,), _) = paired(side("a", right1), side("b", verdicts(40, 9), seed=3))
    table = auroc_table(pair)
    assert all(np.isnan(r["p"]) for r in table.rows)
    assert any("Not tested, with fewer than 5" in n for n in table.notes)
    assert "A: only 4 wrong" in "\n".join(table.notes)


def test_empty_answers_are_unscored(side):
    one, two = side("a", verdicts(30, 10), tokens=0), side("b", verdicts(30, 11), seed=2)
    ((pair,), _) = paired(one, two)
    table = auroc_table(pair)
    assert "mean_entropy" not in {r["metric"] for r in table.rows}
    assert any(n.startswith("No score in A, empty answer: mean_entropy") for n in table.notes), table.notes
    assert pick(pair, METRICS, "mean_entropy").id == "answer_length"


def test_macro_is_the_mean_over_tasks(side):
    one = side("a", verdicts(60, 12), tasks=("t", "u"))
    two = side("b", verdicts(60, 13), tasks=("t", "u"), seed=5)
    pairs, _ = paired(one, two)
    tables = {p.task: auroc_table(p) for p in pairs}
    macro = {r["metric"]: r for r in macro_auroc_table(tables).rows}["mean_entropy"]
    parts = [next(r for r in t.rows if r["metric"] == "mean_entropy") for t in tables.values()]
    assert macro["difference"] == pytest.approx(np.mean([r["difference"] for r in parts]))
    half = 1.959964 * np.hypot(*(r["se"] for r in parts)) / 2
    assert macro["upper"] - macro["difference"] == pytest.approx(half)
    total = accuracy_table(pairs).rows[-1]
    assert total["task"] == "macro, 2 tasks" and total["a"] == pytest.approx(np.mean(list(verdicts(60, 12).values())))


# where they part


def test_flips_come_by_the_distance_of_their_ranks(side):
    right1, right2 = verdicts(40, 14), verdicts(40, 15)
    ((pair,), _) = paired(side("a", right1), side("b", right2, seed=9))
    entropy = METRICS[0]
    table = disagreement_table(pair, entropy, top=100)
    assert {r["doc_id_a"] for r in table.rows} == {i for i in right1 if right1[i] != right2[i]}
    shares = [[np.mean(s <= x) for x in s] for s in (pair.first.scores[entropy.id], pair.second.scores[entropy.id])]
    apart = {a.doc_id: abs(p - q) for (a, _), p, q in zip(pair.documents, *shares)}
    assert [apart[r["doc_id_a"]] for r in table.rows] == pytest.approx(
        sorted((apart[r["doc_id_a"]] for r in table.rows), reverse=True)
    )
    assert table.rows[0]["share_a"] == pytest.approx(shares[0][table.rows[0]["doc_id_a"]])
    assert table.shown[0]["right"] == ("A" if right1[table.rows[0]["doc_id_a"]] else "B")
    assert len(disagreement_table(pair, entropy, top=2).rows) == 2


def test_all_documents_as_a_frame(side):
    ((pair,), _) = paired(side("a", verdicts(20, 16)), side("b", verdicts(20, 17), seed=9))
    frame = pair_frame(pair, METRICS)
    assert isinstance(frame, pd.DataFrame) and len(frame) == 20
    assert (frame["sequence_nll:a"] > 0).all() and frame["answer_a"][3] == "ä3\u2028 0"
    assert (frame["label_b"] == (~pair.second.wrong)).all()


@pytest.mark.parametrize("format_", ["md", "latex"])
def test_tables_are_shown(side, format_):
    ((pair,), _) = paired(side("a", verdicts(40, 18)), side("b", verdicts(40, 19), seed=9))
    for table in (accuracy_table([pair]), auroc_table(pair), disagreement_table(pair, METRICS[0])):
        text = show(table, format_)
        assert table.title in text and all(note in text for note in table.notes) and "nan" not in text


def test_what_cannot_differ_is_no_test_of_the_family(side):
    """The baselines order the same documents alike in both stores, so a single metric's p needs no adjustment."""
    ((pair,), _) = paired(side("a", verdicts(60, 8)), side("b", verdicts(60, 8), seed=3))
    rows = {row["metric"]: row for row in auroc_table(pair).rows}
    tested = {name: row for name, row in rows.items() if not np.isnan(row["p"])}
    assert "random" in rows and "random" not in tested and tested
    if len({row["p"] for row in tested.values()}) == 1:
        assert all(row["p_bh"] == pytest.approx(row["p"]) for row in tested.values())
