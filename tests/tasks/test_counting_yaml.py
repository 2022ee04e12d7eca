"""The shipped lm-eval tasks: they load from anywhere, without the hub, and carry the labels of each item."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lm_eval.tasks import TaskManager

import tasks
from tasks.counting import demo_model_folder, shipped_test_set
from tasks.counting.generator import read, row

IMPORTS = "import sys, tasks, tasks.counting, tasks.counting.generator; print([m for m in {names} if m in sys.modules])"
LOAD = """
import json, socket, sys
def refuse(*_): raise OSError("the tasks must not go to the network")
socket.socket.connect = refuse
from lm_eval.tasks import TaskManager
loaded = TaskManager(include_path=sys.argv[1], include_defaults=False).load(["counting"])["tasks"]
out = {}
for name, task in loaded.items():
    docs = list(task.test_docs())
    out[name] = {
        "docs": docs,
        "texts": [task.doc_to_text(doc) for doc in docs],
        "targets": [task.doc_to_target(doc) for doc in docs],
        "choices": [task.doc_to_choice(doc) for doc in docs[:1]] if task.config.doc_to_choice else None,
        "delimiter": task.config.target_delimiter,
        "output_type": task.config.output_type,
        "version": task.config.metadata["version"],
        "until": (task.config.generation_kwargs or {}).get("until"),
    }
print(json.dumps(out))
"""


def python(code, *arguments, cwd, path=None):
    """Run code in a fresh interpreter in another folder; `tasks` is importable only where `path` says so."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "HF_HUB_OFFLINE")}
    if path:
        environment["PYTHONPATH"] = str(path)
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "tasks").mkdir()  # another package of this name must do no harm
    (elsewhere / "tasks" / "__init__.py").write_text("raise RuntimeError('the wrong tasks')\n")
    return json.loads(python(LOAD, tasks.yaml_folder(), cwd=elsewhere))


def test_the_folders_exist_and_are_absolute():
    for path in (tasks.yaml_folder(), demo_model_folder(), shipped_test_set()):
        assert path.is_absolute()
        assert path.exists()
    names = ["counting_gen.yaml", "counting_mc.yaml", "counting_sampled.yaml"]
    assert sorted(p.name for p in tasks.yaml_folder().glob("*.yaml")) == names


def test_importing_tasks_is_light(tmp_path):
    heavy = ["torch", "transformers", "lm_eval", "datasets", "numpy", "metrics", "mteb_ext"]
    root = Path(tasks.__file__).resolve().parent.parent
    assert python(IMPORTS.format(names=heavy), cwd=tmp_path, path=root) == "[]"


def test_the_tag_loads_both_tasks(loaded):
    assert set(loaded) == {"counting_gen", "counting_mc"}


@pytest.mark.parametrize("name", ["counting_gen", "counting_mc"])
def test_docs_are_the_shipped_items_with_their_labels(loaded, name):
    items = read(shipped_test_set())
    assert loaded[name]["docs"] == [row(number, item) for number, item in enumerate(items)]
    assert loaded[name]["texts"] == [item.prompt for item in items]
    assert loaded[name]["delimiter"] == ""
    assert loaded[name]["version"] == 1.0


def test_the_sampled_task_is_the_generated_one_asked_often():
    manager = TaskManager(include_path=str(tasks.yaml_folder()), include_defaults=False)
    loaded = manager.load(["counting_sampled", "counting_gen"])["tasks"]
    sampled, once = loaded["counting_sampled"], loaded["counting_gen"]
    assert sampled.config.repeats == 8 and once.config.repeats == 1
    assert sampled.config.generation_kwargs == {
        **{k: v for k, v in once.config.generation_kwargs.items() if k != "do_sample"},
        "do_sample": True,
        "temperature": 1.0,
    }
    docs = [list(task.test_docs())[:5] for task in (sampled, once)]
    assert docs[0] == docs[1]
    assert [sampled.doc_to_text(doc) for doc in docs[0]] == [once.doc_to_text(doc) for doc in docs[1]]
    assert not sampled.config.tag


def test_targets_are_the_answers(loaded):
    answers = [item.answer for item in read(shipped_test_set())]
    assert [int(target) for target in loaded["counting_gen"]["targets"]] == answers
    assert loaded["counting_mc"]["targets"] == answers
    assert loaded["counting_mc"]["choices"] == [[str(number) for number in range(11)]]
    assert loaded["counting_gen"]["until"] == [")"]
    assert loaded["counting_gen"]["output_type"] == "generate_until"
    assert loaded["counting_mc"]["output_type"] == "multiple_choice"
