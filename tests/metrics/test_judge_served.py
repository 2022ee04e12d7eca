"""`eval-ext judge` against `transformers serve`: an endpoint that is not ours, with a tiny random chat model."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from importlib.util import find_spec

import pytest
import torch
import transformers
from commands import ok
from judging import logged, write_log
from tokenizers import Tokenizer, models, pre_tokenizers

MISSING = [name for name in ("fastapi", "uvicorn", "openai") if find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"transformers serve needs {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    words = ["<pad>", "<eos>", "yes", "no"]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<pad>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<pad>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {
        "vocab_size": 4,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    config = transformers.LlamaConfig(**size, max_position_embeddings=512, eos_token_id=1, pad_token_id=0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def served(chat, tmp_path_factory):
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(chat), "--host", "127.0.0.1"]
    log = tmp_path_factory.mktemp("served") / "log.txt"
    with log.open("w") as out:
        options = {"stdout": out, "stderr": out, "env": {**os.environ, "HF_HUB_OFFLINE": "1"}}
        process = subprocess.Popen([*command, "--port", str(port), "--device", "cpu"], **options)
    try:
        for _ in range(300):
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        else:
            pytest.fail(f"transformers serve did not start: {log.read_text()[-2000:]}")
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(20)


def test_every_answer_is_judged_and_kept(served, chat, tmp_path):
    write_log(tmp_path / "out", [line for i in range(6) for line in logged(i, str(i))])
    given = (
        "judge",
        tmp_path / "out",
        "--endpoint",
        served,
        "--model",
        chat,
        "--out",
        tmp_path / "labels.jsonl",
        "--yes",
    )
    first = ok(*given, "--max-tokens", 4, "--workers", 2)
    kept = [json.loads(line) for line in (tmp_path / "labels.cache.jsonl").read_text().splitlines()]
    assert len(kept) == 6
    assert all(row["prompt_tokens"] > 0 and row["completion_tokens"] <= 4 for row in kept)
    labels = (tmp_path / "labels.jsonl").read_text()
    unclear = 6 - len(labels.splitlines())
    assert (f"{unclear} documents without a label, the reply says neither" in first.stderr) == (unclear > 0)
    assert "0 calls" in ok(*given, "--max-tokens", 4).stderr
    assert (tmp_path / "labels.jsonl").read_text() == labels
