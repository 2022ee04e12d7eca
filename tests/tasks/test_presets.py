"""The preset against MTEB itself, against MTEB's own English benchmark, and against the list it stands for."""

import ast
from collections import Counter
from pathlib import Path

import mteb
import pytest

import tasks.presets
from tasks.presets import LAYER_BY_LAYER_32, PRESETS, SHIPPED, TYPES

TEXT = """
    SprintDuplicateQuestions TwitterSemEval2015 TwitterURLCorpus AmazonCounterfactualClassification
    AmazonReviewsClassification Banking77Classification EmotionClassification MTOPDomainClassification
    MTOPIntentClassification MassiveIntentClassification MassiveScenarioClassification ToxicConversationsClassification
    TweetSentimentExtractionClassification ArxivClusteringS2S BiorxivClusteringS2S MedrxivClusteringS2S RedditClustering
    StackExchangeClustering TwentyNewsgroupsClustering AskUbuntuDupQuestions MindSmallReranking SciDocsRR
    StackOverflowDupQuestions BIOSSES SICK-R STS12 STS13 STS14 STS15 STS16 STS17 STSBenchmark"""
LISTED = TEXT.split()


@pytest.fixture(scope="module")
def english_v1():
    return {task.metadata.name: task for task in mteb.get_benchmark("MTEB(eng, v1)").tasks}


def test_it_holds_the_listed_tasks_and_no_other():
    assert [task.name for task in LAYER_BY_LAYER_32] == LISTED
    assert len(set(LISTED)) == 32
    assert Counter(task.type for task in LAYER_BY_LAYER_32) == {
        "PairClassification": 3,
        "Classification": 10,
        "Clustering": 6,
        "Reranking": 4,
        "STS": 9,
    }
    assert PRESETS == {"layer-by-layer-32": LAYER_BY_LAYER_32}


@pytest.mark.parametrize("pinned", LAYER_BY_LAYER_32, ids=lambda task: task.name)
def test_each_pin_exists_in_mteb_and_is_what_its_english_benchmark_scores(pinned, english_v1):
    metadata = mteb.get_task(pinned.name).metadata
    assert (metadata.name, metadata.type) == (pinned.name, pinned.type)
    assert pinned.split in metadata.eval_splits
    assert set(pinned.subsets) <= set(metadata.hf_subsets)
    theirs = english_v1[pinned.name]
    assert list(pinned.subsets) == list(theirs.hf_subsets)
    assert [pinned.split] == list(theirs.eval_splits)
    for subset in pinned.subsets:
        assert {language.split("-")[0] for language in metadata.hf_subsets_to_langscripts[subset]} == {"eng"}


def test_the_pins_that_matter_are_not_mteb_s_own_defaults():
    loose = {t.name for t in LAYER_BY_LAYER_32 if list(mteb.get_task(t.name).hf_subsets) != list(t.subsets)}
    doubled = {t.name for t in LAYER_BY_LAYER_32 if len(mteb.get_task(t.name).eval_splits) > 1}
    assert loose == doubled | {"STS17"}
    assert len(doubled) == 6


def test_types_cover_the_preset_and_the_shipped_tasks():
    assert {task.name: task.type for task in LAYER_BY_LAYER_32} | SHIPPED == TYPES
    assert len(TYPES) == 34


def test_the_published_scores_are_of_these_tasks():
    table = Path(__file__).parents[3] / "shared/data/layer_by_layer/pythia_layer_scores.csv"
    if not table.is_file():
        pytest.skip(f"{table} is not there; it lies beside the repository on development machines only")
    found = {line.split(",")[3] for line in table.read_text(encoding="utf-8").splitlines()[1:]}
    assert len(found) == 16
    assert found <= set(LISTED)


def test_the_module_is_data_that_imports_nothing_of_mteb_or_ours():
    tree = ast.parse(Path(tasks.presets.__file__).read_text(encoding="utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "dataclasses"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
