"""A sweep from the command line: the same scores as MTEB's own command gives, each text encoded once, once for all."""

import json
from collections import Counter
from pathlib import Path

import mteb
import pytest
from click.testing import CliRunner
from mteb.cache import ResultCache

from metrics.cli import main
from mteb_ext.digest import short
from mteb_ext.tasks import resolve

FILE = Path(__file__).with_name("sweep_tasks.py")
TASKS = ("Sts", "Classes", "Clusters", "OldClusters", "Pairs", "Search", "Both", "Draws")
LAYERS = range(4)


def named(*tasks):
    return ",".join(f"{FILE}:{task}" for task in tasks)


def run(*args):
    """The command's exit status, what it says on stdout and on stderr."""
    done = CliRunner().invoke(main, ["sweep", *map(str, args)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def scores(out):
    """All scores in a folder of results, by experiment and task."""
    files = [f for f in out.glob("results/*/*/experiments/*/*.json") if f.name != "model_meta.json"]
    return {(f.parent.name, f.stem): json.loads(f.read_text())["scores"] for f in files}


def mains(out):
    return {key: found["test"][0]["main_score"] for key, found in scores(out).items()}


def record(out):
    return json.loads((out / "sweep.json").read_text())["runs"][-1]


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("bert")


@pytest.fixture(scope="module")
def swept(model, tmp_path_factory):
    """A function (workers) -> the folder of a sweep of all layers on all tasks, and what the command said."""
    made = {}

    def folder(workers):
        if workers not in made:
            out = tmp_path_factory.mktemp("sweep") / "out"
            said = run("--model", model, "--tasks", named(*TASKS), "--out", out, "--workers", workers)
            made[workers] = out, said
        return made[workers]

    return folder


@pytest.fixture(scope="module")
def separate(model, tmp_path_factory):
    """The cache folder of separate evaluations by MTEB, one layer at a time."""
    cache = ResultCache(tmp_path_factory.mktemp("separate"))
    for layer in LAYERS:
        for task in resolve([f"{FILE}:{name}" for name in TASKS]):
            encoder = mteb.get_model(f"layer-wrapper/{model}:layer={layer}")
            mteb.evaluate(encoder, task, cache=cache, co2_tracker=False, show_progress_bar=False)
    return cache.cache_path


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_a_sweep_gives_the_scores_of_separate_evaluations_where_mteb_puts_them(swept, separate, workers):
    out, (status, table, _) = swept(workers)
    assert status == 0
    assert "of 3 is best" in table
    expected = {key: found for key, found in scores(separate).items() if key[1] in TASKS}
    assert len(expected) == len(TASKS) * len(LAYERS)
    assert scores(out) == expected


def test_tasks_of_the_test_tell_layers_apart(separate):
    found = mains(separate)
    apart = [t for t in TASKS if len({found[key] for key in found if key[1] == t}) > 1]
    assert set(apart) >= {"Sts", "Clusters", "OldClusters", "Pairs", "Search", "Both"}


def test_one_pass_for_each_distinct_text_of_all_tasks(swept):
    tasks = [task for task in resolve([f"{FILE}:{name}" for name in TASKS]) if not task.is_aggregate]
    for workers in (0, 2):
        run = record(swept(workers)[0])
        assert run["forward_passes"] == 57  # TEXTS[:45] of four tasks, [20:50] of Classes; three texts repeat
        assert run["forward_passes_again"] == 0
        assert run["model_loads"] == 1
        assert run["units_done"] == len(TASKS) * len(LAYERS)
    assert len(tasks) == 7
