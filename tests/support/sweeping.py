"""What the tests of the sweep share: the command, the tasks of `mteb_ext/sweep_tasks.py`, and the scores on disk."""

import json
from pathlib import Path

from click.testing import CliRunner

from metrics.cli import main

FILE = Path(__file__).parents[1] / "mteb_ext" / "sweep_tasks.py"


def named(*tasks):
    """Tasks of the file, as the option --tasks takes them."""
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
    """The main score of each, of the split test."""
    return {key: found["test"][0]["main_score"] for key, found in scores(out).items()}
