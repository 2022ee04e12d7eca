"""Small tokenizers of every kind that spells its tokens in its own way, built without a hub."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<bos>", "<eos>", "<unk>", "<pad>", "<|end|>"]
THINK = "</think>"
CORPUS = ["4) is it.\n\nQ: a 4)\n\nThe answer, 44).\n", "do n't, it 's 4 .\n", "né 😀 中文 ह़ e\u0301 a  b"] * 4


def byte_level(**options):
    """GPT-2's kind, with merges across words and lines, so that stop strings lie inside tokens."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=sorted(alphabet), special_tokens=SPECIAL, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    return _finished(backend, **options)


def byte_fallback():
    """Llama's kind: pieces with a mark for the space, a token for each byte of other characters, a space stripped."""
    chars = ["▁", "\n", ")", ".", *"abdeiost4Q:"]
    merges = [("▁", "a"), ("▁", "4"), (")", "."), ("a", "b"), ("\n", "\n"), ("4", ")")]
    names = [*SPECIAL, *(f"<0x{i:02X}>" for i in range(256)), *chars, *("".join(m) for m in merges)]
    backend = Tokenizer(
        models.BPE({n: i for i, n in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _finished(backend, bos=True)


def metaspace():
    """T5's kind: the space of the first token is not shown."""
    pieces = ["▁", "▁a", "▁4", "▁answer", "a", "b", "4", ")", ".", "\n", "▁)", "é", "中", "😀", "\u0301", "▁▁"]
    scores = [(s, 0.0) for s in SPECIAL] + [(p, -float(i + 1)) for i, p in enumerate(pieces)]
    backend = Tokenizer(models.Unigram(scores, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    return _finished(backend)


def wordpiece():
    """BERT's kind: words joined by spaces, those before punctuation and short forms removed."""
    words = [
        "4",
        ")",
        ".",
        ",",
        "the",
        "answer",
        "##s",
        "##44",
        "n't",
        "'s",
        "do",
        "##é",
        "中",
        "a",
        "b",
        "?",
        "'",
        "re",
    ]
    backend = Tokenizer(models.WordPiece({w: i for i, w in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece(cleanup=True)
    return _finished(backend)


def word_level():
    """Whole words, joined by spaces."""
    words = [*(f"w{i}" for i in range(20)), "4", ")", "the"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, *words])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _finished(backend)


KINDS = {
    "byte level": byte_level,
    "byte level, cleaned": lambda: byte_level(
        clean_up_tokenization_spaces=True,
        clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output=True,
    ),
    "byte fallback": byte_fallback,
    "metaspace": metaspace,
    "wordpiece": wordpiece,
    "word level": word_level,
}


def _finished(backend, *, bos=False, **options):
    backend.add_special_tokens(SPECIAL)
    backend.add_tokens([AddedToken(THINK, normalized=False, special=False)])
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<|end|>"],
        model_max_length=64,
        **options,
    )
