"""Run by a launcher of several processes: evaluations that share one store. Arguments: the demo model, a folder.

1. 7 documents of three kinds of requests into STORE `new`;
2. the same store resumed with 11 documents, after the second process's shards are gone;
3. STORE `single` resumed, which one process has begun;
4. a store that exists already is refused in every process.
"""

import json
import os
import sys
from pathlib import Path

import lm_eval
import torch
from datasets import Dataset
from lm_eval.tasks import TaskManager

from lm_eval_ext.model import HFStoreLM
from metrics.store import open_store
from tasks import yaml_folder

torch.set_num_threads(1)
SIGNALS = "all"
TEXTS = [{"text": "A list: " + "apple, " * (3 + 9 * i)} for i in range(12)]
ROLLING = {
    "task": "toy_rolling",
    "output_type": "loglikelihood_rolling",
    "custom_dataset": lambda **_: {"test": Dataset.from_list(TEXTS)},
    "test_split": "test",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "word_perplexity"}],
    "metadata": {"version": 1.0},
}


def evaluate(lm, limit):
    """Scores of the three tasks; None but in the first process."""
    manager = TaskManager(include_path=str(yaml_folder()), include_defaults=False)
    found = lm_eval.simple_evaluate(
        model=lm,
        tasks=["counting_gen", "counting_mc", ROLLING],
        limit=limit,
        batch_size=None,
        bootstrap_iters=0,
        task_manager=manager,
    )
    results = found["results"] if found else {}
    numbers = {task: {k: v for k, v in s.items() if "," in k and isinstance(v, float)} for task, s in results.items()}
    return numbers or None


def record(model, store, limit, mode="new"):
    """One run of this process, alone or among others; its model is closed."""
    lm = HFStoreLM(model, store=store, store_mode=mode, signals=SIGNALS, device="cpu", batch_size=4, max_length=64)
    scores = evaluate(lm, limit)
    served = lm.recorder.served
    lm.close()
    return {"rank": lm.rank, "ranks": lm.world_size, "scores": scores, "served": served}


def main(model, folder):
    rank = int(os.environ["RANK"])
    barrier = torch.distributed.barrier
    said = [record(model, folder / "new", 7)]
    barrier()
    if rank == 0:
        said.append({"records": len(open_store(folder / "new"))})
        for path in (folder / "new" / "shards").glob("r1-*"):
            path.unlink()
    barrier()
    said.append(record(model, folder / "new", 11, "resume"))
    said.append(record(model, folder / "single", 11, "resume"))
    barrier()
    try:
        record(model, folder / "new", 7)
    except FileExistsError as problem:
        said.append({"refused": str(problem)})
    (folder / f"said-{rank}.json").write_text(json.dumps(said))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
