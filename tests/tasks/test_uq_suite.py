"""The suite: every prompt, target and extraction rule, on invented documents and replies scored by hand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ok, refused
from lm_eval import simple_evaluate
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from tasks import yaml_folder
from tasks.uq_suite import local, suite

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
STEPS = "Answer: Let's think step by step."


def say(what):
    return f'Think step by step. End with "The answer is X.", where X is {what}.\n{STEPS}'


NUMBER, LETTER, YES_NO = say("a number"), say("the letter of an option"), say("yes or no")
TEXT, EXPRESSION = say("a few words"), say("the final expression")
ABCDE = {"label": list("ABCDE"), "text": ["a hat", "a cat ", "a bat", "a rat", "a mat"]}
MMLU = {"question": " Which is even? ", "choices": ["3", "4", "5", "7"], "answer": 1, "subject": "s"}
MMLU_PROMPT = f"Question: Which is even?\n(A) 3\n(B) 4\n(C) 5\n(D) 7\n{LETTER}"
DATE = "Today is 1/2/2003. Tomorrow?\nOptions:\n(A) 01/03/2003\n(B) 02/01/2003"

# One invented document of each task in the columns of its hub set, its prompt and its target.
DOCUMENTS = {
    "uq_gsm8k": ({"question": "Add 999 and 1.", "answer": "999+1=<<999+1=1000>>1000\n#### 1,000"},
                 f"Question: Add 999 and 1.\n{NUMBER}", "1,000"),
    "uq_asdiv": ({"body": "Ann has 3 figs.", "question": "How many figs?", "answer": "3 (figs)", "formula": "3=3"},
                 f"Question: Ann has 3 figs. How many figs?\n{NUMBER}", "3"),
    "uq_bbh_object_counting": ({"input": "I have a cat. How many?", "target": "1"},
                               f"Question: I have a cat. How many?\n{NUMBER}", "1"),
    "uq_bbh_date_understanding": ({"input": DATE, "target": "(A)"}, f"Question: {DATE}\n{LETTER}", "A"),
    "uq_strategyqa": ({"inputs": "Q: Can a cat sing?\nA:", "targets": ["No"], "multiple_choice_targets": ["Yes", "No"],
                       "multiple_choice_scores": [0, 1]}, f"Question: Can a cat sing?\n{YES_NO}", "No"),
    "uq_boolq": ({"passage": "Cats purr.", "question": "do cats purr", "label": 1, "idx": 0},
                 f"Passage: Cats purr.\nQuestion: do cats purr?\n{YES_NO}", "yes"),
    "uq_piqa": ({"goal": "cut bread", "sol1": "use a spoon", "sol2": "use a knife ", "label": 1},
                f"Question: Which of the two serves the goal? cut bread\n(A) use a spoon\n(B) use a knife\n{LETTER}",
                "B"),
    "uq_arc_challenge": ({"id": "x", "question": "Which is wet?", "answerKey": "2",
                          "choices": {"text": ["sand", "rain", "rock"], "label": ["1", "2", "3"]}},
                         f"Question: Which is wet?\n(A) sand\n(B) rain\n(C) rock\n{LETTER}", "B"),
    "uq_openbookqa": ({"question_stem": "It purrs:", "answerKey": "B ",
                       "choices": {"text": ["a dog", "a cat"], "label": ["A", "B"]}},
                      f"Question: It purrs:\n(A) a dog\n(B) a cat\n{LETTER}", "B"),
    "uq_commonsense_qa": ({"question": "It is worn: ", "choices": ABCDE, "answerKey": "A"},
                          f"Question: It is worn:\n(A) a hat\n(B) a cat\n(C) a bat\n(D) a rat\n(E) a mat\n{LETTER}",
                          "A"),
    **{f"uq_mmlu_{s}": (MMLU, MMLU_PROMPT, "B")
       for s in ("elementary_mathematics", "high_school_psychology", "nutrition", "philosophy")},
    "uq_triviaqa": ({"question": "Who wrote Emma?", "answer": {"aliases": ["Jane Austen", "Miss Austen's"]}},
                    f"Question: Who wrote Emma?\n{TEXT}", ["Jane Austen", "Miss Austen's"]),
    "uq_nq_open": ({"question": "who sang yesterday", "answer": ["The Beatles"]},
                   f"Question: who sang yesterday?\n{TEXT}", ["The Beatles"]),
    "uq_math500": ({"problem": "Halve $1$.", "solution": "...", "answer": "\\frac{1}{2}", "subject": "Algebra"},
                   f"Question: Halve $1$.\n{EXPRESSION}", "\\frac{1}{2}"),
}  # fmt: skip

# Replies, and whether they are right under strict-match and flexible-extract. The last of each task states nothing.
REPLIES = {
    "uq_gsm8k": [
        (" 999 + 1 is 1000. The answer is 1000.", 1, 1),
        (" So the answer is **$1,000.00**.", 1, 1),
        (" The answer is \\boxed{1000}", 1, 1),
        (" The answer is 7. No: the answer is 1000.", 1, 1),
        (" The answer is 1000. I checked it 3 times.", 1, 1),
        (" The answer is -1000.", 0, 0),
        (" The answer is 10000.", 0, 0),
        ("**Answer:** 1000", 0, 1),
        (" That makes 1,000 coins in all!", 0, 1),
        (" That makes 1000, of which I spend 5.", 0, 0),
        ("", 0, 0),
        (" I do not know.", 0, 0),
    ],
    "uq_asdiv": [(" The answer is 3 figs.", 1, 1), (" 5-2 = 3.", 0, 1), (" 5-3=-3", 0, 0), (" figs", 0, 0)],
    "uq_bbh_object_counting": [(" The answer is: 1.0", 1, 1), (" one, that is 1", 0, 1), (" 11", 0, 0), (" one", 0, 0)],
    "uq_bbh_date_understanding": [
        (" The answer is (A).", 1, 1),
        (" Not (B), so (A) it is.", 0, 1),
        (" The answer is (B), not (A).", 0, 0),
        (" Tomorrow.", 0, 0),
    ],
    "uq_strategyqa": [
        (" Cats mew. The answer is No.", 1, 1),
        (" The answer is: **no**, it cannot.", 1, 1),
        (" The answer is no. Wait, the answer is yes.", 0, 0),
        (" No, cats have no voice for it.", 0, 1),
        (" Yes. On reflection: No.", 0, 1),
        (" The answer is nobody knows.", 0, 0),
        (" There is no way to say.", 0, 0),
    ],
    "uq_boolq": [(" The answer is yes.", 1, 1), (" Yes", 0, 1), (" The answer is no.", 0, 0), (" maybe", 0, 0)],
    "uq_piqa": [
        (" The answer is B.", 1, 1),
        (" The answer is option two: (B)", 0, 1),
        (" (B)", 0, 1),
        (" B.", 0, 1),
        (" The answer is A.", 0, 0),
        (" The answer is Bread.", 0, 0),
        (" a knife", 0, 0),
    ],
    "uq_arc_challenge": [
        (" The answer is (B) rain.", 1, 1),
        (" The answer is $\\boxed{\\text{B}}$.", 1, 1),
        ("Answer: B", 0, 1),
        (" The answer is 2.", 0, 0),
        (" The answer is b.", 0, 0),
        (" rain", 0, 0),
    ],
    "uq_openbookqa": [(" So the correct answer is **B**.", 1, 1), (" The answer is C.", 0, 0), (" purr", 0, 0)],
    "uq_commonsense_qa": [
        (" The answer is A", 1, 1),
        (" (B)? No, (A)", 0, 1),
        (" The answer is E", 0, 0),
        (" A hat", 0, 0),
    ],
    **{
        f"uq_mmlu_{s}": [(" The answer is (B).", 1, 1), (" 4, so (B)", 0, 1), (" The answer is D.", 0, 0), (" 4", 0, 0)]
        for s in ("elementary_mathematics", "high_school_psychology", "nutrition", "philosophy")
    },
    "uq_triviaqa": [
        (" It was her. The answer is Jane Austen.", 1, 1),
        (' The answer is "jane austen"!', 1, 1),
        (" The answer is Miss Austen's. She wrote it in 1815.", 1, 1),
        (" The answer is the Jane Austen\nof Emma.", 1, 1),
        (" I think of Emma.\nJane Austen.\n", 0, 1),
        (" Emma was written by Jane Austen.", 0, 0),
        (" The answer is Mr. J. Austen.", 0, 0),
        (" The answer is:\n\nJane Austen", 1, 1),
        ("**The answer is:**\n\n**Jane Austen**. She wrote it.", 1, 1),
        (" The answer is :\r\nJane Austen\r\n", 1, 1),
        (" The answer is:\nThe answer is Jane Austen.", 1, 1),
        (" The answer is Jane Austen. Once more, the answer is:\n\n", 1, 1),
        (" The answer is\nJane Austen", 0, 1),
        ("Answer:\nIt was her.\nJane Austen", 0, 1),
        (" ...", 0, 0),
    ],
    "uq_nq_open": [
        (" The answer is: Beatles.", 1, 1),
        ("Answer: The Beatles", 0, 1),
        (" The answer is Abba.", 0, 0),
        ("", 0, 0),
    ],
    "uq_math500": [
        (" The answer is $\\frac{1}{2}$.", 1, 1),
        (" The answer is $\\boxed{\\frac{1}{2}}$. That is all.", 1, 1),
        (" The answer is \\dfrac12", 1, 1),
        (" The answer is **1/2**.", 1, 1),
        ("**The answer is**: $\\frac{1}{2}$", 1, 1),
        (" Thus\n\\[\\boxed{\\frac{1}{2}}\\]\nas asked.", 0, 1),
        (" The answer is 2.", 0, 0),
        (" The answer is \\boxed{\\frac{1}{2", 0, 0),
        (" The answer is:\n$$\\frac{1}{2}$$", 1, 1),
        ("**The answer is:**\n\n$$\n\\frac{1}{2}\n$$\n", 1, 1),
        (" The answer is :\n\\[\n\\boxed{\\frac{1}{2}}\n\\]", 1, 1),
        (" The answer is:\nSo the answer is $1/2$.", 1, 1),
        (" The answer is\n$1/2$", 0, 0),
        (" It halves.", 0, 0),
    ],
}  # fmt: skip


class Replies(LM):
    """Says what is prescribed for each document, and keeps the prompts and settings."""

    def __init__(self, replies):
        super().__init__()
        self.replies, self.seen = replies, {}

    def generate_until(self, requests, **_):
        self.seen |= {(r.task_name, r.doc_id): r.args for r in requests}
        return [self.replies[r.task_name][r.doc_id] for r in requests]

    def loglikelihood(self, requests, **_):
        raise AssertionError("the suite generates")

    loglikelihood_rolling = loglikelihood


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    """lm-eval's results on the documents above, each as often as it has replies, and the model that was asked."""
    data, out = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("out")
    for task, (document, _, _) in DOCUMENTS.items():
        (data / f"{task}.jsonl").write_text((json.dumps(document) + "\n") * len(REPLIES[task]))
    local(data, out)
    manager = TaskManager(include_path=str(out), include_defaults=False)
    model = Replies({f"{task}_local": [reply for reply, _, _ in said] for task, said in REPLIES.items()})
    done = simple_evaluate(
        model=model, tasks=["uq_suite_local"], task_manager=manager, bootstrap_iters=0, verbosity="ERROR"
    )
    return done, model


def test_the_documents_are_those_of_all_tasks():
    assert set(DOCUMENTS) == set(REPLIES) == set(suite())


@pytest.mark.parametrize("task", sorted(DOCUMENTS))
def test_prompt_and_target(judged, task):
    done, model = judged
    _, prompt, target = DOCUMENTS[task]
    text, settings = model.seen[f"{task}_local", 0]
    assert text == prompt
    assert settings["until"] == ["\nQuestion:"] and settings["do_sample"] is False
    assert settings["max_gen_toks"] == (1024 if task == "uq_math500" else 512)
    assert {repr(sample["target"]) for sample in done["samples"][f"{task}_local"]} == {repr(target)}


@pytest.mark.parametrize("task", sorted(DOCUMENTS))
@pytest.mark.parametrize(("filter_", "place"), [("strict-match", 1), ("flexible-extract", 2)])
def test_replies_are_judged_as_by_hand(judged, task, filter_, place):
    done, _ = judged
    samples = {s["doc_id"]: s for s in done["samples"][f"{task}_local"] if s["filter"] == filter_}
    found = [(said[0], samples[i]["exact_match"], samples[i]["filtered_resps"]) for i, said in enumerate(REPLIES[task])]
    assert [(reply, score) for reply, score, _ in found] == [(said[0], said[place]) for said in REPLIES[task]], found
    by_hand = sum(said[place] for said in REPLIES[task]) / len(REPLIES[task])
    assert done["results"][f"{task}_local"][f"exact_match,{filter_}"] == pytest.approx(by_hand)


@pytest.mark.parametrize(("filter_", "place"), [("strict-match", 1), ("flexible-extract", 2)])
def test_the_group_counts_each_task_the_same(judged, filter_, place):
    done, _ = judged
    scores = [sum(said[place] for said in replies) / len(replies) for replies in REPLIES.values()]
    assert done["groups"]["uq_suite_local"][f"exact_match,{filter_}"] == pytest.approx(sum(scores) / len(scores))


def test_extraction_takes_no_long_time():
    """Regular expressions can take a time that explodes with the length of a reply that they do not fit."""
    from time import process_time

    hard = ["answer is " * 400, "x " * 2000, "(" * 4000, "1-" * 2000, "a.\n" * 1500, "*" * 4000, "No " * 1300]
    hard += [f"answer is{filling * 2000}" for filling in (":", ": ", ":\n", "\n", "*")] + ["answer is:\n" * 400]
    patterns = {
        (file.name, found.replace("''", "'"))
        for file in (yaml_folder() / "uq_suite").glob("*_yaml")
        for found in re.findall("regex_pattern: '(.*)'", file.read_text(encoding="utf-8"))
    }
    assert len(patterns) == 10
    for name, pattern in sorted(patterns):
        for text in hard:
            start = process_time()
            re.compile(pattern).findall(text)
            assert process_time() - start < 1, (name, pattern, text[:20])


NO_NETWORK = """
import json, socket, sys
def refuse(*_): raise OSError("listing the tasks must not go to the network")
socket.socket.connect = refuse
from lm_eval.tasks import TaskManager
manager = TaskManager(include_path=sys.argv[1], include_defaults=False)
print(json.dumps({n: sorted(manager.match_tasks([n])) for n in sys.argv[2:]} | {"all": sorted(
    n for n in manager.all_tasks if n.startswith("uq_"))}))
"""


def test_lm_eval_knows_the_suite_by_name_without_a_network(tmp_path):
    tags = ["uq_number", "uq_letter", "uq_yes_no", "uq_text", "uq_expression"]
    run = subprocess.run(
        [sys.executable, "-c", NO_NETWORK, str(yaml_folder()), "uq_suite"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["uq_suite"] == ["uq_suite"]
    assert set(found["all"]) == {*suite(), *tags, "uq_suite", "uq_mmlu"}


def test_hub_sets_are_those_of_tasks_that_lm_eval_ships():
    """No hub is asked: set, configuration, split and version of the columns are as lm-eval's own tasks name them."""
    import lm_eval.tasks

    theirs = "\n".join(
        path.read_text(encoding="utf-8", errors="replace")
        for name in ("gsm8k", "asdiv", "bbh", "bigbench", "super_glue/boolq", "piqa", "arc", "openbookqa",
                     "commonsense_qa", "mmlu/default", "triviaqa", "nq_open", "hendrycks_math")
        for path in sorted((Path(lm_eval.tasks.__file__).parent / name).rglob("*yaml"))
    )  # fmt: skip
    for task, file in suite().items():
        text = file.read_text(encoding="utf-8")
        for key, value in re.findall(r"^(dataset_path|dataset_name): (\S+)$", text, re.M):
            assert re.search(rf'^"?{key}"?: "?{re.escape(value)}"?$', theirs, re.M), (task, key, value)


# Local files.


def test_published_files_are_read_as_the_hubs_rows(tmp_path):
    data = tmp_path / "data"
    for name, text in {
        "gsm8k/test.jsonl": json.dumps({"question": "q\u2028r", "answer": "#### 2"}, ensure_ascii=False) + "\n\n",
        "piqa/valid.jsonl": '{"goal": "g", "sol1": "1", "sol2": "2"}\n{"goal": "h", "sol1": "3", "sol2": "4"}\n',
        "piqa/valid-labels.lst": "1\n0\n",
        "strategyqa/dev.json": '[{"question": "q?", "answer": true, "facts": []}]',
        "bbh/date_understanding.json": '{"canary": "c", "examples": [{"input": "i", "target": "(B)"}]}',
    }.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_text(text, encoding="utf-8")
    out = tmp_path / "out"
    names = local(data, out)
    rows = {
        name: [json.loads(x) for x in (out / f"{name}.jsonl").read_text("utf-8").split("\n")[:-1]] for name in names
    }
    assert rows == {
        "uq_bbh_date_understanding_local": [{"input": "i", "target": "(B)"}],
        "uq_gsm8k_local": [{"question": "q\u2028r", "answer": "#### 2"}],
        "uq_piqa_local": [
            {"goal": "g", "sol1": "1", "sol2": "2", "label": 1},
            {"goal": "h", "sol1": "3", "sol2": "4", "label": 0},
        ],
        "uq_strategyqa_local": [
            {"inputs": "Q: q?\nA:", "targets": ["Yes"], "multiple_choice_targets": ["Yes", "No"],
             "multiple_choice_scores": [1, 0]},
        ],
    }  # fmt: skip
    (data / "piqa" / "valid.jsonl").unlink()
    assert "uq_piqa_local" not in local(data, out) and not list(out.glob("uq_piqa*"))  # an earlier call's are gone


def test_a_file_that_is_not_what_its_name_says(tmp_path):
    (tmp_path / "piqa").mkdir()
    (tmp_path / "piqa" / "valid.jsonl").write_text('{"goal": "g"}\n')
    (tmp_path / "piqa" / "valid-labels.lst").write_text("")
    with pytest.raises(ValueError, match=r"valid\.jsonl is not in the form .*1 questions, but 0 labels"):
        local(tmp_path, tmp_path / "out")
    (tmp_path / "uq_piqa.jsonl").write_text("no json\n")
    with pytest.raises(ValueError, match=r"uq_piqa\.jsonl is not in the form"):
        local(tmp_path, tmp_path / "out")


def test_the_command(tmp_path):
    (tmp_path / "uq_gsm8k.jsonl").write_text('{"question": "q", "answer": "#### 1"}\n')
    done = ok("tasks", "--local", tmp_path, "--out", tmp_path / "out")
    assert done.stdout == f"{tmp_path / 'out'}\n"
    assert done.stderr == "wrote uq_suite_local: uq_gsm8k_local\n"
    assert ok("tasks").stdout == f"{yaml_folder()}\n"
    (tmp_path / "empty").mkdir()
    refused("tasks", "--local", tmp_path / "empty", says="holds no file of the suite; put one of these there: uq_arc")


@pytest.mark.skipif(not DATA.is_dir(), reason=f"{DATA} is absent")
def test_real_sets(tmp_path):
    local(DATA, tmp_path)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    right = {
        "uq_gsm8k_local": lambda d: d["answer"].split("#### ")[1],
        "uq_strategyqa_local": lambda d: "No" if d["multiple_choice_scores"][0] == 0 else "Yes",
        "uq_piqa_local": lambda d: f"({'AB'[d['label']]})",
        "uq_bbh_object_counting_local": lambda d: d["target"],
    }

    class Right(Replies):
        def generate_until(self, requests, **_):
            return [f" So it goes. The answer is {right[r.task_name](r.doc)}." for r in requests]

    done = simple_evaluate(
        model=Right({}), tasks=["uq_suite_local"], task_manager=manager, bootstrap_iters=0, log_samples=False, limit=40
    )
    assert set(done["results"]) == {*right, "uq_suite_local"}
    for task in right:
        for filter_ in ("strict-match", "flexible-extract"):
            assert done["results"][task][f"exact_match,{filter_}"] == 1.0
