"""Scoring one unit: fresh generators each time, predictions of this evaluation only, processes that end when told."""

import copy
import time
from pathlib import Path

import numpy as np
import pytest

from mteb_ext import scoring
from mteb_ext.meta import encoder_of, resolve
from mteb_ext.scoring import Job, Loaded, Pool, Scored, score
from mteb_ext.source import NotHeld, shared_source
from mteb_ext.spec import parse
from mteb_ext.tasks import resolve as tasks_of

FILE = Path(__file__).with_name("sweep_tasks.py")


def task(name):
    return tasks_of([f"{FILE}:{name}"])[0]


@pytest.fixture(scope="module")
def variant(tiny):
    return resolve(parse(f"layer-wrapper/{tiny('bert')}:layer=2"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("bank")


@pytest.fixture(scope="module")
def encoder(variant, root):
    from mteb_ext.meta import meta_of

    made = encoder_of(variant, shared_source(variant.request, ("cpu",), root))
    made.mteb_model_meta = meta_of(variant)
    return made


def main_score(scored):
    return scored.result.scores["test"][0]["main_score"]


@pytest.mark.parametrize("name", ["Sts", "Classes", "Clusters", "OldClusters", "Pairs", "Search", "Both", "Draws"])
def test_any_number_of_evaluations_gives_the_same(encoder, name):
    loaded = Loaded(task(name))
    np.random.seed(5)  # noqa: NPY002
    found = [score(encoder, loaded, 32) for _ in range(3)]
    assert found[0].result.scores == found[1].result.scores == found[2].result.scores
    assert main_score(found[0]) == pytest.approx(main_score(score(encoder, Loaded(task(name)), 32)), abs=0)


def test_a_task_that_was_not_copied_would_not(encoder):
    loaded = Loaded(task("Draws"))
    again = copy.copy(loaded)
    again.fresh = lambda: loaded.task
    assert main_score(score(encoder, again, 32)) != main_score(score(encoder, again, 32))


def test_the_data_is_loaded_once_and_let_go(encoder, tmp_path, monkeypatch):
    task("Both").metadata.tasks[0].unload_data()  # the class holds it, and others have used it
    monkeypatch.setenv("SWEEP_TASKS", str(tmp_path))
    for name in ("Clusters", "Both"):
        loaded = Loaded(task(name))
        for _ in range(2):
            score(encoder, loaded, 32)
        loaded.unload()
    assert (tmp_path / "trace").read_text().split("\n") == ["load Clusters", "load Sts", ""]
    assert not loaded.task.metadata.tasks[0].data_loaded


def test_warnings_come_back_each_once_in_one_line(encoder):
    found = score(encoder, Loaded(task("Warns")), 32)
    assert found.warnings == ("RuntimeWarning: it did not converge",)
    assert score(encoder, Loaded(task("Warns")), 32).warnings == found.warnings
    assert found.seconds > 0


def test_predictions_are_of_the_last_evaluation(encoder, tmp_path):
    loaded = Loaded(task("Sts"))
    score(encoder, loaded, 32, tmp_path)
    once = (tmp_path / "Sts_predictions.json").read_text()
    (tmp_path / "Sts_predictions.json").write_text(once[:50])
    score(encoder, loaded, 32, tmp_path)
    assert (tmp_path / "Sts_predictions.json").read_text() == once


def test_quiet_is_undone():
    import logging

    from datasets.utils import logging as datasets_logging
    from transformers.utils import logging as transformers_logging

    def state():
        return (
            logging.getLogger("mteb").level,
            transformers_logging.get_verbosity(),
            datasets_logging.is_progress_bar_enabled(),
        )

    before = state()
    with scoring.quiet():
        assert state()[1:] == (logging.ERROR, False)
    assert state() == before


def job(variant, root, name):
    return Job((f"{FILE}:{name}",), None, name, variant, root, 32, None)


def test_a_process_scores_from_the_bank_only(encoder, variant, root, tmp_path):
    here = score(encoder, Loaded(task("Sts")), 32)
    pool = Pool(1)
    there = pool.submit(job(variant, root, "Sts")).result()
    assert isinstance(there, Scored)
    assert there.result.scores == here.result.scores
    with pytest.raises(NotHeld, match="are not in the bank"):
        pool.submit(job(variant, tmp_path, "Sts")).result()
    pool.close()


def test_a_pool_begins_anew_after_a_death_and_ends_at_once_when_told(encoder, variant, root, monkeypatch, tmp_path):
    from concurrent.futures.process import BrokenProcessPool

    score(encoder, Loaded(task("Sts")), 32)
    monkeypatch.setenv("SWEEP_SLOW", "1")
    pool = Pool(1)
    with pytest.raises(BrokenProcessPool):
        pool.submit(job(variant, root, "Dies")).result()
    assert pool.submit(job(variant, root, "Pairs")) is not None
    slow = job(variant, root, "Waits")
    running = pool.submit(slow)
    while not running.running():
        time.sleep(0.05)
    started = time.monotonic()
    pool.close(now=True)
    assert time.monotonic() - started < 10
    assert running.exception() is not None
    pool.close()
