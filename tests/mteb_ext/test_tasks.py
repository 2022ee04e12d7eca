"""What a user may write for a task, what is refused, sizes without data, and a real evaluation of the shipped tasks."""

import pickle
from collections import Counter
from types import SimpleNamespace

import mteb
import numpy as np
import pytest
import torch
from mteb.abstasks import AbsTaskClassification
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from transformers import AutoModel, AutoTokenizer

from mteb_ext import task_size
from mteb_ext.scoring import Loaded
from mteb_ext.shipped_tasks import SHIPPED_TASKS
from mteb_ext.tasks import TaskSize, describe, resolve
from tasks.counting import demo_model_folder
from tasks.presets import LAYER_BY_LAYER_32, SHIPPED

OWN = """
from mteb_ext.shipped_tasks import ListCountClassification

class Mine(ListCountClassification):
    metadata = ListCountClassification.metadata.model_copy(update={"name": "Mine"})

class Broken(Mine):
    def __init__(self):
        raise RuntimeError("no data\\nat all")

class NoTask:
    pass
"""


def scopes(tasks):
    return [(task.metadata.name, list(task.eval_splits), list(task.hf_subsets)) for task in tasks]


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "own.py"
    path.write_text(OWN)
    return path


def test_the_preset_in_its_order_with_its_pins():
    assert scopes(resolve([], "layer-by-layer-32")) == [(t.name, [t.split], list(t.subsets)) for t in LAYER_BY_LAYER_32]


def test_repeats_of_a_preset_s_task_are_dropped_and_others_follow():
    tasks = resolve(["STS17", "NFCorpus", "STS17[en-en]", " NFCorpus "], "layer-by-layer-32")
    assert [name for name, _, _ in scopes(tasks)] == [*(task.name for task in LAYER_BY_LAYER_32), "NFCorpus"]


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("STS17", ("STS17", ["test"], ["en-en"])),
        ("MTOPIntentClassification", ("MTOPIntentClassification", ["test"], ["en"])),
        ("STS17[es-es+en-en]", ("STS17", ["test"], ["en-en", "es-es"])),
        ("MTOPIntentClassification[de]", ("MTOPIntentClassification", ["test"], ["de"])),
        ("WordCategoryClustering", ("WordCategoryClustering", ["test"], ["default"])),
    ],
)
def test_one_task(text, scope):
    assert scopes(resolve([text])) == [scope]


def test_all_subsets_and_the_splits_of_tasks_outside_the_preset():
    assert len(resolve(["STS17[*]"])[0].hf_subsets) == 11
    several = {
        t.metadata.name: list(t.eval_splits) for t in mteb.get_tasks(task_types=["STS"]) if len(t.eval_splits) > 1
    }
    assert several
    for name, splits in several.items():
        assert list(resolve([f"{name}[*]"])[0].eval_splits) == (["test"] if "test" in splits else splits)


def test_a_benchmark_has_its_own_pins_and_fresh_objects():
    theirs = list(mteb.get_benchmark("MTEB(eng, v2)").tasks)
    ours = resolve(["benchmark:MTEB(eng, v2)"])
    assert scopes(ours) == scopes(theirs)
    assert not {id(task) for task in ours} & {id(task) for task in theirs}


def test_a_task_of_one_s_own_by_file_and_by_module(own):
    mine = resolve([f"{own}:Mine"])[0]
    assert (mine.metadata.name, mine.metadata.type) == ("Mine", "Classification")
    assert type(resolve([f"{own}:Mine"])[0]) is type(mine)
    by_module = resolve(["mteb_ext.shipped_tasks:WordCategoryClustering"])[0]
    assert type(by_module) is SHIPPED_TASKS["WordCategoryClustering"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("STS71", "no task 'STS71'; did you mean 'STS17'?"),
        ("stsbenchmark", "did you mean 'STSBenchmark'?"),
        ("WordCategoriesClustering", "did you mean 'WordCategoryClustering'?"),
        ("layer-by-layer-32", "is a preset, not a task"),
        ("MTEB(eng, v2)", "write 'benchmark:MTEB(eng, v2)'"),
        ("benchmark:MTEB(eng,v2)", "no benchmark 'MTEB(eng,v2)'; did you mean 'MTEB(eng, v2)'?"),
        ("STS17[en]", "task 'STS17' has no subset 'en'; it has ko-ko, "),
        ("STS17[en_en]", "did you mean 'en-en'?"),
        ("STS17[]", "no subset ''"),
        ("MassiveIntentClassification[english]", "more"),
        ("CIFAR10", "task 'CIFAR10' reads image, but layers are of text models"),
        ("none.py:Mine", "there is no file "),
        ("none.py", "names no class; write path/to/file.py:CLASS"),
        ("no.such.module:Mine", "cannot be imported: ModuleNotFoundError"),
        ("json:JSONDecoder", "json has no task class 'JSONDecoder'"),
        ("", "no task ''"),
    ],
)
def test_refusals_are_one_line_that_says_what_to_write(text, said):
    with pytest.raises(ValueError) as caught:
        resolve([text])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Mime", "did you mean 'Mine'?"),
        ("NoTask", "no task class 'NoTask'"),
        ("Broken", "RuntimeError: no data at all"),
    ],
)
def test_what_may_be_wrong_in_one_s_own_file(own, name, said):
    with pytest.raises(ValueError) as caught:
        resolve([f"{own}:{name}"])
    assert said in str(caught.value)


def test_a_file_that_does_not_run_is_named_and_may_be_mended(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("raise KeyError('x')")
    with pytest.raises(ValueError, match=r"bad\.py cannot be imported: KeyError: 'x'"):
        resolve([f"{path}:Mine"])
    path.write_text(OWN)
    assert resolve([f"{path}:Mine"])


def test_two_meanings_of_one_name_nothing_at_all_and_an_unknown_preset(own):
    with pytest.raises(ValueError, match=r"'STS17' is named twice, as STS17.*\[en-en\].*\[es-es\].*; name it once"):
        resolve(["STS17", "STS17[es-es]"])
    own.write_text(OWN.replace('"name": "Mine"', '"name": "STS17"'))
    with pytest.raises(ValueError, match="'STS17' is named twice"):
        resolve(["STS17", f"{own}:Mine"])
    with pytest.raises(ValueError, match="no tasks are named; give some, or a preset: layer-by-layer-32"):
        resolve([])
    with pytest.raises(ValueError, match="no preset 'layer-by-layer'; did you mean 'layer-by-layer-32'"):
        resolve([], "layer-by-layer")


def test_every_task_of_the_preset_has_a_size():
    sizes = {task.metadata.name: describe(task) for task in resolve([], "layer-by-layer-32")}
    assert all(size.texts and size.characters and size.unique for size in sizes.values())
    stats = mteb.get_task("STSBenchmark").metadata.descriptive_stats["test"]
    assert sizes["STSBenchmark"].texts == sum(stats[f"text{i}_statistics"]["unique_texts"] for i in (1, 2)) == 2593
    assert sizes["STS17"].texts == 500  # 250 pairs of the one English subset
    assert sizes["RedditClustering"] == TaskSize(64_337, round(64_337 * 64.68918385402793), True)
    assert 3080 + 77 * 8 < sizes["Banking77Classification"].texts < 3080 + 77 * 80


def test_a_retrieval_task_a_sampled_clustering_an_aggregate_and_an_unknown():
    assert describe(mteb.get_task("NFCorpus")).texts == 3593 + 323
    sampled = mteb.get_task("BiorxivClusteringS2S.v2")
    share = sampled.max_fraction_of_documents_to_embed
    limit = sampled.max_document_to_embed if share is None else int(share * 53_773)
    assert describe(sampled).texts == limit < 53_773
    whole = mteb.get_task("CQADupstackRetrieval")
    parts = [describe(task) for task in whole.metadata.tasks]
    assert describe(whole).texts == sum(part.texts for part in parts)
    assert describe(mteb.get_task("MLQARetrieval")) == TaskSize(None, None, False)


def test_the_training_rows_are_what_mteb_draws_on_average():
    """Against MTEB's own undersampling of 40 labels, from rarer than the shots to far more frequent."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), np.linspace(3, 300, 40).astype(int)).tolist()
    rng.shuffle(labels)
    made = SHIPPED_TASKS["ListCountClassification"]()
    rows = SimpleNamespace(select=lambda _: None)
    dataset = type("Rows", (), {"__len__": lambda _: len(labels), "__getitem__": lambda _, __: labels})()
    dataset.select = rows.select
    order, drawn = None, set()
    for experiment in range(made.n_experiments):
        _, order, chosen = AbsTaskClassification._undersample_data(made, dataset, experiment, order)
        drawn |= set(chosen)
    counts = {str(label): {"count": count} for label, count in Counter(labels).items()}
    column = task_size._Column(len(labels), 10.0, True)
    expected = task_size._drawn(made, {"label_statistics": {"labels": counts}}, column)
    assert expected.texts == pytest.approx(len(drawn), rel=0.05)
    assert task_size._drawn(made, {}, column) is None


class Layer(AbsEncoder):
    """The demo model's masked mean at one raw layer; remembers the texts it has seen."""

    def __init__(self, k):
        self.k, self.texts = k, []
        self.tokenizer = AutoTokenizer.from_pretrained(demo_model_folder())
        self.model = AutoModel.from_pretrained(demo_model_folder()).eval()
        self.mteb_model_meta = ModelMeta.create_empty(overwrites={"name": f"demo/layer-{k}", "revision": "1"})

    @torch.no_grad()
    def encode(self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs):
        rows = []
        for batch in inputs:
            self.texts += batch["text"] if "text" in batch else batch["sentences"]
            held = self.tokenizer(batch["text"], return_tensors="pt", padding=True)
            kept = held["attention_mask"][..., None]
            states = self.model(
                held["input_ids"], attention_mask=held["attention_mask"], output_hidden_states=True
            ).hidden_states
            rows.append((states[self.k] * kept).sum(1) / kept.sum(1))
        return torch.cat(rows).numpy()


def evaluate(model, task):
    options = {"cache": None, "co2_tracker": False, "show_progress_bar": False, "encode_kwargs": {"batch_size": 128}}
    return mteb.evaluate(model, task, **options).task_results[0]


@pytest.mark.parametrize("name", list(SHIPPED))
def test_mteb_evaluates_the_shipped_tasks_and_the_layers_differ(name):
    task = resolve([name])[0]
    assert (task.metadata.type, task.metadata.is_filled()) == (SHIPPED[name], False)  # a reference is all it lacks
    first, last = Layer(0), Layer(4)
    results = [evaluate(model, Loaded(task).fresh()) for model in (first, last)]
    low, high = (result.get_score() for result in results)
    assert abs(low - high) > 0.15
    assert (low > high) == (name == "WordCategoryClustering")
    assert results[0].dataset_revision == "1.0"
    assert len(set(first.texts)) == pytest.approx(describe(task).texts, rel=0.02)
    assert describe(task).unique


def test_labels_read_once_give_mteb_s_scores():
    labels, guesses = [0, 1, 2, 2, 1, 0, 0], [0, 1, 1, 2, 1, 0, 2]
    for name in ("ListCountClassification", "STS17", "WordCategoryClustering"):
        task = resolve([name])[0]
        assert ("_calculate_scores" in vars(task)) == (name == "ListCountClassification")

    class Column:
        """A lazy column that counts how often it is read from end to end."""

        reads = 0

        def __iter__(self):
            self.reads += 1
            return iter(labels)

        def __len__(self):
            return len(labels)

    task, lazy = resolve(["ListCountClassification"])[0], Column()
    assert task._calculate_scores(lazy, np.array(guesses)) == AbsTaskClassification._calculate_scores(
        task, labels, np.array(guesses)
    )
    assert lazy.reads == 1
    assert pickle.loads(pickle.dumps(task))._calculate_scores(labels, np.array(labels))["accuracy"] == 1


def test_a_fresh_copy_scores_as_if_nothing_was_scored_before():
    loaded, model = Loaded(resolve(["WordCategoryClustering"])[0]), Layer(1)
    once = evaluate(model, loaded.fresh()).get_score()
    assert evaluate(model, loaded.fresh()).get_score() == once
    assert evaluate(model, resolve(["WordCategoryClustering"])[0]).get_score() == once
    used = loaded.fresh()
    evaluate(model, used)
    assert evaluate(model, used).get_score() != once  # MTEB's own behaviour, which fresh copies are for
