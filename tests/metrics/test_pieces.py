import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models

from metrics.pieces import NoTokenizer, alone, find_tokenizer, open_tokenizer, pieces, spells

WORDS = ["<s>", "▁Hi", "▁there", "!", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "\n", "שלום", "<b>&"]


@pytest.fixture
def file(tmp_path):
    """A tokenizer with word marks and byte fallback, as Llama's is."""
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<s>"))
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    path = tmp_path / "tokenizer.json"
    path.write_text(made.to_str())
    return path


@pytest.mark.parametrize(
    ("ids", "texts"),
    [
        ([], []),
        ([1], ["Hi"]),
        ([1, 2, 3], ["Hi", " there", "!"]),
        ([0, 1, 4, 5, 6, 7, 3], ["<s>", " Hi", "", "", "", "😀", "!"]),
        ([8, 9, 10], ["\n", "שלום", "<b>&"]),
    ],
)
def test_pieces_stand_where_their_characters_end(file, ids, texts):
    decode, _ = open_tokenizer(file)
    assert pieces(ids, decode) == texts
    assert "".join(texts) == decode(ids)


def test_a_character_that_stays_broken_is_shown_as_such(file):
    decode, _ = open_tokenizer(file)
    assert "\ufffd" in "".join(pieces([1, 4, 5], decode)) and len(pieces([1, 4, 5], decode)) == 3
    assert pieces([1, 4, 2], decode)[2].endswith(" there")


def test_single_tokens_keep_their_space_and_half_characters_their_name(file):
    decode, entry = open_tokenizer(file)
    assert alone([2, 3, 4, 2], 1, decode, entry) == {2: " there", 3: "!", 4: "<0xF0>"}


def test_a_foreign_tokenizer_does_not_spell_the_answer(file):
    decode, _ = open_tokenizer(file)
    assert spells([1, 2], "Hi  there\n", decode) and spells([1], [-1.0, False], decode)
    assert not spells([1, 2], "Bye", decode)


def test_an_answer_is_spelled_with_the_special_tokens_in_it_or_without(tmp_path, file):
    """A host that skips special tokens records an answer that holds none, also where one was generated in its midst."""
    made = Tokenizer.from_file(str(file))
    made.add_special_tokens(["<s>"])
    made.save(str(tmp_path / "special.json"))
    decode, _ = open_tokenizer(tmp_path / "special.json")
    ids = [1, 0, 2, 3]
    assert decode(ids) == "Hi<s> there!" and decode(ids, special=False) == "Hi there!"
    assert spells(ids, "Hi there!", decode) and spells(ids, "Hi<s> there!", decode)
    assert not spells(ids, "Hi there you!", decode)
    assert pieces(ids, decode) == ["Hi", "<s>", " there", "!"]


def test_the_models_folder_is_looked_in_first_and_a_path_given_alone(file, tmp_path):
    assert find_tokenizer({"model": str(tmp_path)}) == file
    assert find_tokenizer({"model": "elsewhere"}, tmp_path) == find_tokenizer({"model": "x"}, file) == file


@pytest.mark.parametrize("model", ["nobody/nothing-here", "/no/such/folder", "not a name of a hub!"])
def test_without_a_tokenizer_one_line_says_what_to_give(model):
    with pytest.raises(NoTokenizer, match="--tokenizer"):
        find_tokenizer({"model": model, "revision": "main"})


@pytest.mark.parametrize("content", ["", "{}", "[1", json.dumps({"model": {}})])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    broken = tmp_path / "tokenizer.json"
    broken.write_text(content)
    with pytest.raises(NoTokenizer, match=r"is not a tokenizer\.json"):
        open_tokenizer(broken)
    with pytest.raises(NoTokenizer, match="does not exist"):
        find_tokenizer({"model": "x"}, Path("/no/such/folder"))
