"""Each kind of task goes through mteb.evaluate with a toy encoder; our identity sample must give MTEB's main score."""

import hashlib
import json
import warnings

import mteb
import mteb.mocks.mock_tasks
import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from sklearn.metrics import accuracy_score, average_precision_score

from mteb_ext.items import read_items, resampled, save_gold

RNG = np.random.default_rng(7)
WORDS = [f"w{i}" for i in range(30)]


@pytest.fixture(autouse=True)
def reseed():
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


class Toy(AbsEncoder):
    """Sums of random word vectors; a greater layer forgets more words."""

    def __init__(self, layer, similarity=ScoringFunction.COSINE):
        meta = ModelMeta.create_empty(overwrites={"name": "layer-wrapper/toy", "revision": "r1"})
        self.mteb_model_meta = meta.model_copy(
            update={"experiment_kwargs": {"layer": layer}, "similarity_fn_name": similarity}
        )
        self.layer = layer

    def encode(self, inputs, **kwargs):
        return np.stack([self._embed(text) for batch in inputs for text in batch["text"]])

    def _embed(self, text):
        words = [w for w in text.split() if int(hashlib.sha1(w.encode()).hexdigest(), 16) % 7 >= self.layer]
        seeds = [int(hashlib.sha1(w.encode()).hexdigest()[:8], 16) for w in words]
        return sum((np.random.default_rng(s).normal(size=6) for s in seeds), np.full(6, 0.1)).astype(np.float32)


def texts(n, group=None):
    """Random texts; those of one group share words."""
    group = np.zeros(n, int) if group is None else group
    return [" ".join([*RNG.choice(WORDS[4 * g : 4 * g + 8], 3), *RNG.choice(WORDS, 2)]) for g in group]


def sts(name="STSBenchmark", subsets=("default",), n=25):
    task = mteb.get_task(name, hf_subsets=None if subsets == ("default",) else list(subsets))
    data = {}
    for subset in subsets:
        score = np.round(RNG.uniform(0, 5, n))
        rows = {"sentence1": texts(n), "sentence2": texts(n), "score": score.tolist()}
        data[subset] = DatasetDict({task.eval_splits[0]: Dataset.from_dict(rows)})
    task.dataset = data["default"] if subsets == ("default",) else data
    return loaded(task)


def pairs(single_row=False, n=40):
    task = mteb.get_task("SprintDuplicateQuestions", eval_splits=["test"])
    rows = {"sentence1": texts(n), "sentence2": texts(n), "labels": [int(i % 3 == 0) for i in range(n)]}
    rows["sentence2"][:20] = rows["sentence1"][:20]  # ties at similarity 1
    task.dataset = DatasetDict({"test": Dataset.from_dict({k: [v] for k, v in rows.items()} if single_row else rows)})
    return loaded(task)


def classification(name, labels):
    task = mteb.get_task(name)
    task.samples_per_label, task.n_experiments = 4, 3

    def rows(n):
        group = np.arange(n) % len(labels)
        found = {
            task.input_column_name: texts(n, group),
            task.label_column_name: [labels[g] for g in group],
        }
        return Dataset.from_dict(found)

    task.dataset = DatasetDict({task.train_split: rows(40), **{split: rows(33) for split in task.eval_splits}})
    return loaded(task)


def clustering():
    task = mteb.get_task("TwentyNewsgroupsClustering")
    groups = [np.arange(20) % 3, np.zeros(4, int), np.arange(15) % 4]  # the second has one label
    rows = {"sentences": [texts(len(g), g) for g in groups], "labels": [[f"t{i}" for i in g] for g in groups]}
    task.dataset = DatasetDict({split: Dataset.from_dict(rows) for split in task.eval_splits})
    return loaded(task)


def retrieval(name, queries, documents=60, same_ids=False):
    task = mteb.get_task(name)
    names = [f"d{i}" for i in range(documents)]
    corpus = texts(documents)
    if same_ids:
        names[: len(queries)] = queries
    found = {q: {names[j]: int(j % 2) for j in RNG.choice(documents, 6, replace=False)} for q in queries}
    if "_" in queries[0]:  # subqueries of one query have the same relevant documents
        found = {q: found[q.rsplit("_", 1)[0] + "_0"] for q in queries}
    found[queries[-1]] = {names[0]: 0}  # judged, nothing relevant
    task.dataset = {
        task.hf_subsets[0]: {
            split: {
                "queries": Dataset.from_dict({"id": [*queries, "alone"], "text": [*corpus[: len(queries)], "w1"]}),
                "corpus": Dataset.from_dict({"id": names, "text": corpus, "title": [""] * documents}),
                "relevant_docs": {**found, "alone": {}},
                "top_ranked": None,
            }
            for split in task.eval_splits
        }
    }
    return loaded(task)


def loaded(task):
    task.data_loaded = True
    return task


def sweep(task, folder, layers=(0, 2), similarity=ScoringFunction.COSINE):
    """Evaluate a task as `eval-ext sweep --save-predictions` does; returns each layer's main score."""
    assert save_gold(task, folder / "predictions/gold")
    scores = []
    for layer in layers:
        model = Toy(layer, similarity)
        found = mteb.evaluate(
            model,
            task,
            cache=mteb.ResultCache(folder),
            prediction_folder=folder / "predictions/layer-wrapper__toy/r1" / f"layer_{layer}",
            co2_tracker=False,
            show_progress_bar=False,
        )
        scores.append(found.task_results[0].get_score())
    return np.array(scores)


KINDS = {
    "sts": sts,
    "sts, two subsets": lambda: sts("STS17", ("en-en", "es-es")),
    "pairs": pairs,
    "pairs in one row": lambda: pairs(single_row=True),
    "accuracy": lambda: classification("Banking77Classification", [0, 1, 2]),
    "f1": lambda: classification("BengaliSentimentAnalysis", [0, 1]),
    "clustering": clustering,
    "map": lambda: retrieval("AskUbuntuDupQuestions", [f"q{i}" for i in range(12)]),
    "ndcg, same names": lambda: retrieval("ArguAna", [f"q{i}" for i in range(12)], same_ids=True),
    "mrr": lambda: retrieval("GermanQuAD-Retrieval", [f"q{i}" for i in range(12)]),
    "subqueries": lambda: retrieval("MindSmallReranking", [f"q{i}_{j}" for i in range(6) for j in range(2)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.filterwarnings("ignore:The task.*superseded")
def test_the_identity_sample_gives_mtebs_main_score(kind, tmp_path):
    task = KINDS[kind]()
    scores = sweep(task, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (items,) = read_items(tmp_path)
    assert list(items.arms) == [("layer-wrapper__toy", "r1", f"layer_{k}") for k in (0, 2)]
    assert items.metric == task.metadata.main_score
    np.testing.assert_allclose(items.score(np.arange(sum(items.sizes))), scores, rtol=0, atol=1e-9)
    assert scores[0] != scores[1]


@pytest.mark.parametrize("name", ["MockRetrievalTask", "MockMultilingualSTSTask", "MockPairClassificationTask"])
def test_mtebs_mock_tasks(name, tmp_path):
    task = getattr(mteb.mocks.mock_tasks, name)()
    task.load_data()
    scores = sweep(task, tmp_path, layers=(0,), similarity=ScoringFunction.DOT_PRODUCT)
    (items,) = read_items(tmp_path)
    np.testing.assert_allclose(items.score(np.arange(sum(items.sizes))), scores, rtol=0, atol=1e-9, equal_nan=True)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    sweep(sts("STS17", ("en-en", "es-es")), folder, layers=(0, 1, 2))
    sweep(classification("Banking77Classification", [0, 1, 2]), folder, layers=(0, 1))
    sweep(pairs(), folder, layers=(0, 1))
    return folder


@pytest.mark.filterwarnings("ignore:The task.*superseded")
def test_score_is_that_of_the_items_drawn(swept):
    found = {items.task: items for items in read_items(swept)}
    rows = np.array([3, 3, 3, 0, 1, 5, 7, 30, 21])
    for name, metric in (("Banking77Classification", accuracy_score), ("SprintDuplicateQuestions", None)):
        items = found[name]
        gold, predictions = raw(swept, name, "layer_1")
        truth = np.array(gold["parts"][0]["answers"])[rows]
        if metric is None:
            signs = {"manhattan_distances": -1, "euclidean_distances": -1}
            columns = [signs.get(k, 1) * np.array(v)[rows] for k, v in predictions.items()]
            expected = max(average_precision_score(truth, column) for column in columns)
        else:
            expected = np.mean([metric(truth, np.array(row)[rows]) for row in predictions])
        assert items.score(rows)[1] == pytest.approx(expected, abs=1e-12)


def raw(folder, task, experiment):
    gold = json.loads((folder / "predictions/gold" / f"{task}.json").read_text())
    file = folder / "predictions/layer-wrapper__toy/r1" / experiment / f"{task}_predictions.json"
    return gold, json.loads(file.read_text())["default"]["test"]


def test_score_refuses_rows_outside(swept):
    items = next(read_items(swept))
    with pytest.raises(ValueError, match=r"rows of task Banking77Classification run from 0 to 33; it has 0\.\.32"):
        items.score(np.array([0, 33]))


def test_a_part_without_items_has_no_score(swept):
    items = {items.task: items for items in read_items(swept)}["STS17"]
    assert items.sizes == [25, 25]
    assert np.isnan(items.score(np.arange(25))).all()  # en-en alone: the mean over subsets does not exist


def test_resampled_is_paired_seeded_and_keeps_the_subsets_apart(swept):
    first, again, other = (resampled(swept, 40, seed) for seed in (1, 1, 2))
    assert list(first) == ["Banking77Classification", "STS17", "SprintDuplicateQuestions"]
    arms, scores = first["STS17"]
    assert scores.shape == (40, 3)
    assert arms[0] == ("layer-wrapper__toy", "r1", "layer_0")
    assert np.isfinite(scores).all() and scores.std(axis=0).min() > 0
    np.testing.assert_array_equal(scores, again["STS17"][1])
    assert not np.array_equal(scores, other["STS17"][1])


def test_identical_arms_have_identical_scores_and_tasks_do_not_move_each_other(swept, tmp_path):
    whole = resampled(swept, 20, 3)
    for place in ("results/layer-wrapper__toy/r1/experiments", "predictions/layer-wrapper__toy/r1"):
        for layer in (0, 9):  # layer 9 is a copy of layer 0
            target = tmp_path / place / f"layer_{layer}"
            target.mkdir(parents=True)
            for path in (swept / place / "layer_0").glob("STS17*"):
                (target / path.name).write_bytes(path.read_bytes())
    (tmp_path / "predictions/gold").mkdir()
    (tmp_path / "predictions/gold/STS17.json").write_bytes((swept / "predictions/gold/STS17.json").read_bytes())
    arms, scores = resampled(tmp_path, 20, 3)["STS17"]
    assert [arm[2] for arm in arms] == ["layer_0", "layer_9"]
    np.testing.assert_array_equal(scores[:, 0], scores[:, 1])
    np.testing.assert_array_equal(scores[:, 0], whole["STS17"][1][:, 0])


def test_draws_below_one_are_refused(swept):
    with pytest.raises(ValueError, match="draws is 0; give at least 1"):
        resampled(swept, 0, 1)
