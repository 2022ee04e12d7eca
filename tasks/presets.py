"""The named sets of MTEB tasks, with the split and the subsets of each written down.

What MTEB calls "MTEB(eng)" changes from version to version, and a task's own defaults take in other languages and
validation copies of the same data; a preset does not move.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PresetTask:
    """A task of a preset.

    Attributes:
        name: its name in MTEB.
        type: its MTEB type, such as ``STS``.
        split: the one split that is scored.
        subsets: the subsets that are scored, as MTEB spells them; a task without any has ``default``.
    """

    name: str
    type: str
    split: str = "test"
    subsets: tuple[str, ...] = ("default",)


_ENGLISH = {
    "AmazonCounterfactualClassification": "en",  # "en-ext" is English too, but not of the 32
    "AmazonReviewsClassification": "en",
    "MTOPDomainClassification": "en",
    "MTOPIntentClassification": "en",
    "MassiveIntentClassification": "en",
    "MassiveScenarioClassification": "en",
    "STS17": "en-en",
}
"""The English subset of each task that comes in several languages."""

_TABLE = {
    "PairClassification": "SprintDuplicateQuestions TwitterSemEval2015 TwitterURLCorpus",
    "Classification": """
        AmazonCounterfactualClassification AmazonReviewsClassification Banking77Classification EmotionClassification
        MTOPDomainClassification MTOPIntentClassification MassiveIntentClassification MassiveScenarioClassification
        ToxicConversationsClassification TweetSentimentExtractionClassification""",
    "Clustering": """
        ArxivClusteringS2S BiorxivClusteringS2S MedrxivClusteringS2S RedditClustering StackExchangeClustering
        TwentyNewsgroupsClustering""",
    "Reranking": "AskUbuntuDupQuestions MindSmallReranking SciDocsRR StackOverflowDupQuestions",
    "STS": "BIOSSES SICK-R STS12 STS13 STS14 STS15 STS16 STS17 STSBenchmark",
}

LAYER_BY_LAYER_32: tuple[PresetTask, ...] = tuple(
    PresetTask(name, type_, subsets=(_ENGLISH.get(name, "default"),))
    for type_, names in _TABLE.items()
    for name in names.split()
)
"""The 32 tasks of "Layer by Layer" (Skean et al. 2025, arXiv 2502.02013), English, test splits."""

PRESETS: dict[str, tuple[PresetTask, ...]] = {"layer-by-layer-32": LAYER_BY_LAYER_32}

SHIPPED: dict[str, str] = {"WordCategoryClustering": "Clustering", "ListCountClassification": "Classification"}
"""The embedding tasks of this package (`tasks.embedding`) and their MTEB types."""

TYPES: dict[str, str] = {task.name: task.type for preset in PRESETS.values() for task in preset} | SHIPPED
"""Task name to MTEB type, for all tasks named here."""
