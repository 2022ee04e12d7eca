import numpy as np
import pytest

from metrics.cases import Case
from metrics.plots import save
from metrics.report import auroc_table

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def case(n=60, title="t", subset="", wrong=None, **scores):
    rng = np.random.default_rng(0)
    wrong = rng.random(n) < 0.4 if wrong is None else np.asarray(wrong)
    names = ("answer_length", "random", "mean_nll", "mean_entropy", "margin", "first_token_entropy")
    made = {name: rng.normal(size=n) + wrong for name in names} | scores
    return Case(title, "acc@none", made, (~wrong).astype(float), wrong, subset)


def draw(one, folder, baselines=("answer_length", "random")):
    file = save(one, auroc_table(one), folder, baselines=baselines)
    assert file.parent == folder and file.read_bytes().startswith(SIGNATURE)
    return file


def test_a_figure_is_named_for_its_table(tmp_path):
    assert draw(case(), tmp_path / "new").name == "t_acc_none.png"


@pytest.mark.parametrize("wrong", [np.ones(20, bool), np.zeros(20, bool), np.arange(3) == 1, np.ones(1, bool)])
def test_one_class_and_few_documents_are_drawn(tmp_path, wrong):
    draw(case(len(wrong), wrong=wrong), tmp_path)


def test_missing_infinite_and_tied_scores_are_drawn(tmp_path):
    gaps = np.where(np.arange(60) % 3 == 0, np.nan, np.arange(60.0))
    draw(case(mean_nll=gaps, mean_entropy=np.full(60, np.inf), margin=np.ones(60)), tmp_path)


def test_a_baseline_without_scores_is_left_out(tmp_path):
    draw(case(), tmp_path, baselines=("prompt_length", "random"))


def test_without_any_score_the_figure_is_empty(tmp_path):
    wrong = np.arange(20) % 2 == 0
    one = Case("t", "acc@none", {}, (~wrong).astype(float), wrong)
    draw(one, tmp_path)


@pytest.mark.parametrize("title", ["../../etc/x", "a/b\\c:d*?<>|", "x" * 400, "\u00e9\n", "con $x", "C++"])
def test_names_are_safe(tmp_path, title):
    name = draw(case(title=title), tmp_path).name
    assert len(name) < 150 and name.isascii()
    assert not set('/\\:*?"<>|\n $') & set(name)


def test_titles_that_look_alike_get_files_of_their_own(tmp_path):
    subsets = ["by=C", "by=C++", "by=C#", "by=\u00e9", "by=\u00fc", "by=" + "x" * 200 + "1", "by=" + "x" * 200 + "2"]
    files = {draw(case(20, subset=subset), tmp_path) for subset in subsets}
    assert len(files) == len(subsets)
