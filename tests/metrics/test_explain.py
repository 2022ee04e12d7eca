import base64
import html
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from metrics.explain import Page, Shade, kinds, render, visible, within_budget
from metrics.record import Key, Record, Span

NASTY = [
    "</script><script>alert(1)</script>",
    "\"'&amp;",
    "😀",
    "a\nb",
    "\x1b[0m\x00",
    "שלום",
    "",
    "{{data}}",
    "\ud800",
]


class Reader(HTMLParser):
    """Tags in order, and the text of each token."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.tokens, self.attributes = [], [], []
        self.script = ""
        self.inside = self.data = False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.data = ("type", "application/json") in attrs
        self.inside = tag == "span" and dict(attrs).get("class", "").split()[:1] == ["t"]
        if self.inside:
            self.tokens.append("")

    def handle_endtag(self, tag):
        self.inside = self.data = False

    def handle_data(self, data):
        if self.inside:
            self.tokens[-1] += data
        if self.data:
            self.script += data


def shade(values, name="entropy", rows=("",), first=2, axis=""):
    values = np.asarray(values, dtype=float).reshape(len(rows), -1)
    return Shade(name, "nat", "What <it> is.", axis, rows, first, values)


def page(**given):
    count = len(NASTY)
    made = {
        "title": "t<i>, document 1",
        "facts": [("answer", "<img src=x onerror=alert(1)>")],
        "verdicts": [("acc@none", "wrong")],
        "prompt_count": 2,
        "ids": range(count + 2),
        "texts": ["p", "<q>", *NASTY],
        "kinds": ["answer"] * count,
        "shades": [shade(np.arange(count))],
        "scores": [{"metric": "m(k=<1>)", "score": "1"}],
        "alternatives": np.zeros((count, 1), dtype=int),
        "probabilities": np.full((count, 1), 0.5),
        "words": {0: "</script>"},
    }
    return Page(**{**made, **given})


def unpacked(signal):
    halves = np.frombuffer(base64.b64decode(signal["data"]), dtype="<f2").astype(float)
    return halves.reshape(-1, signal["width"]) * signal["scale"]


def test_nothing_in_an_answer_becomes_markup():
    read = Reader(render(page()))
    assert read.tags.count("script") == 2 and "img" not in read.tags and "i" not in read.tags
    assert not [v for k, v in read.attributes if k.startswith("on") or k in ("src", "href")]
    assert read.tokens[:3] == ["</script><script>alert(1)</script>", "\"'&amp;", "😀"]
    assert read.tokens[3] == "a↵\nb" and read.tokens[4] == "␛[0m␀" and read.tokens[5] == "שלום"
    assert read.tokens[6:8] == ["·", "{{data}}"]
    assert render(page()).encode("utf-8", "replace")


def test_nothing_is_loaded_from_anywhere():
    text = render(page())
    assert "default-src 'none'" in text and "http:" not in text and "https:" not in text and "url(" not in text
    assert "{{" not in text.replace("{{data}}", "")


def test_the_data_come_back_as_they_were():
    data = json.loads(Reader(render(page())).script)
    assert np.array_equal(unpacked(data["signals"][0])[0], np.arange(len(NASTY)))
    assert data["words"] == {"0": "</script>"} and data["p"][0] == [0.5] and data["prompt"] == 2
    assert data["signals"][0]["summary"] == "What <it> is."


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_values_keep_three_digits_whatever_their_range(scale):
    values = np.array([1.0, -0.001, 12345.0, 1e-4, 0.0]) * scale
    found = unpacked(shade(values).packed())[0]
    assert np.allclose(found, values, rtol=5e-4, atol=0)


def test_what_is_no_number_stays_so_and_does_not_stretch_the_colours():
    made = shade([np.nan, np.inf, -np.inf, 3.0, 5.0]).packed()
    assert np.array_equal(unpacked(made)[0], [np.nan, np.inf, -np.inf, 3, 5], equal_nan=True)
    assert (made["low"], made["high"]) == pytest.approx((3.04, 4.96))
    nothing = shade([np.nan, np.nan]).packed()
    assert (nothing["low"], nothing["high"]) == (0, 0) and json.dumps(nothing, allow_nan=False)


def test_colours_span_all_rows():
    made = shade([[0.0, 1.0], [2.0, 100.0]], rows=("0", "4"), axis="layer").packed()
    assert made["rows"] == ["0", "4"] and made["width"] == 2
    assert (made["low"], made["high"]) == pytest.approx(tuple(np.quantile([0, 1, 2, 100], [0.02, 0.98])))


def test_the_prompt_is_one_text_unless_a_signal_colours_it():
    plain, coloured = render(page()), render(page(shades=[shade(range(11), first=0)]))
    assert len(Reader(plain).tokens) == len(NASTY) and len(Reader(coloured).tokens) == len(NASTY) + 2
    assert html.escape("p<q>") in plain


def test_spans_mark_tokens():
    spans = {"thought": Span(0, 2), "answer": Span(2, 3), "generation": Span(0, 4)}
    record = Record(Key("t", 0, 0, 0), "generate_until", 1, 5, spans, "a", "", "", "")
    assert kinds(record) == ["thought", "thought", "answer", "generation", "outside"]


def test_an_answer_without_tokens_signals_or_scores_is_a_page():
    empty = page(texts=["p", "q"], kinds=[], shades=[], scores=(), alternatives=None, probabilities=None, words={})
    assert Reader(render(empty)).tokens == []


def test_a_page_of_256_tokens_and_33_layers_is_small():
    rng = np.random.default_rng(0)
    layered = [
        shade(rng.normal(size=(33, 256)), f"lens_{i}", tuple(map(str, range(33))), 512, "layer") for i in range(12)
    ]
    flat = [shade(rng.normal(size=256), f"token_{i}", first=512) for i in range(20)]
    kept, left = within_budget([*layered, *flat])
    assert len(kept) == 26 and len(left) == 6
    words = [" token"] * (512 + 256)
    made = page(
        prompt_count=512,
        ids=range(768),
        texts=words,
        kinds=["answer"] * 256,
        shades=kept,
        alternatives=rng.integers(0, 128_000, size=(256, 5)),
        probabilities=rng.random((256, 5)),
        words={int(i): " tokens" for i in rng.integers(0, 128_000, size=1280)},
    )
    assert len(render(made).encode()) < 300_000


def test_marks_are_visible():
    assert visible("\r\n\t") == "↵\n⇥\t" and visible("") == "·" and visible("<") == "&lt;"
