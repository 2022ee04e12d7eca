"""Read the shipped counting items for lm-eval: no hub, no cache, no dependence on the working directory.

The YAML files beside this one name `counting_docs.load`; lm-eval loads the module from its file, so another
package called `tasks` on the path does no harm.
"""

import json
from pathlib import Path
from typing import Any

import datasets

FILE = Path(__file__).resolve().parent.parent / "counting" / "test.jsonl"


def load(**_metadata: Any) -> dict[str, datasets.Dataset]:
    """Return the test split; each doc is a row of `tasks.counting.generator.row`, with what makes it hard.

    lm-eval passes the task's metadata, of which nothing is needed here.
    """
    rows = [json.loads(line) for line in FILE.read_text(encoding="ascii").splitlines()]
    return {"test": datasets.Dataset.from_list(rows)}
