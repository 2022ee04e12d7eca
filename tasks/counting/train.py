"""Train the shipped counting model: a Llama of 4 layers, width 64 and 293k parameters, in about a CPU minute.

`python -m tasks.counting.train --out DIR` reproduces `tasks/counting/model/`: the same bytes on one machine
and torch build, elsewhere the same accuracy to .02 and the same causes of error. Three things make that so:

- **deep supervision**: a throw-away linear head on the residual stream after layer 1 says of each list word
  whether it belongs to the asked category. Without it the loss rests on a plateau whose end moves with the
  seed;
- **a fixed number of steps on one thread**, so that neither the clock nor the load decides what is learnt;
- **errors by design, not by undertraining**: one word in twenty per category is never shown and lists stop at
  8 words.

The model also learns to close the bracket and stop, so that `generate_until` ends by itself.
"""

import json
import random
from collections.abc import Sequence
from math import cos, pi
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn import functional as F
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tasks.counting import shipped_test_set
from tasks.counting.generator import CAUSES, LONGEST, SHORTEST, TRAINED_LENGTH, Item, draw, read
from tasks.counting.words import CATEGORIES

BATCH, RATE, WARM_UP, SKEW = 64, 2e-3, 50, 1.0
"""Lists a step, top learning rate, steps of warm-up, Zipf exponent of the words of a category."""

WIDTH, HEADS = 64, 4
FIRST_WORD = 7
"""Position of the first list word, after `<s> Type : fruits List : [`."""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer: every word, number and mark is one token, and `<s>` comes first.

    Decoding a prompt gives the prompt back, line breaks and brackets in their places.
    """
    specials = ["<pad>", "<s>", "</s>", "<unk>"]
    marks = ["Type", "List", "Answer", ":", "[", "]", "(", ")"]
    numbers = [str(number) for number in range(LONGEST + 1)]
    words = [word for words in CATEGORIES.values() for word in words]
    vocabulary = {token: i for i, token in enumerate([*specials, *marks, *numbers, *CATEGORIES, *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", vocabulary["<s>"])]
    )
    spacing = {
        "[ ": "[",
        "( ": "(",
        " ]": "]",
        " )": ")",
        " :": ":",
        " List:": "\nList:",
        " Answer:": "\nAnswer:",
    }
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.WordPiece(prefix="##", cleanup=False),
            decoders.Fuse(),
            *(decoders.Replace(before, after) for before, after in spacing.items()),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, *, layers: int = 4) -> LlamaForCausalLM:
    """Return the untrained model, its weights drawn from torch's global generator."""
    vocabulary = tokenizer.get_vocab()
    pad, bos, eos = vocabulary["<pad>"], vocabulary["<s>"], vocabulary["</s>"]
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            max_position_embeddings=512,
            tie_word_embeddings=False,
            pad_token_id=pad,
            bos_token_id=bos,
            eos_token_id=eos,
        )
    )
    model.generation_config = GenerationConfig(do_sample=False, pad_token_id=pad, bos_token_id=bos, eos_token_id=eos)
    return model


def train(
    *, seed: int = 0, steps: int = 1000, layers: int = 4
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, list[float]]:
    """Train for fixed steps on one thread; return model, tokenizer and the answer loss (nats) of each step.

    Each step sees 64 lists of one length, 3 to 8 words, without the held-out words. The loss is the
    cross-entropy of the answer, plus that of the closing ")" and `</s>`, plus the binary cross-entropy
    of membership read after layer 1. Torch's random state and thread count are left as they were.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            tokenizer = build_tokenizer()
            model = build_model(tokenizer, layers=layers)
            losses = _fit(model, tokenizer, seed, steps)
    finally:
        torch.set_num_threads(threads)
    return model.eval(), tokenizer, losses


@torch.no_grad()
def predict(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, items: Sequence[Item]) -> list[str]:
    """Return the most likely next token for each item, over the whole vocabulary, in the items' order."""
    answers: dict[int, str] = {}
    for length in sorted({len(item.words) for item in items}):
        numbers = [number for number, item in enumerate(items) if len(item.words) == length]
        ids = torch.tensor([tokenizer.encode(items[number].prompt) for number in numbers])
        best = model(ids).logits[:, -1].argmax(-1)
        answers.update(zip(numbers, map(str, tokenizer.convert_ids_to_tokens(best.tolist()))))
    return [answers[number] for number in range(len(items))]


def accuracy_table(items: Sequence[Item], answers: Sequence[str]) -> list[tuple[str, int, float]]:
    """Return (stratum, number of items, share answered rightly) overall, by list length and by cause."""
    right = [answer == str(item.answer) for item, answer in zip(items, answers)]
    strata = {"all": [True] * len(items)}
    for length in sorted({len(item.words) for item in items}):
        strata[f"length {length}"] = [len(item.words) == length for item in items]
    for cause in ("none", *CAUSES, "several"):
        strata[f"cause {cause}"] = [item.cause == cause for item in items]
    table = []
    for name, chosen in strata.items():
        hits = [hit for hit, inside in zip(right, chosen) if inside]
        table.append((name, len(hits), sum(hits) / len(hits) if hits else float("nan")))
    return table


def _fit(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int, steps: int) -> list[float]:
    """Train in place; return the answer loss of each step."""
    membership = torch.nn.Linear(WIDTH, 1)
    parameters = [*model.parameters(), *membership.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    rng = random.Random(seed)
    losses = []
    model.train()
    for _ in range(steps):
        answer, closing, member = _losses(model, membership, *_batch(rng, tokenizer))
        optimizer.zero_grad()
        (answer + closing + member).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(answer.item())
    return losses


def _rate(step: int, steps: int) -> float:
    """Return the share of the top learning rate: linear warm-up, then a cosine down to 5 %."""
    done = max(0.0, (step - WARM_UP) / max(1, steps - WARM_UP))
    return min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.95 * (1 + cos(pi * done)) / 2)


def _batch(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ids [list, token] of solved lists of one length, and membership [list, word] as 0 or 1."""
    length = rng.randint(SHORTEST, TRAINED_LENGTH)
    names = list(CATEGORIES)
    items = [
        draw(rng, rng.choice(names), length, rng.randint(0, length), held_out=False, skew=SKEW) for _ in range(BATCH)
    ]
    ids = tokenizer([f"{item.prompt}{item.answer})</s>" for item in items])["input_ids"]
    member = [[float(word in CATEGORIES[item.category]) for word in item.words] for item in items]
    return torch.tensor(ids), torch.tensor(member)


def _losses(
    model: LlamaForCausalLM, membership: torch.nn.Linear, ids: torch.Tensor, member: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the losses of the answer, of the two closing tokens and of membership after layer 1."""
    output = model(ids[:, :-1], output_hidden_states=True, logits_to_keep=3)
    logits, hidden = output.logits, output.hidden_states[1]
    answer = F.cross_entropy(logits[:, 0], ids[:, -3])
    closing = F.cross_entropy(logits[:, 1:].flatten(0, 1), ids[:, -2:].flatten())
    guess = membership(hidden[:, FIRST_WORD : FIRST_WORD + member.shape[1]]).squeeze(-1)
    return answer, closing, F.binary_cross_entropy_with_logits(guess, member)


def _save(tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Save it under the class name that transformers 4 knows too; transformers 5 writes a name of its own."""
    tokenizer.save_pretrained(out)
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write.")
@click.option("--seed", default=0, show_default=True, help="Seed of the weights and of the lists.")
@click.option("--steps", default=1000, show_default=True, help="Number of training steps.")
def main(out: Path, seed: int, steps: int) -> None:
    """Train the counting model and print its accuracy on the shipped test set.

    The defaults give the shipped model.

    Example: python -m tasks.counting.train --out my_counting_model
    """
    model, tokenizer, losses = train(seed=seed, steps=steps)
    model.save_pretrained(out)
    _save(tokenizer, out)
    click.echo(f"{steps} steps, last answer loss {losses[-1]:.4f} nats -> {out}", err=True)
    items = read(shipped_test_set())
    for stratum, count, accuracy in accuracy_table(items, predict(model, tokenizer, items)):
        click.echo(f"{stratum:24} n {count:5}  accuracy {accuracy:.3f}")


if __name__ == "__main__":
    main()
