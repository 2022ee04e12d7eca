import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest

from lm_eval_ext import demo
from lm_eval_ext.demo import FEW, SHOWN, lessons, show_causes
from metrics.cases import Case
from metrics.report import auroc_table
from metrics.store import open_store
from metrics.writer import Writer

N = 400


def judged(entropy, length, wrong):
    scores = {name: np.asarray(entropy, dtype=float) for name in SHOWN} | {"prompt_length": np.asarray(length)}
    case = Case("counting_gen", "exact_match@none", scores, (~wrong).astype(float), wrong)
    return case, auroc_table(case, against="prompt_length")


def said(entropy, length, wrong):
    (line,) = lessons(*judged(entropy, length, wrong), {})
    return line


def draws():
    rng = np.random.default_rng(0)
    return rng.random(N) < 0.3, rng.normal(size=N), rng.normal(size=N)


@pytest.mark.parametrize(("count", "words"), [(1, "1 error is"), (FEW - 1, f"{FEW - 1} errors are")])
def test_too_few_errors_get_no_verdict(count, words):
    wrong = np.arange(N) < count
    assert said(np.arange(N), np.arange(N), wrong) == f"All errors together: {words} too few to say anything."
    opposite = said(np.arange(N), np.arange(N), ~wrong)
    assert f"{count} right answer" in opposite and "too few" in opposite


def test_entropy_may_do_better_than_length():
    wrong, noise, other = draws()
    line = said(noise + 4 * wrong, other, wrong)
    assert "entropy sees them clearly" in line and "it does better than length" in line


def test_length_may_do_better_than_entropy():
    wrong, noise, other = draws()
    line = said(noise, other + 4 * wrong, wrong)
    assert "entropy is no better than chance" in line and "length alone does better" in line


def test_both_may_do_as_well():
    wrong, noise, other = draws()
    line = said(noise + wrong, noise + wrong + 1e-3 * other, wrong)
    assert "entropy sees them (" in line and "length alone does as well" in line


def test_a_weak_sight_is_called_weak():
    wrong, noise, other = draws()
    assert "entropy hardly sees them" in said(noise + 0.45 * wrong, other, wrong)


def test_a_high_number_with_a_wide_interval_is_not_called_sight():
    rng = np.random.default_rng(4)
    wrong = np.arange(200) < FEW
    entropy = rng.normal(size=200)
    entropy[:FEW] = np.where(np.arange(FEW) < 7, 1.5, -1.5)
    case, table = judged(entropy, rng.normal(size=200), wrong)
    estimate = table.estimates["first_token_entropy"]
    assert estimate.value >= 0.65 and estimate.lower <= 0.5
    assert "no better than chance" in lessons(case, table, {})[0]


def test_a_reversed_metric_is_said_to_point_the_wrong_way():
    wrong, noise, other = draws()
    assert "points the wrong way" in said(noise - 2 * wrong, other, wrong)


def test_causes_are_named_in_words():
    wrong, noise, other = draws()
    pair = judged(noise, other, wrong)
    lines = lessons(*pair, {"unseen_member": pair, "else": pair})
    assert len(lines) == 3 and "never saw in training" in lines[1] and lines[2].startswith("Errors from else")


def test_the_table_of_causes_writes_a_dash_for_what_is_undefined():
    _, table = judged(np.arange(5), np.arange(5), np.ones(5, bool))
    text = show_causes(table, {})
    assert all(math.isnan(e.value) for e in table.estimates.values())
    assert "nan" not in text and "all errors (5)" in text


def test_somebody_elses_store_is_not_written_over(tmp_path):
    manifest = {"run_id": "r", "model": "mine", "signals": {}}
    Writer(tmp_path / "store", manifest).close()
    with pytest.raises(click.ClickException, match="holds a recording of your own; give another folder"):
        demo.run(tmp_path)
    assert open_store(tmp_path / "store").manifest["model"] == "mine"


def test_the_whole_demonstration(tmp_path):
    program = Path(sys.executable).with_name("eval-ext")
    done = subprocess.run(
        [program, "demo", "--out", tmp_path / "out", "--limit", "60"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "### counting_gen, exact_match@none" in done.stdout and "by cause of error" in done.stdout
    assert re.search(r"^- All errors together: .*[.]$", done.stdout, flags=re.M)
    assert "n = 60, " in done.stdout
    figures = {p.name for p in (tmp_path / "out" / "figures").iterdir()}
    assert {"counting_gen_exact_match_none.png", "layers.png"} <= figures
    assert re.search(r"^Layer \d of 4 is best: ", done.stdout, flags=re.M)
    record = json.loads((tmp_path / "out" / "layers" / "sweep.json").read_text())["runs"][-1]
    assert record["units_done"] == 10 and record["forward_passes_again"] == 0
    again = re.search(r"(auroc .*) --errors-by cause$", done.stderr.strip(), flags=re.M)
    assert again and (tmp_path / "out" / "lm-eval").as_posix() in again[1]
