"""The encoder as MTEB uses it: loaders, prompts, lengths, what is not finite, similarities, whole tasks."""

import mteb
import numpy as np
import pytest
from mteb._create_dataloaders import create_dataloader
from mteb.mocks import mock_tasks
from mteb.types import PromptType

from mteb_ext.aggregate import make_aggregate
from mteb_ext.bank import Bank
from mteb_ext.checkpoint import look
from mteb_ext.encoder import LayerEncoder
from mteb_ext.meta import Variant, meta_of
from mteb_ext.shards import View
from mteb_ext.source import Request, Source

MEAN = View("mean", "raw")
STS = mock_tasks.MockSTSTask()


@pytest.fixture(scope="module")
def request_of(tiny):
    return Request(look(str(tiny("bert"))), "float32", 16)


@pytest.fixture
def source(request_of):
    return Source(request_of, Bank(), ("cpu",))


class Recorded:
    """A source that gives hand-made rows, and remembers how it was asked."""

    def __init__(self, request, rows=None):
        self.request, self.views, self.asked, self.held = request, {}, [], rows

    def rows(self, texts, view, layers, reduce, **options):
        self.asked.append((list(texts), view, tuple(layers), options))
        rows = np.ones((len(layers), len(texts), 2), np.float32) if self.held is None else self.held
        return reduce(rows)


def encode(encoder, texts, task=STS, prompt_type=None, **options):
    loader = [{"text": texts[i : i + 2]} for i in range(0, len(texts), 2)]
    return encoder.encode(
        loader, task_metadata=task.metadata, hf_split="test", hf_subset="default", prompt_type=prompt_type, **options
    )


def test_what_the_source_is_asked_for(request_of):
    source = Recorded(request_of)
    encoder = LayerEncoder(source, make_aggregate("concat", [1, 3]), MEAN)
    assert source.views == {MEAN: None}
    found = encode(encoder, ["a", "b", "c"], batch_size=7, show_progress_bar=False)
    assert found.shape == (3, 4)
    (asked,) = source.asked
    assert asked == (
        ["a", "b", "c"],
        MEAN,
        (1, 3),
        {"prompt": "", "task": STS.metadata.name, "batch_size": 7, "progress": False},
    )


def test_loaders_as_mteb_makes_them(source):
    task = mock_tasks.MockSTSTask()
    task.load_data()
    data = task.dataset["test"]
    loader = create_dataloader(dataset=data, task_metadata=task.metadata, input_column="sentence1", batch_size=2)
    encoder = LayerEncoder(source, make_aggregate(None, [2]), MEAN)
    found = encoder.encode(loader, task_metadata=task.metadata, hf_split="test", hf_subset="default")
    again = encode(encoder, list(data["sentence1"]))
    np.testing.assert_array_equal(found, again)
    assert found.dtype == np.float32
    assert found.shape == (len(data), 16)


PROMPTS = {
    "query": "Q: ",
    "document": "D: ",
    "STS": "type: ",
    STS.metadata.name: "task: ",
    f"{STS.metadata.name}-query": "task query: ",
    "plain": "P: ",
}


@pytest.mark.parametrize(
    ("names", "default", "kind", "said"),
    [
        (list(PROMPTS), None, PromptType.query, "task query: "),
        (list(PROMPTS), None, PromptType.document, "task: "),
        (["STS", "query", "document"], None, PromptType.query, "type: "),
        (["query", "document"], None, PromptType.query, "Q: "),
        (["query", "document"], None, PromptType.document, "D: "),
        (["query", "document"], None, None, ""),
        (["query", "document", "plain"], "plain", None, "P: "),
        (["plain"], "plain", PromptType.query, "P: "),
        (["plain"], None, PromptType.query, ""),
        ([], None, PromptType.document, ""),
    ],
)
def test_the_models_own_prompts(request_of, names, default, kind, said):
    source = Recorded(request_of)
    prompts = {name: PROMPTS[name] for name in names}
    encoder = LayerEncoder(source, make_aggregate(None, [0]), MEAN, prompts=prompts, default_prompt=default)
    encode(encoder, ["a"], prompt_type=kind)
    assert source.asked[0][3]["prompt"] == said


@pytest.mark.parametrize("name", ["passage", "corpus"])
def test_other_names_of_a_documents_prompt(request_of, name):
    source = Recorded(request_of)
    encoder = LayerEncoder(source, make_aggregate(None, [0]), MEAN, prompts={name: "p: ", "x": "x"}, default_prompt="x")
    encode(encoder, ["a"], prompt_type=PromptType.document)
    encode(encoder, ["a"], prompt_type=PromptType.query)
    assert [asked[3]["prompt"] for asked in source.asked] == ["p: ", "x"]


@pytest.mark.parametrize("given", ["mine: ", ""])
def test_a_prompt_that_is_given_wins_even_an_empty_one(request_of, given):
    source = Recorded(request_of)
    encoder = LayerEncoder(source, make_aggregate(None, [0]), MEAN, prompt=given, prompts=PROMPTS)
    for kind in (None, PromptType.query, PromptType.document):
        encode(encoder, ["a"], prompt_type=kind)
    assert {asked[3]["prompt"] for asked in source.asked} == {given}


def test_unit_lengths(request_of):
    rows = np.array([[[3, 4], [0, 0], [1e30, 1e30], [1e-30, 0]]], np.float32)
    encoder = LayerEncoder(Recorded(request_of, rows), make_aggregate(None, [0]), MEAN, normalize=True)
    found = encode(encoder, list("abcd"))
    np.testing.assert_allclose(found, [[0.6, 0.8], [0, 0], [2**-0.5, 2**-0.5], [1, 0]], rtol=1e-6)
    assert found.dtype == np.float32


def test_an_aggregate_is_scaled_after_it_is_made(request_of):
    rows = np.array([[[3.0, 0.0]], [[0.0, 8.0]]], np.float32)
    encoder = LayerEncoder(Recorded(request_of, rows), make_aggregate("mean", [0, 1]), MEAN, normalize=True)
    np.testing.assert_allclose(encode(encoder, ["a"])[0], np.array([1.5, 4]) / np.hypot(1.5, 4), rtol=1e-6)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_embeddings_that_are_not_finite_are_refused_with_their_text(request_of, bad, normalize):
    rows = np.array([[[1, 2], [bad, 1], [bad, bad]]], np.float32)
    encoder = LayerEncoder(Recorded(request_of, rows), make_aggregate(None, [0]), MEAN, normalize=normalize)
    with pytest.raises(ValueError, match=r"2 of 3 embeddings of tiny-bert in float32 are not finite, .*'two") as caught:
        encode(encoder, ["one", "two\n" + 100 * "x", "three"])
    assert "\n" not in str(caught.value)
    assert "x" * 60 not in str(caught.value)


def test_similarity_is_cosine_by_default(source):
    encoder = LayerEncoder(source, make_aggregate(None, [3]), MEAN)
    a, b = encode(encoder, ["w1 w2", "w3"]), encode(encoder, ["w4", "w1"])

    def cosine(x, y):
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    matrix = np.asarray(encoder.similarity(a, b))
    np.testing.assert_allclose(matrix, [[cosine(x, y) for y in b] for x in a], rtol=1e-5)
    np.testing.assert_allclose(np.asarray(encoder.similarity_pairwise(a, b)), np.diag(matrix), rtol=1e-5)


@pytest.mark.parametrize(
    "task", [mock_tasks.MockSTSTask, mock_tasks.MockClassificationTask, mock_tasks.MockPairClassificationTask]
)
def test_whole_tasks_of_mteb(request_of, source, task):
    scores, passes = [], []
    for layer in range(4):
        variant = Variant(request_of, make_aggregate(None, [layer]), MEAN, None, False)
        encoder = LayerEncoder(source, variant.aggregate, MEAN)
        encoder.mteb_model_meta = meta_of(variant)
        result = mteb.evaluate(encoder, task(), cache=None, co2_tracker=False, show_progress_bar=False).task_results[0]
        scores.append(result.get_score())
        passes.append(source.counters.passes)
    assert np.isfinite(scores).all()
    assert len(set(passes)) == 1  # all by the first layer
    assert source.counters.again == 0
