"""Tiny decoders, requests made by hand, and evaluations of made-up tasks, all without a hub."""

import os
import random
import re
from collections import defaultdict
from importlib.metadata import version

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval
import pytest
import torch
import transformers
from datasets import Dataset
from families import CONTEXT, VOCAB, tiny
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lm_eval_ext.model import HFStoreLM
from metrics.store import open_store
from tasks import yaml_folder
from tasks.counting import demo_model_folder

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

WORDS = [f"w{i}" for i in range(VOCAB - 4)]
CHAT = "{% for m in messages %}w1 {{ m['content'] }} w2 {% endfor %}{% if add_generation_prompt %}w3 {% endif %}"


@pytest.fixture(scope="session")
def tokenizer():
    """One token a word, no token of its own at the start."""
    words = {"<bos>": 0, "<eos>": 1, "<unk>": 2, "<pad>": 3, **{w: i + 4 for i, w in enumerate(WORDS)}}
    backend = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="session")
def tiny_model():
    """A function (family, attention) -> a tiny random decoder; the same weights each time."""
    return tiny


@pytest.fixture
def make_lm(tiny_model, tokenizer, tmp_path):
    """A function (family, **arguments) -> an open HFStoreLM on a tiny model; closed at the end of the test."""
    opened = []

    def make(family="llama", *, attention="sdpa", model=None, tokenizer=tokenizer, **arguments):
        arguments.setdefault("store", tmp_path / f"store{len(opened)}")
        arguments.setdefault("batch_size", 4)
        lm = HFStoreLM(
            model if model is not None else tiny_model(family, attention),
            tokenizer=tokenizer,
            device="cpu",
            **arguments,
        )
        opened.append(lm)
        return lm

    yield make
    for lm in opened:
        lm.recorder.close()


@pytest.fixture
def make_hf(tiny_model, tokenizer):
    """A function (family, **arguments) -> the host's own model on the same weights."""

    def make(family="llama", *, model=None, tokenizer=tokenizer, **arguments):
        arguments.setdefault("batch_size", 4)
        chosen = model if model is not None else tiny_model(family)
        return HFLM(chosen, tokenizer=tokenizer, device="cpu", **arguments)

    return make


@pytest.fixture
def reopened():
    """A function lm -> its store, closed by the writer and opened for reading."""

    def read(lm):
        lm.recorder.close()
        return open_store(lm.store_path)

    return read


@pytest.fixture(scope="session")
def words_of():
    """A function (number, seed) -> that many words."""

    def make(number, seed):
        rng = random.Random(seed)
        return " ".join(rng.choice(WORDS) for _ in range(number))

    return make


@pytest.fixture
def prompts(words_of):
    """Five texts of unequal lengths."""
    return [words_of(n, seed) for seed, n in enumerate((3, 11, 6, 1, 8))]


@pytest.fixture(scope="session")
def instance():
    """A function (kind, arguments, doc_id) -> a request as the harness makes it."""

    def make(kind, arguments, doc_id=0, *, idx=0, task="toy", repeats=1, doc=None):
        return Instance(
            request_type=kind,
            doc={"id": doc_id} if doc is None else doc,
            arguments=arguments,
            idx=idx,
            metadata=(task, doc_id, repeats),
        )

    return make


@pytest.fixture(scope="session")
def toy_task():
    """A function (name, documents, **configuration) -> a task that lm-eval takes as it is."""

    def make(name, documents, **configuration):
        def load(**_metadata):
            return {"test": Dataset.from_list(documents), "train": Dataset.from_list(documents[::-1])}

        return {
            "task": name,
            "custom_dataset": load,
            "test_split": "test",
            "fewshot_split": "train",
            "doc_to_text": "{{text}}",
            "metadata": {"version": 1.0},
            **configuration,
        }

    return make


@pytest.fixture(scope="session")
def task_manager():
    """One index of tasks for all tests; reading those of the harness takes seconds."""
    return TaskManager(include_path=str(yaml_folder()), include_defaults=False)


def _made(tasks, patch, task_manager):
    """The older harness forgets the name of a task that is a dictionary, and looks up the file of one that has none."""
    patch.setattr(task_manager, "_task_index", defaultdict(lambda: {"yaml_path": "none"}, task_manager.task_index))
    return [ConfigurableTask(config=dict(task)) if isinstance(task, dict) else task for task in tasks]


@pytest.fixture(scope="session")
def evaluate(task_manager):
    """A function (lm, tasks, **options) -> lm-eval's results, small and quiet."""

    def run(lm, tasks, **options):
        options = {"bootstrap_iters": 0, "batch_size": None, "task_manager": task_manager, **options}
        with pytest.MonkeyPatch.context() as patch:  # a second's survey of the machine
            patch.setattr("lm_eval.evaluator.add_env_info", lambda results: None)
            if version("lm-eval") in ("0.4.10", "0.4.11"):
                tasks = _made(tasks, patch, task_manager)
            return lm_eval.simple_evaluate(model=lm, tasks=tasks, **options)

    return run


@pytest.fixture(scope="session")
def run_to_files(task_manager):
    """A function (model, model_args, tasks, folder, **options): an evaluation and its files, as on a command line."""

    def run(model, model_args, tasks, folder, **options):
        tracker = EvaluationTracker(output_path=str(folder))
        results = lm_eval.simple_evaluate(
            model=model,
            model_args=model_args,
            tasks=tasks,
            device="cpu",
            bootstrap_iters=0,
            evaluation_tracker=tracker,
            task_manager=task_manager,
            log_samples=True,
            **options,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task in results["configs"]:
            tracker.save_results_samples(task_name=task, samples=samples[task])
        return results

    return run


TIMES = ("date", "start_time", "end_time", "total_evaluation_time_seconds", "git_hash", "model_name")
OURS = ("hf_store", "model", "model_args", "model_source", "model_name_sanitized")


@pytest.fixture(scope="session")
def without_times():
    """A function that takes times, addresses and the store's own entry out of a result or of a sample."""

    def clean(value):
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items() if k not in TIMES and k not in OURS}
        if isinstance(value, (list, tuple)):
            return [clean(v) for v in value]
        if callable(value):
            return getattr(value, "__name__", "function")
        return re.sub(r" at 0x[0-9a-f]+", "", value) if isinstance(value, str) else value

    return clean


@pytest.fixture(scope="session")
def demo_model():
    """The folder of the demo model."""
    return str(demo_model_folder())
