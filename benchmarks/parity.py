"""Are the results of hf-store those of hf? One row a task, on real data and two trained models.

    python benchmarks/parity.py [--limit 12] [--shared ../shared]

Prints a markdown table: the task, what is asked, lm-eval's main score by hf and by hf-store, the samples whose logged
lines are equal, whether the result files are, and how many records there are for how many answers. Times and paths, and
the store's own entry, are taken out before the comparison.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import lm_eval
import torch
import transformers
import yaml
from lm_eval.loggers import EvaluationTracker
from lm_eval.tasks import TaskManager

from metrics.store import open_store
from tasks import yaml_folder
from tasks.counting import demo_model_folder

ROOT = Path(__file__).resolve().parents[1]
OURS = ("hf_store", "model", "model_args", "model_source", "date", "start_time", "end_time", "git_hash")
OURS += ("total_evaluation_time_seconds", "model_name", "model_name_sanitized")

EXACT = [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}]
ACC = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
NUMBER = [{"name": "number", "filter": [{"function": "regex", "regex_pattern": r"(\d+)"}, {"function": "take_first"}]}]


def greedy(*until: str, tokens: int = 32, **more: object) -> dict[str, object]:
    return {"generation_kwargs": {"until": list(until), "max_gen_toks": tokens, "do_sample": False, **more}}


def tasks(shared: Path, folder: Path) -> dict[str, str]:
    """Write one YAML file a task over the shared data; returns what is asked, by task."""
    data = shared / "data"
    piqa = [json.loads(line) for line in (data / "piqa/valid.jsonl").read_text().splitlines()]
    labels = (data / "piqa/valid-labels.lst").read_text().split()
    rewritten = folder / "piqa.jsonl"
    rewritten.write_text("\n".join(json.dumps({**p, "label": int(n)}) for p, n in zip(piqa, labels)))
    gsm = {"output_type": "generate_until", "doc_to_text": "Question: {{question}}\nAnswer:"}
    gsm |= {"doc_to_target": "{{answer.split('####')[-1].strip()}}", "filter_list": NUMBER, "metric_list": EXACT}
    strategy = {"doc_to_text": "Question: {{question}}\nAnswer:"}
    mutual = [*ACC, {"metric": "acc_mutual_info", "aggregation": "mean", "higher_is_better": True}]
    normed = [*ACC, {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True}]
    rolling = [{"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False}]
    last = [*ACC, {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}]
    made = {
        "gsm8k_greedy": (
            "gsm8k/test.jsonl",
            "generation, stop list, left truncation",
            {**gsm, **greedy("Question:", "\n\n", tokens=400)},
        ),
        "gsm8k_fewshot": (
            "gsm8k/test.jsonl",
            "generation, 2 shots",
            {**gsm, **greedy("Question:", "."), "num_fewshot": 2, "fewshot_split": "test"},
        ),
        "gsm8k_sampled": (
            "gsm8k/test.jsonl",
            "sampling, 3 repeats",
            {**gsm, **greedy("\n", tokens=16, do_sample=True, temperature=1.0), "repeats": 3},
        ),
        "piqa": (
            str(rewritten),
            "options of many tokens",
            {
                "output_type": "multiple_choice",
                "doc_to_text": "Question: {{goal}}\nAnswer:",
                "doc_to_target": "label",
                "doc_to_choice": "{{[sol1, sol2]}}",
                "metric_list": normed,
            },
        ),
        "lambada": (
            "lambada/lambada_test_400.jsonl",
            "log-likelihood of the last word",
            {
                "output_type": "loglikelihood",
                "doc_to_text": "{{text.split(' ')[:-1]|join(' ')}}",
                "doc_to_target": "{{' '+text.split(' ')[-1]}}",
                "target_delimiter": "",
                "metric_list": last,
            },
        ),
        "lambada_rolling": (
            "lambada/lambada_test_400.jsonl",
            "rolling perplexity",
            {
                "output_type": "loglikelihood_rolling",
                "doc_to_text": "",
                "doc_to_target": "{{text}}",
                "metric_list": rolling,
            },
        ),
        "strategyqa": (
            "strategyqa/dev.json",
            "two options, mutual information",
            {
                **strategy,
                "output_type": "multiple_choice",
                "doc_to_target": "{{answer|int}}",
                "doc_to_choice": ["no", "yes"],
                "metric_list": mutual,
            },
        ),
        "strategyqa_generated": (
            "strategyqa/dev.json",
            "generation to a full stop",
            {
                **strategy,
                **greedy(".", "\n"),
                "output_type": "generate_until",
                "doc_to_target": "{{'yes' if answer else 'no'}}",
                "metric_list": EXACT,
            },
        ),
    }
    for name, (file, _, config) in made.items():
        files = {"test": file if Path(file).is_absolute() else str(data / file)}
        whole = {"task": name, "dataset_path": "json", "test_split": "test", "metadata": {"version": 1.0}, **config}
        whole["dataset_kwargs"] = {"data_files": files, "cache_dir": str(folder / "cache")}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    return {name: what for name, (_, what, _) in made.items()}


def run(model: str, pretrained: str, chosen: list[str], manager: TaskManager, out: Path, limit: int) -> Path:
    """Evaluate into files; returns the folder that holds them."""
    arguments = {"pretrained": pretrained}
    if model == "hf-store":
        arguments["store"] = str(out / "store")
    tracker = EvaluationTracker(output_path=str(out / model))
    results = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=chosen,
        device="cpu",
        batch_size=8,
        limit=limit,
        bootstrap_iters=0,
        task_manager=manager,
        evaluation_tracker=tracker,
    )
    samples = results.pop("samples")
    tracker.save_results_aggregated(results=results, samples=samples)
    for task in results["configs"]:
        tracker.save_results_samples(task_name=task, samples=samples[task])
    return out / model


def clean(value: object) -> object:
    """Without times, paths of functions in memory and the store's own entry."""
    if isinstance(value, dict):
        return {k: clean(v) for k, v in value.items() if k not in OURS}
    if isinstance(value, list):
        return [clean(v) for v in value]
    return re.sub(r" at 0x[0-9a-f]+", "", value) if isinstance(value, str) else value


def rows(name: str, pretrained: str, asked: dict[str, str], manager: TaskManager, limit: int) -> list[list[str]]:
    """One row a task for one model."""
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        folders = [run(m, pretrained, list(asked), manager, out, limit) for m in ("hf", "hf-store")]
        files = [json.loads(next(f.rglob("results_*.json")).read_text()) for f in folders]
        entries = open_store(out / "store").entries()
        same_file = "equal" if clean(files[0]) == clean(files[1]) else "DIFFERENT"
        made = []
        for task, what in asked.items():
            lines = [next(f.rglob(f"samples_{task}_2*.jsonl")).read_text().splitlines() for f in folders]
            equal = sum(a == b for a, b in zip(*lines))
            metric = next(k for k in files[0]["results"][task] if "," in k and "stderr" not in k)
            scores = [f"{f['results'][task][metric]:.6g}" for f in files]
            answers = sum(len(r) for line in lines[0] for r in json.loads(line)["resps"])
            records = sum(key.task == task for key in entries)
            same = [f"{equal} of {max(map(len, lines))}", same_file, f"{records} of {answers}"]
            made.append([name, task, what, metric.split(",")[0], *scores, *same])
        return made


def alike(row: list[str]) -> bool:
    """Whether a row shows no difference."""
    (same, lines), (records, answers) = (row[i].split(" of ") for i in (6, 8))
    return row[4] == row[5] and row[7] == "equal" and same == lines and records == answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=12, help="documents a task")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder with data/ and models/")
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(2)
    counting = {"counting_gen": "generation to a stop", "counting_mc": "eleven options that share rows"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        asked = {}
        if (given.shared / "data").is_dir():
            asked = tasks(given.shared.resolve(), folder)
        else:
            print(f"{given.shared} holds no data/, so only the shipped tasks are compared", file=sys.stderr)
        manager = TaskManager(include_path=[str(folder), str(yaml_folder())], include_defaults=False)
        table = rows("counting", str(demo_model_folder()), counting, manager, given.limit)
        stories = given.shared.resolve() / "models/stories260k"
        if asked and stories.is_dir():
            table += rows("stories260k", str(stories), {**counting, **asked}, manager, given.limit)
    head = ["model", "task", "asked", "metric", "hf", "hf-store", "equal samples", "result file", "records of answers"]
    print("\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *table]))
    if not all(alike(row) for row in table):
        raise SystemExit("hf-store differs from hf")


if __name__ == "__main__":
    main()
