"""Three MTEB tasks with made-up sentences for `benchmarks/sweep.py`: pairs, classes, clusters."""

from __future__ import annotations

import random
from typing import Any

import mteb
from datasets import Dataset, DatasetDict

WORDS = 5000


def sentences(rng: random.Random, count: int, topic: int | None = None) -> list[str]:
    """Sentences of 5 to 40 words; those of a topic share a part of their words."""
    made = []
    for _ in range(count):
        own = [f"w{rng.randrange(WORDS)}" for _ in range(rng.randrange(5, 40))]
        made.append(" ".join(f"w{topic * 50 + rng.randrange(50)}" if topic and rng.random() < 0.5 else w for w in own))
    return made


class Made:
    """Data in memory in the columns of the parent task."""

    def load_data(self, **_: Any) -> None:
        if not self.data_loaded:
            self.dataset = DatasetDict({k: Dataset.from_dict(v) for k, v in self.columns(random.Random(0)).items()})
            self.data_loaded = True


class Pairs(Made, type(mteb.get_task("STSBenchmark"))):
    """2,000 pairs of sentences."""

    def columns(self, rng: random.Random) -> dict[str, Any]:
        first = sentences(rng, 2000)
        second = [" ".join(rng.sample(text.split(), len(text.split()) // 2)) for text in first]
        return {"test": {"sentence1": first, "sentence2": second, "score": [rng.random() * 5 for _ in first]}}


class Classes(Made, type(mteb.get_task("EmotionClassification"))):
    """Six classes, 2,000 texts to classify."""

    def columns(self, rng: random.Random) -> dict[str, Any]:
        def split(count: int) -> dict[str, Any]:
            labels = [i % 6 for i in range(count)]
            return {"text": [sentences(rng, 1, topic=label + 1)[0] for label in labels], "label": labels}

        return {"train": split(1200), "test": split(2000)}


class Clusters(Made, type(mteb.get_task("TwentyNewsgroupsClustering"))):
    """Five sets of 400 sentences in ten clusters."""

    def columns(self, rng: random.Random) -> dict[str, Any]:
        sets = [[i % 10 for i in range(400)] for _ in range(5)]
        texts = [[sentences(rng, 1, topic=label + 1)[0] for label in labels] for labels in sets]
        return {"test": {"sentences": texts, "labels": [[str(label) for label in labels] for labels in sets]}}
